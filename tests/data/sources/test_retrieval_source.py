from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hyplearn.data.errors import DatasetError, ProblemsError
from hyplearn.data.reading.images import ImageArrays
from hyplearn.data.sources.retrieval_source import Entry, Part, Place, RetrievalImages, make_index

LIST = Path("list.txt")


def entry(path: str, group: int | str, part: Part, line: int, **options: object) -> Entry:
    return Entry(path, group, part, f"class {group}", Place(LIST, line), **options)  # type: ignore[arg-type]


def test_classes_are_numbered_by_part_and_then_by_group() -> None:
    entries = [
        entry("a", 30, "test", 1),
        entry("b", 9, "train", 2),
        entry("c", 10, "train", 3),
        entry("d", 2, "val", 4),
        entry("e", 9, "train", 5),
    ]
    index = make_index(Path("base"), entries, [])
    assert index.parts["train"].labels.tolist() == [0, 1, 0]
    assert index.parts["val"].labels.tolist() == [2]
    assert index.parts["test"].labels.tolist() == [3]
    assert index.parts["test"].class_names == ("class 9", "class 10", "class 2", "class 30")
    assert index.places["c"] == Place(LIST, 3)
    assert not index.problems


def test_coarser_classes_are_numbered_over_all_parts() -> None:
    entries = [
        entry("a", 1, "train", 1, super_name="zebra"),
        entry("b", 2, "test", 2, super_name="ant"),
        entry("c", 3, "test", 3, super_name="zebra"),
    ]
    test = make_index(Path(), entries, []).parts["test"]
    assert test.super_labels is not None
    assert test.super_labels.tolist() == [0, 1]
    assert test.super_names == ("ant", "zebra")
    assert make_index(Path(), [entry("a", 1, "test", 1)], []).parts["test"].super_labels is None


def test_an_image_named_twice_and_a_class_in_two_parts_are_problems() -> None:
    entries = [
        entry("a", 1, "train", 1),
        entry("b", 1, "test", 2),
        entry("c", 1, "test", 3),
        entry("a", 1, "train", 4),
    ]
    index = make_index(Path(), entries, [])
    assert [str(problem) for problem in index.problems] == [
        "list.txt, line 4: a was named before (list.txt, line 1)",
        "list.txt, line 2: class class 1 is in train and in test, but no class may be in two parts",
    ]
    with pytest.raises(ProblemsError, match=r"(?s)2 of them.*line 4.*line 2.*hyplearn data verify mine"):
        index.need("train", "mine")


def test_a_part_without_images_is_an_error_that_says_what_is_there() -> None:
    index = make_index(Path("base"), [entry("a", 1, "train", 1)], [])
    with pytest.raises(DatasetError, match=r"mine: base holds no test images \(1 train images are there\)"):
        index.need("test", "mine")


def test_selecting_keeps_what_belongs_together() -> None:
    images = RetrievalImages(
        images=ImageArrays(torch.arange(3, dtype=torch.uint8).view(3, 1, 1, 1), torch.tensor([4, 5, 6])),
        class_names=tuple("abcdefg"),
        query=torch.tensor([True, False, True]),
        gallery=torch.tensor([False, True, True]),
        super_labels=torch.tensor([0, 1, 2]),
    ).select(torch.tensor([2, 1]))
    assert images.labels.tolist() == [6, 5]
    assert images.query.tolist() == [True, False]
    assert images.gallery.tolist() == [True, True]
    assert images.super_labels is not None
    assert images.super_labels.tolist() == [2, 1]

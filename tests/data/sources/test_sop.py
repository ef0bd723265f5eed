from __future__ import annotations

from pathlib import Path

import pytest

from hyplearn.data.errors import DatasetError
from hyplearn.data.sources.sop import SOP
from tests.support.retrieval_trees import make_sop


def test_the_lists_part_the_classes(tmp_path: Path) -> None:
    make_sop(tmp_path, 6, 2)
    train, test = (SOP().part(tmp_path, part) for part in ("train", "test"))
    assert train is not None and test is not None
    assert train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert test.labels.tolist() == [3, 3, 4, 4, 5, 5]
    assert test.class_names == ("chair 1", "bicycle 2", "chair 3", "bicycle 4", "chair 5", "bicycle 6")
    assert test.super_names == ("bicycle", "chair")
    assert test.super_labels is not None
    assert test.super_labels.tolist() == [0, 0, 1, 1, 0, 0]
    assert all(path.is_file() for path in train.images.absolute() + test.images.absolute())
    assert SOP().facts(tmp_path).num_classes == 3


def test_every_bad_line_is_named(tmp_path: Path) -> None:
    base = make_sop(tmp_path, 4, 2)
    with (base / "Ebay_test.txt").open("a") as file:
        file.write("9 x 1 chair_final/9.JPG\n\n10 4 1\n11 1 1 chair_final/11.JPG\n")
    assert [str(problem).removeprefix(f"{base}/") for problem in SOP().index(tmp_path).problems] == [
        "Ebay_test.txt, line 6: '9 x 1 chair_final/9.JPG' is not image_id class_id super_class_id path",
        "Ebay_test.txt, line 8: '10 4 1' is not image_id class_id super_class_id path",
        "Ebay_test.txt, line 9: class chair 1 is in train and in test, but no class may be in two parts",
    ]


def test_both_lists_are_needed(tmp_path: Path) -> None:
    (make_sop(tmp_path, 4, 2) / "Ebay_test.txt").unlink()
    with pytest.raises(DatasetError, match=r"Ebay_test\.txt: the file is missing"):
        SOP().train(tmp_path)


def test_facts_before_the_files_are_those_of_the_archive(tmp_path: Path) -> None:
    assert SOP().facts(tmp_path).num_classes == 11318

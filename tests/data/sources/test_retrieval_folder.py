from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hyplearn.data.errors import DatasetError
from hyplearn.data.sources.retrieval_folder import ImageFolderRetrieval
from tests.support.retrieval_trees import write_picture

NAMES = ("ant", "bee", "cow", "dog", "elk", "fly")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six classes of two images; those of elk lie in a folder of their own."""
    for number, name in enumerate(NAMES):
        for index in range(2):
            write_picture(tmp_path / name / ("deep" if name == "elk" else "") / f"{index}.png", number, index)
    return tmp_path


@pytest.fixture
def parted(root: Path) -> Path:
    for part, names in (("train", NAMES[:3]), ("val", ("dog",)), ("test", NAMES[4:])):
        (root / part).mkdir()
        for name in names:
            (root / name).rename(root / part / name)
    return root


def classes(source: ImageFolderRetrieval, root: Path, part: Any) -> list[str]:
    found = source.part(root, part)
    assert found is not None
    return [found.class_names[label] for label in found.labels.unique().tolist()]


def test_a_fraction_of_the_classes_is_always_the_same_test(root: Path) -> None:
    source = ImageFolderRetrieval(test_fraction=0.5)
    train, test = (classes(source, root, part) for part in ("train", "test"))
    assert len(train) == len(test) == 3
    assert sorted(train + test) == list(NAMES)
    assert classes(ImageFolderRetrieval(test_fraction=0.5), root, "test") == test
    assert len(classes(ImageFolderRetrieval(test_fraction=0.3), root, "test")) == 2
    assert source.part(root, "train").labels.tolist() == [0, 0, 1, 1, 2, 2]  # type: ignore[union-attr]
    assert source.facts(root).num_classes == 3
    assert source.part(root, "val") is None


def test_test_classes_are_named_in_a_list_or_a_file(root: Path) -> None:
    (root / "test.txt").write_text("fly\n\n  bee \n")
    for names in (["fly", "bee"], "test.txt"):
        source = ImageFolderRetrieval(test_classes=names)
        assert classes(source, root, "test") == ["bee", "fly"]
        assert classes(source, root, "train") == ["ant", "cow", "dog", "elk"]


def test_folders_part_the_classes(parted: Path) -> None:
    source = ImageFolderRetrieval()
    source.prepare(parted)
    assert [classes(source, parted, part) for part in ("train", "val", "test")] == [
        ["ant", "bee", "cow"],
        ["dog"],
        ["elk", "fly"],
    ]
    assert source.part(parted, "test").images.paths[0] == "test/elk/deep/0.png"  # type: ignore[union-attr]


def test_a_train_folder_alone_has_the_test_classes_too(root: Path) -> None:
    in_root = classes(ImageFolderRetrieval(test_fraction=0.5), root, "test")
    (root / "train").mkdir()
    for name in NAMES:
        (root / name).rename(root / "train" / name)
    write_picture(root / "val" / "gnu" / "0.png", 9, 0)
    source = ImageFolderRetrieval(test_fraction=0.5)
    source.prepare(root)
    assert classes(source, root, "test") == in_root
    assert classes(source, root, "val") == ["gnu"]
    assert source.part(root, "train").images.paths[0].startswith("train/")  # type: ignore[union-attr]
    with pytest.raises(DatasetError, match=r"for the test; needed are .*, or .*/train/<class>/, with dataset"):
        ImageFolderRetrieval().prepare(root)


def test_a_class_may_be_called_train(root: Path) -> None:
    write_picture(root / "train" / "steam" / "0.png", 9, 0)
    source = ImageFolderRetrieval(test_classes=["ant", "train"])
    assert classes(source, root, "test") == ["ant", "train"]


def test_a_class_in_both_folders_is_a_problem(parted: Path) -> None:
    write_picture(parted / "test" / "ant" / "9.png", 0, 9)
    with pytest.raises(DatasetError, match="class ant is in train and in test"):
        ImageFolderRetrieval().train(parted)


def test_an_empty_class_folder_is_a_problem(root: Path) -> None:
    (root / "gnu").mkdir()
    (root / "gnu" / "notes.txt").write_text("no image")
    with pytest.raises(DatasetError, match="gnu: the class folder holds no image"):
        ImageFolderRetrieval(test_fraction=0.5).train(root)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "does not say which classes are for the test; needed are"),
        ({"test_fraction": 0.1}, "1 of 6 classes are test classes, needed are at least 2 to train and 2 to test"),
        ({"test_classes": list(NAMES[:5])}, "5 of 6 classes are test classes"),
        ({"test_classes": ["gnu", "bee"]}, "not among the 6 classes: gnu"),
        ({"test_classes": "nowhere.txt"}, r"nowhere\.txt is no file"),
    ],
)
def test_splits_that_cannot_be_are_named(root: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        ImageFolderRetrieval(**options).index(root)


def test_two_answers_to_one_question_are_named(parted: Path) -> None:
    with pytest.raises(DatasetError, match="part the classes already: leave out test_fraction"):
        ImageFolderRetrieval(test_fraction=0.5).prepare(parted)
    with pytest.raises(ValueError, match="leave one out"):
        ImageFolderRetrieval(test_fraction=0.5, test_classes=["ant", "bee"])
    with pytest.raises(ValueError, match="test_fraction must be between 0 and 1, or null, got 1"):
        ImageFolderRetrieval(test_fraction=1.0)

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hyplearn.data.errors import DatasetError
from hyplearn.data.sources.folder import ImageFolder, visible_files, visible_folders

WriteImage = Callable[..., Path]


def test_train_and_test_folders(folder_root: Path) -> None:
    source = ImageFolder()
    source.prepare(folder_root)
    assert source.facts(folder_root) == (3, 2, None, ("ant", "bee"))
    train, test = source.train(folder_root), source.test(folder_root)
    assert torch.bincount(train.labels).tolist() == [10, 10]
    assert torch.bincount(test.labels).tolist() == [4, 4]
    assert all(path.startswith(("train/ant/", "train/bee/")) for path in train.paths)
    assert all((train.labels[i] == 1) == ("/bee/" in path) for i, path in enumerate(train.paths))
    assert source.validation(folder_root) is None


def test_folders_of_classes_alone_are_split(folder_root: Path) -> None:
    root = folder_root / "train"
    source = ImageFolder(test_fraction=0.2)
    train, test = source.train(root), source.test(root)
    assert torch.bincount(train.labels).tolist() == [8, 8]
    assert torch.bincount(test.labels).tolist() == [2, 2]
    assert not set(train.paths) & set(test.paths)
    assert ImageFolder(test_fraction=0.2).test(root).paths == test.paths


def test_a_train_folder_without_a_test_folder_can_be_split(folder_root: Path) -> None:
    shutil.rmtree(folder_root / "test")
    with pytest.raises(DatasetError, match=f"no test images: {folder_root / 'test'} is not there.*test_fraction"):
        ImageFolder().facts(folder_root)
    assert len(ImageFolder(test_fraction=0.2).test(folder_root)) == 4


def test_a_validation_folder_is_found(folder_root: Path) -> None:
    shutil.copytree(folder_root / "test", folder_root / "val")
    validation = ImageFolder().validation(folder_root)
    assert validation is not None
    assert len(validation) == 8
    assert all(path.startswith("val/") for path in validation.paths)


def test_any_folder_can_be_the_test_folder(folder_root: Path) -> None:
    (folder_root / "test").rename(folder_root / "val")
    source = ImageFolder(test_folder="val", val_folder="none")
    assert len(source.test(folder_root)) == 8
    assert source.validation(folder_root) is None


def test_both_ways_to_get_test_images_are_one_too_many(folder_root: Path) -> None:
    with pytest.raises(DatasetError, match=r"set dataset\.source\.test_fraction=null"):
        ImageFolder(test_fraction=0.5).facts(folder_root)


def test_test_classes_have_to_be_training_classes(folder_root: Path, write_image: WriteImage) -> None:
    write_image(folder_root / "test" / "wasp" / "0.png")
    with pytest.raises(DatasetError, match=r"classes of .*/test without training images: wasp"):
        ImageFolder().facts(folder_root)


def test_a_class_without_test_images_is_fine(folder_root: Path) -> None:
    shutil.rmtree(folder_root / "test" / "ant")
    assert ImageFolder().test(folder_root).labels.tolist() == [1] * 4


def test_a_class_without_training_images_is_named(folder_root: Path) -> None:
    (folder_root / "train" / "cat").mkdir()
    with pytest.raises(DatasetError, match=r"train/cat holds no image"):
        ImageFolder().train(folder_root)


@pytest.mark.parametrize("make", [False, True])
def test_a_root_without_classes_is_named(make: bool, tmp_path: Path) -> None:
    root = tmp_path / "images"
    if make:
        root.mkdir()
    message = "has 0 folders of classes" if make else "is not a folder"
    with pytest.raises(DatasetError, match=rf"{message}; needed are {root}/train/<class>/"):
        ImageFolder(test_fraction=0.2).facts(root)


def test_images_may_lie_deeper_and_other_files_are_named(
    folder_root: Path, write_image: WriteImage, caplog: pytest.LogCaptureFixture
) -> None:
    write_image(folder_root / "train" / "ant" / "2024" / "deep.JPG")
    write_image(folder_root / "train" / "ant" / ".thumbnails" / "small.png")
    (folder_root / "train" / "bee" / "notes.txt").write_text("honey")
    (folder_root / "train" / "bee" / ".DS_Store").write_text("")
    with caplog.at_level(logging.WARNING):
        train = ImageFolder().train(folder_root)
    assert len(train) == 21
    assert "train/ant/2024/deep.JPG" in train.paths
    assert "1 files that are no images by their names are left out" in caplog.text
    assert "notes.txt" in caplog.text


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_impossible_fractions_are_named(fraction: float) -> None:
    with pytest.raises(ValueError, match="test_fraction must be between 0 and 1"):
        ImageFolder(test_fraction=fraction)


def test_links_are_read_and_those_that_lead_nowhere_are_files_that_are_missing(tmp_path: Path) -> None:
    (tmp_path / "class" / "deeper").mkdir(parents=True)
    (tmp_path / "other" / "more").mkdir(parents=True)
    for name in ("class/a.png", "class/deeper/b.png", "other/c.png", "other/more/d.png", "other/.hidden.png"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "class" / "linked").symlink_to(tmp_path / "other")
    (tmp_path / "other" / "more" / "up").symlink_to(tmp_path / "other")
    (tmp_path / "class" / "deeper" / "loop").symlink_to(tmp_path / "class")
    (tmp_path / "class" / "itself").symlink_to(tmp_path / "class" / "itself")
    (tmp_path / "class" / "gone.png").symlink_to("/nonexistent/7.png")
    found = [path.relative_to(tmp_path / "class").as_posix() for path in visible_files(tmp_path / "class")]
    assert found == ["a.png", "deeper/b.png", "gone.png", "itself", "linked/c.png", "linked/more/d.png"]


def test_a_class_folder_that_is_a_link_to_nowhere_is_told(tmp_path: Path) -> None:
    (tmp_path / "ant").symlink_to(tmp_path / "gone")
    with pytest.raises(DatasetError, match=r"ant is a link to .*gone, which does not exist"):
        visible_folders(tmp_path)

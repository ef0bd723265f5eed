"""The user's own images in one folder per class."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import torch

from hyplearn.data.batches.splits import stratified_split
from hyplearn.data.errors import DatasetError
from hyplearn.data.reading.decoding import SUFFIXES
from hyplearn.data.reading.files import ImageFiles
from hyplearn.data.sources.source import Facts, needed

log = logging.getLogger(__name__)


class ImageFolder:
    """`<root>/train/<class>/*` and `<root>/test/<class>/*`, or only `<root>/<class>/*` with `test_fraction`.

    Images may lie in folders within a class. Classes are numbered in the alphabetical order of the training folders.
    test_fraction: this part of the training images, stratified and always the same, is the test set; null where there
    is a test folder. val_folder: if it is there, its images are the validation images and none are split off.
    """

    name = "image_folder"
    in_files = True

    def __init__(
        self,
        *,
        train_folder: str = "train",
        val_folder: str = "val",
        test_folder: str = "test",
        test_fraction: float | None = None,
    ) -> None:
        if test_fraction is not None and not 0 < test_fraction < 1:
            raise ValueError(f"test_fraction must be between 0 and 1, or null for a test folder, got {test_fraction}")
        self.test_fraction = test_fraction
        self.train_folder, self.val_folder, self.test_folder = train_folder, val_folder, test_folder

    def facts(self, root: Path | None) -> Facts:
        classes = self._classes(needed(root, self.name))
        return Facts(3, len(classes), None, tuple(classes))

    def prepare(self, root: Path | None) -> None:
        self._classes(needed(root, self.name))

    def train(self, root: Path | None) -> ImageFiles:
        return self._split_off_test(needed(root, self.name))[0]

    def validation(self, root: Path | None) -> ImageFiles | None:
        root = needed(root, self.name)
        if self._in_one_folder(root) or not (root / self.val_folder).is_dir():
            return None
        return self._list(root, root / self.val_folder)

    def test(self, root: Path | None) -> ImageFiles:
        root = needed(root, self.name)
        if self.test_fraction is not None:
            return self._split_off_test(root)[1]
        return self._list(root, root / self.test_folder)

    def _in_one_folder(self, root: Path) -> bool:
        return not (root / self.train_folder).is_dir()

    def _train_folder(self, root: Path) -> Path:
        return root if self._in_one_folder(root) else root / self.train_folder

    def _split_off_test(self, root: Path) -> tuple[ImageFiles, ImageFiles]:
        files = self._list(root, self._train_folder(root))
        train, test = stratified_split(files.labels, self.test_fraction or 0.0, seed=0, purpose="test")
        return files.select(train), files.select(test)

    def _classes(self, root: Path) -> list[str]:
        """Names of the classes. Raises DatasetError if the folders are not as they have to be."""
        layout = (
            f"needed are {root}/{self.train_folder}/<class>/ and {root}/{self.test_folder}/<class>/ with images, or "
            f"{root}/<class>/ with dataset.source.test_fraction=0.2 (any fraction)"
        )
        if not root.is_dir():
            raise DatasetError(f"dataset.root={root} is not a folder; {layout}")
        self._check_test_part(root, layout)
        classes = visible_folders(self._train_folder(root))
        if len(classes) < 2:
            raise DatasetError(f"{self._train_folder(root)} has {len(classes)} folders of classes; {layout}")
        for part in (self.val_folder, self.test_folder):
            unknown = [] if self._in_one_folder(root) else sorted(set(visible_folders(root / part)) - set(classes))
            if unknown:
                raise DatasetError(f"classes of {root / part} without training images: {', '.join(unknown)}; {layout}")
        return classes

    def _check_test_part(self, root: Path, layout: str) -> None:
        has_folder = not self._in_one_folder(root) and (root / self.test_folder).is_dir()
        if self.test_fraction is None and not has_folder:
            raise DatasetError(f"no test images: {root / self.test_folder} is not there; {layout}")
        if self.test_fraction is not None and has_folder:
            raise DatasetError(
                f"{root / self.test_folder} holds test images, but test_fraction={self.test_fraction} takes others "
                "from the training images: set dataset.source.test_fraction=null, or move the folder away"
            )

    def _list(self, root: Path, folder: Path) -> ImageFiles:
        paths: list[str] = []
        labels: list[int] = []
        others: list[str] = []
        for label, name in enumerate(self._classes(root)):
            found = visible_files(folder / name)
            images = [path for path in found if path.suffix.lower() in SUFFIXES]
            others += [str(path) for path in found if path.suffix.lower() not in SUFFIXES]
            if not images and folder == self._train_folder(root):
                raise DatasetError(f"class folder {folder / name} holds no image ({', '.join(sorted(SUFFIXES))})")
            paths += [path.relative_to(root).as_posix() for path in images]
            labels += [label] * len(images)
        if others:
            log.warning("%d files that are no images by their names are left out: %s", len(others), ", ".join(others))
        return ImageFiles(root, tuple(paths), torch.tensor(labels, dtype=torch.int64))


def visible_folders(folder: Path) -> list[str]:
    """Names of the visible folders in `folder`, sorted; none if it is not there.

    Raises DatasetError for a link to a folder that does not exist, and for a name that is no text.
    """
    if not folder.is_dir():
        return []
    for path in sorted(folder.iterdir()):
        if path.is_symlink() and not path.exists() and not path.suffix and not path.name.startswith("."):
            raise DatasetError(f"{path} is a link to {os.readlink(path)}, which does not exist: mend or remove it")
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    unspeakable = [os.fsencode(name) for name in names if not name.isascii() and not _is_text(name)]
    if unspeakable:
        raise DatasetError(f"{folder}: the name of its folder {unspeakable[0]!r} is not in UTF-8: rename it")
    return names


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def visible_files(folder: Path) -> list[Path]:
    """Files at any depth in `folder`, sorted, without hidden ones and those in hidden folders.

    Linked folders are read, each but once on the way down, so that a link to a folder above it ends. A link to a file
    that does not exist, and what is no file, are among the files: who reads them says what is wrong.
    """
    return sorted(_files_below(folder, ())) if folder.is_dir() else []


def _files_below(folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    place = folder.resolve()
    if place in above:
        return
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _files_below(path, (*above, place))
        else:  # a link that leads nowhere, and a named pipe: who reads it says so
            yield path

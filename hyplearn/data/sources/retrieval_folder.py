"""The user's own images in one folder per class, for retrieval: some classes train, others test."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from hyplearn.data.errors import DatasetError, Problem
from hyplearn.data.reading.decoding import SUFFIXES
from hyplearn.data.sources.folder import visible_files, visible_folders
from hyplearn.data.sources.indexed import ClassSplit, IndexedSource
from hyplearn.data.sources.retrieval_source import Entry, Index, Part, Place, make_index
from hyplearn.data.sources.source import needed

log = logging.getLogger(__name__)


class ImageFolderRetrieval(IndexedSource):
    """Images in `<root>/<class>/`, of which some are test classes, or of other classes in train/ and test/.

    They may lie in folders within a class. Without a test folder the test classes are some of those in train/.
    test_fraction: this part of the classes, always the same, is for the test. test_classes: the names of these classes,
    or a file below the root with one name a line. Both null where there are a train and a test folder; a val folder
    beside them holds the validation classes.
    """

    name = "image_folder_retrieval"

    def __init__(
        self,
        *,
        train_folder: str = "train",
        val_folder: str = "val",
        test_folder: str = "test",
        test_fraction: float | None = None,
        test_classes: Sequence[str | int] | str | None = None,
    ) -> None:
        self.folders: dict[Part, str] = {"train": train_folder, "val": val_folder, "test": test_folder}
        self.split = ClassSplit(test_fraction, test_classes)

    def prepare(self, root: Path | None) -> None:
        self._check(needed(root, self.name))

    def read_index(self, root: Path) -> Index:
        self._check(root)
        problems: list[Problem] = []
        entries = list(self._split(root, problems) if self.split.given else self._parted(root, problems))
        return make_index(root, entries, problems)

    def _check(self, root: Path) -> None:
        """Raises DatasetError if the folders are not as the options say."""
        train, test = (root / self.folders[part] for part in ("train", "test"))
        layout = (
            f"needed are {root}/<class>/, or {train}/<class>/, with dataset.source.test_fraction=0.5 (any fraction) or "
            f"test_classes, or {train}/<class>/ and {test}/<class>/ with neither"
        )
        if not root.is_dir():
            raise DatasetError(f"dataset.root={root} is not a folder; {layout}")
        parted = train.is_dir() and test.is_dir()
        if self.split.given and parted:
            raise DatasetError(
                f"{train} and {test} part the classes already: leave out test_fraction and test_classes, or set "
                "dataset.root to one of them"
            )
        if not self.split.given and not parted:
            raise DatasetError(f"{root} does not say which classes are for the test; {layout}")

    def _split(self, root: Path, problems: list[Problem]) -> Iterator[Entry]:
        below = self._classes_below(root)
        names = visible_folders(below)
        test = self.split.choose(names, root)
        for name in names:
            yield from _images(root, below / name, "test" if name in test else "train", problems)
        if below != root:
            yield from self._part(root, "val", problems)

    def _classes_below(self, root: Path) -> Path:
        """The train folder if nothing is beside it but a val folder: else it may be a class of that name."""
        train, val = self.folders["train"], self.folders["val"]
        return root / train if train in (names := visible_folders(root)) and set(names) <= {train, val} else root

    def _parted(self, root: Path, problems: list[Problem]) -> Iterator[Entry]:
        for part in self.folders:
            yield from self._part(root, part, problems)

    def _part(self, root: Path, part: Part, problems: list[Problem]) -> Iterator[Entry]:
        folder = root / self.folders[part]
        for name in visible_folders(folder):
            yield from _images(root, folder / name, part, problems)


def _images(root: Path, folder: Path, part: Part, problems: list[Problem]) -> Iterator[Entry]:
    found = visible_files(folder)
    images = [path for path in found if path.suffix.lower() in SUFFIXES]
    if not images:
        problems.append(Problem(folder, None, f"the class folder holds no image ({', '.join(sorted(SUFFIXES))})"))
    if len(images) < len(found):
        log.warning("%d files in %s are no images by their names and left out", len(found) - len(images), folder)
    for path in images:
        yield Entry(path.relative_to(root).as_posix(), folder.name, part, folder.name, Place(folder, None))

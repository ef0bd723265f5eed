"""What data sets for retrieval in files have in common: an index names every image before one is opened."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from hyplearn.data.errors import DatasetError, Problem
from hyplearn.data.randomness import generator
from hyplearn.data.reading.decoding import SUFFIXES
from hyplearn.data.reading.texts import lines_of
from hyplearn.data.sources.folder import visible_files, visible_folders
from hyplearn.data.sources.retrieval_source import ByPart, Entry, Index, Part, Place, RetrievalImages
from hyplearn.data.sources.source import Facts, needed


class IndexedSource(ByPart, ABC):
    """A set whose parts are those of its index."""

    name: str
    in_files = True
    _last: tuple[Path, Index] | None = None  # a list of 120,000 images takes seconds, and is asked for several times

    def facts(self, root: Path | None) -> Facts:
        train = self.index(root).need("train", self.name)
        count = int(train.labels.max()) + 1
        return Facts(3, count, None, train.class_names[:count])

    def part(self, root: Path | None, part: Part) -> RetrievalImages | None:
        index = self.index(root)
        return None if part == "val" and "val" not in index.parts else index.need(part, self.name)

    @abstractmethod
    def prepare(self, root: Path | None) -> None: ...

    def index(self, root: Path | None) -> Index:
        """All images by name, read once by each object. Bad lines are in its `problems`.

        Raises DatasetError if there is no index, or none that can be read.
        """
        root = needed(root, self.name)
        if self._last is None or self._last[0] != root:
            self._last = root, self.read_index(root)
        return self._last[1]

    @abstractmethod
    def read_index(self, root: Path) -> Index:
        """Read it from the files that are there now."""


class OfficialSet(IndexedSource):
    """A published set in its official layout, of whatever size. It has no validation images."""

    official: ClassVar[Mapping[str, int]]  # the counts of the whole set, by the names that `counts` uses
    places: ClassVar[tuple[str, ...]]  # folders below the root that may hold the set; "." is the root itself

    def facts(self, root: Path | None) -> Facts:
        """Facts of the files that are there, or of the official set where there are none yet."""
        if self.base(needed(root, self.name)) is None:
            return Facts(3, self.official["training classes"], None, None)
        return super().facts(root)

    def present(self, root: Path) -> bool:
        """Whether the files are there."""
        return self.base(root) is not None

    def prepare(self, root: Path | None) -> None:
        root = needed(root, self.name)
        if self.base(root) is None:
            self.fetch(root)

    def part(self, root: Path | None, part: Part) -> RetrievalImages | None:
        return None if part == "val" else super().part(root, part)

    def read_index(self, root: Path) -> Index:
        base = self.base(root)
        if base is None:
            raise DatasetError(f"{self.name} not found below {root}. {self.placement(root)}")
        return self.read(base)

    def base(self, root: Path) -> Path | None:
        """The folder of the set, None where there is none."""
        return next((root / place for place in self.places if self.holds(root / place)), None)

    def fetch(self, root: Path) -> None:
        """Download the set. Raises DatasetError with what to place where if nobody offers it for download."""
        raise DatasetError(f"{self.name} not found below {root}. {self.placement(root)}")

    @abstractmethod
    def holds(self, folder: Path) -> bool:
        """Whether `folder` is the base folder of the set."""

    @abstractmethod
    def read(self, base: Path) -> Index:
        """Read the index in the base folder."""

    @abstractmethod
    def placement(self, root: Path) -> str:
        """Say where to get the set, and what to place where."""


class ClassSplit:
    """Which classes of a set without a split of its own are the test classes: a fraction of them, or those named.

    fraction: of the classes, drawn once and for all. names: of classes, or a text file with one name a line. Names that
    are numbers may be given as such.
    """

    def __init__(self, fraction: float | None, names: Sequence[str | int] | str | None) -> None:
        if fraction is not None and names is not None:
            raise ValueError("test_fraction and test_classes both say which classes are test classes: leave one out")
        if fraction is not None and not 0 < fraction < 1:
            raise ValueError(f"test_fraction must be between 0 and 1, or null, got {fraction}")
        self.fraction, self.names = fraction, names

    @property
    def given(self) -> bool:
        return self.fraction is not None or self.names is not None

    def choose(self, classes: Sequence[str], root: Path) -> set[str]:
        """The test classes among the sorted `classes`; a file of names is below `root`.

        Raises DatasetError if a name is unknown, or if fewer than 2 classes are left to train or to test.
        """
        if self.names is not None:
            listed = self._read(root) if isinstance(self.names, str) else [str(name) for name in self.names]
            unknown = sorted(set(listed) - set(classes))
            if unknown:
                raise DatasetError(f"test_classes that are not among the {len(classes)} classes: {', '.join(unknown)}")
            chosen = set(listed)
        else:
            order = torch.randperm(len(classes), generator=generator(0, "split", "test classes"))
            chosen = {classes[number] for number in order[: round((self.fraction or 0.0) * len(classes))].tolist()}
        if len(chosen) < 2 or len(classes) - len(chosen) < 2:
            raise DatasetError(
                f"{len(chosen)} of {len(classes)} classes are test classes, needed are at least 2 to train and 2 to "
                "test: change dataset.source.test_fraction or dataset.source.test_classes"
            )
        return chosen

    def _read(self, root: Path) -> list[str]:
        path = root / str(self.names)
        if not path.is_file():
            raise DatasetError(f"test_classes={self.names}: {path} is no file; give a list of names, or a file of them")
        return [text for _, text in numbered_lines(path)]


def counts(index: Index) -> dict[str, int]:
    """Numbers of classes and images of an index."""
    found = {}
    for part, word in (("train", "training"), ("val", "validation"), ("test", "test")):
        images = index.parts.get(part)  # type: ignore[call-overload]
        if images is not None:
            found[f"{word} classes"], found[f"{word} images"] = len(images.labels.unique()), len(images)
    test = index.parts.get("test")
    if test is not None and not (test.query.all() and test.gallery.all()):
        found["query images"], found["gallery images"] = int(test.query.sum()), int(test.gallery.sum())
    return found


@dataclass(frozen=True)
class NumberedClasses:
    """Classes 1 to `last`, of which those up to `last_training` train."""

    last_training: int
    last: int

    def part(self, number: int) -> Part:
        return "train" if number <= self.last_training else "test"

    def number(self, folder: str) -> int | None:
        """Class number of a folder named as 017.Cardinal, None for other names and numbers."""
        found = whole_number(re.split(r"[._ -]", folder, maxsplit=1)[0])
        return found if found is not None and 1 <= found <= self.last else None

    def scan(self, base: Path, folder: str, problems: list[Problem]) -> list[Entry]:
        """The images in the class folders of `folder`. All `last` of them may have names without numbers, in order."""
        names = visible_folders(base / folder)
        numbers = {name: self.number(name) for name in names}
        if len(names) == self.last and not any(numbers.values()):
            numbers = {name: number for number, name in enumerate(names, 1)}
        entries = []
        for name, number in numbers.items():
            place = Place(base / folder / name, None)
            if number is None:
                problems.append(Problem(*place, f"the name has no class number from 1 to {self.last} in front"))
                continue
            entries += [
                Entry(path.relative_to(base).as_posix(), number, self.part(number), name, place)
                for path in visible_files(base / folder / name)
                if path.suffix.lower() in SUFFIXES
            ]
        return entries


def numbered_lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a text file that are not blank, with their numbers from 1 on."""
    lines = lines_of(path, errors="replace")
    return [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]


def whole_number(text: str) -> int | None:
    """`text` as a number, None if it is none."""
    return int(text) if text.isascii() and text.isdigit() else None


def missing_index(path: Path) -> Problem:
    return Problem(path, None, "the file is missing")

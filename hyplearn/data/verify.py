"""Looks a data set over before anything is trained on it: index, counts, every image. Each problem has its place."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Literal

from hyplearn.data.errors import BadImageError, DatasetError, Problem, ProblemsError
from hyplearn.data.reading.decoding import SUFFIXES, decode, for_each_file, usable_cpus
from hyplearn.data.reading.files import ImageFiles
from hyplearn.data.reading.images import ImageArrays
from hyplearn.data.reading.places import Place as FilePlace
from hyplearn.data.sources.folder import visible_files
from hyplearn.data.sources.indexed import IndexedSource, OfficialSet, counts
from hyplearn.data.sources.retrieval_source import Index, Place
from hyplearn.data.sources.source import Source

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Report:
    """What a data set holds and what is wrong with it.

    counts: of classes and images that are named and, where the set is a published one, of its full archive.
    placement: where to get the set and what to place where, None for a user's own images. remarks: what is no fault,
    such as pictures that no list names.
    """

    name: str
    root: Path | None
    counts: dict[str, tuple[int, int | None]]
    problems: tuple[Problem, ...]
    placement: str | None
    remarks: tuple[str, ...] = ()

    @property
    def clean(self) -> bool:
        """No problem was found. A part of a published set is clean too, and not `complete`."""
        return not self.problems

    @property
    def complete(self) -> bool | None:
        """All counts are those of the full archive; None where there is no such archive."""
        known = [found == full for found, full in self.counts.values() if full is not None]
        return all(known) if known else None

    def render(self) -> str:
        """Counts as "n of m", every problem in a line of its own, and what to do."""
        lines = [f"{self.name} in {self.root}" if self.root is not None else self.name]
        width = max(map(len, self.counts), default=0)
        for name, (found, full) in self.counts.items():
            lines.append(f"  {name:<{width}}  {found:,}" + ("" if full is None else f" of {full:,}"))
        if self.complete is False and any(found for found, _ in self.counts.values()):
            lines.append("Not the full archive: it can be trained on, but published results are of the full one.")
        count = len(self.problems)
        if count == 0:
            lines.append("no problems")
        else:
            lines.append("1 problem:" if count == 1 else f"{count:,} problems:")
        lines += [f"  {problem}" for problem in self.problems]
        lines += [f"note: {remark}" for remark in self.remarks]
        if self.placement is not None and (self.problems or self.complete is False):
            lines.append(self.placement)
        return "\n".join(lines)

    def to_dict(self) -> dict[str, object]:
        """Return the report in types that JSON knows."""
        return {
            "name": self.name,
            "root": None if self.root is None else str(self.root),
            "clean": self.clean,
            "complete": self.complete,
            "counts": {name: {"found": found, "full": full} for name, (found, full) in self.counts.items()},
            "problems": [
                {"file": str(problem.file), "line": problem.line, "problem": problem.message}
                for problem in self.problems
            ],
            "remarks": list(self.remarks),
            "placement": self.placement,
        }


def verify(
    source: Source, root: Path | None, *, threads: int | None = None, progress: Progress | None = None
) -> Report:
    """Read the index of a data set and decode all of its images, once each; nothing is downloaded or changed.

    threads: for decoding, None for one per CPU. progress: called with the number of images looked at and their total.
    Raises ValueError only where the root is missing or not needed, as `source` does.
    """
    look = _Look(threads or usable_cpus(), progress)
    try:
        if isinstance(source, IndexedSource):
            return _verify_index(source, root, look)
        return _verify_parts(source, root, look)
    except DatasetError as error:
        problem = Problem(root or Path(), None, str(error))
        return Report(source.name, root, {}, (problem,), _placement(source, root))


def _verify_index(source: IndexedSource, root: Path | None, look: _Look) -> Report:
    if isinstance(source, OfficialSet) and root is not None and source.base(root) is None:
        looked = " nor in ".join(str(root / place) for place in source.places)
        problem = Problem(root, None, f"no {source.name} found, neither in {looked}")
        return Report(source.name, root, _of_full(source, {}), (problem,), source.placement(root))
    index = source.index(root)
    files = [part.images for part in index.parts.values() if isinstance(part.images, ImageFiles)]
    problems = [*index.problems, *look.through(files, index.places)]
    empty = [part for part in ("train", "test") if part not in index.parts]
    problems += [Problem(index.base, None, f"there are no {part} images") for part in empty]
    problems += [Problem(index.base, None, reason) for reason in _nothing_to_measure(index)]
    full, remarks = _of_full(source, counts(index)), tuple(_remarks(index))
    return Report(source.name, root, full, tuple(problems), _placement(source, root), remarks)


def _remarks(index: Index) -> Iterator[str]:
    """Pictures that no list names, and queries for which no picture can be right."""
    named = {os.path.normpath(index.base / path) for path in index.places}
    pictures = (path for path in visible_files(index.base) if path.suffix.lower() in SUFFIXES)
    unnamed = [path for path in pictures if os.path.normpath(path) not in named]
    if unnamed:
        yield f"{len(unnamed):,} pictures that no list names, the first {unnamed[0].relative_to(index.base)}"
    for name, part in index.parts.items():
        if name == "train" or not len(part):
            continue
        offered = part.labels[part.gallery].bincount(minlength=int(part.labels.max()) + 1)
        lone = part.query & (offered[part.labels] - part.gallery.long() == 0)
        if lone.any():
            classes = ", ".join(part.class_names[label] for label in part.labels[lone].unique()[:4].tolist())
            count = int(lone.sum())
            yield f"{count:,} {name} queries have no gallery picture of their class and are not counted ({classes})"


def _nothing_to_measure(index: Index) -> Iterator[str]:
    names: tuple[Literal["val", "test"], ...] = ("val", "test")
    for name in names:
        part = index.parts.get(name)
        reason = None if part is None else part.nothing_to_measure(name)
        if reason is not None:
            yield reason


def _of_full(source: IndexedSource, found: Mapping[str, int]) -> dict[str, tuple[int, int | None]]:
    official = source.official if isinstance(source, OfficialSet) else {}
    names = dict.fromkeys([*official, *found])
    return {name: (found.get(name, 0), official.get(name)) for name in names}


def _verify_parts(source: Source, root: Path | None, look: _Look) -> Report:
    """A data set for classification, or one in no files: whether its parts can be read."""
    parts = {"training images": source.train, "validation images": source.validation, "test images": source.test}
    there: dict[str, ImageArrays | ImageFiles] = {}
    problems: list[Problem] = []
    for name, read in parts.items():
        with _collecting(problems, root):
            images = read(root)
            if images is not None:
                there[name] = images
    problems += look.through([images for images in there.values() if isinstance(images, ImageFiles)], {})
    remarks: list[str] = []
    with _collecting([], root):  # what cannot be read was told above
        remarks = source.remarks(root) if hasattr(source, "remarks") else []
    found: dict[str, tuple[int, int | None]] = {name: (len(images), None) for name, images in there.items()}
    return Report(source.name, root, found, tuple(dict.fromkeys(problems)), None, tuple(remarks))


@contextmanager
def _collecting(problems: list[Problem], root: Path | None) -> Iterator[None]:
    """Add what is wrong with a part to the problems, so that the other parts are looked at, too."""
    try:
        yield
    except ProblemsError as error:
        problems += error.problems
    except DatasetError as error:
        problems += [Problem(root or Path(), None, line) for line in str(error).splitlines()]


def _placement(source: Source, root: Path | None) -> str | None:
    return source.placement(root) if isinstance(source, OfficialSet) and root is not None else None


class _Look:
    """Decodes files by several threads and counts them."""

    def __init__(self, threads: int, progress: Progress | None) -> None:
        self.threads, self.progress, self.done, self.lock = threads, progress, 0, Lock()

    def through(self, parts: Iterable[ImageFiles], places: Mapping[str, Place]) -> list[Problem]:
        """Decode all files. An image is a problem of the index line that names it, where one does."""
        named = [pair for files in parts for pair in zip(files.paths, files.places(), strict=True)]
        total = len(named)

        def work(index: int, place: FilePlace) -> None:
            try:
                decode(place, channels=3)
            finally:
                self._count(total)

        bad = for_each_file([place for _, place in named], work, threads=self.threads)
        return [_problem(named[index][0], error, places) for index, error in sorted(bad.items())]

    def _count(self, total: int) -> None:
        with self.lock:
            self.done += 1
            if self.progress is not None:
                self.progress(self.done, total)


def _problem(name: str, error: BadImageError, places: Mapping[str, Place]) -> Problem:
    place = places.get(name)
    if place is None or place.line is None:
        return Problem(error.path, None, error.reason)
    return Problem(*place, f"{name}: {error.reason}")

"""What a data set for retrieval gives: images of other classes to train and to test, and which of these are queries."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from hyplearn.data.errors import DatasetError, Problem, ProblemsError, described
from hyplearn.data.reading.files import ImageFiles
from hyplearn.data.reading.images import ImageArrays
from hyplearn.data.sources.source import Source

Part = Literal["train", "val", "test"]
_PARTS: tuple[Part, ...] = ("train", "val", "test")


@dataclass(frozen=True)
class RetrievalImages:
    """Images of a part and what each is for.

    images: N of them, with the labels of the source: the classes of all parts in one numbering, the training classes
    first. class_names: of that whole numbering. query, gallery: (N,) bool. super_labels: (N,) int64, of coarser classes
    named by super_names, None where the set has none.
    """

    images: ImageArrays | ImageFiles
    class_names: tuple[str, ...]
    query: Tensor
    gallery: Tensor
    super_labels: Tensor | None = None
    super_names: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def labels(self) -> Tensor:
        return self.images.labels

    def select(self, ids: Tensor) -> RetrievalImages:
        return replace(
            self,
            images=self.images.select(ids),
            query=self.query[ids],
            gallery=self.gallery[ids],
            super_labels=None if self.super_labels is None else self.super_labels[ids],
        )

    def nothing_to_measure(self, part: Literal["val", "test"]) -> str | None:
        """Why neighbours among these images say nothing of a model, and the way out; None if they do."""
        offered = self.labels[self.gallery].bincount(minlength=int(self.labels.max()) + 1)
        classes = int((offered > 0).sum())
        others = offered[self.labels] - self.gallery.long()
        without = ", or set dataset.val_fraction=0 to train without validation" if part == "val" else ""
        there = (
            f"{int(self.query.sum())} query images of {len(self.labels[self.query].unique())} classes, "
            f"{int(self.gallery.sum())} gallery images of {classes}"
        )
        if not (others[self.query] > 0).any():
            return (
                f"no {part} query has another image of its class in the gallery ({there}), so that no neighbour can be "
                f"right: needed are classes of at least 2 {part} images, of them one that is a query and another in "
                f"the gallery{without}"
            )
        if classes < 2:
            return (
                f"the gallery of the {part} images holds one class ({there}), so that every neighbour of a query of it "
                f"is right whatever the model: needed are {part} images of at least 2 classes in the gallery{without}"
            )
        return None

    @classmethod
    def for_all(cls, images: ImageArrays | ImageFiles, class_names: tuple[str, ...]) -> RetrievalImages:
        """Every image is query and gallery."""
        everyone = torch.ones(len(images), dtype=torch.bool)
        return cls(images, class_names, everyone, everyone)


class Evaluation(NamedTuple):
    """What an evaluation has to know of the images of a part, in the order of the ids of its batches (0 to N-1).

    labels: (N,) int64, positions in class_names. query, gallery: (N,) bool. super_labels: (N,) int64, positions in
    super_names, or None. paths: of the files, as the source names them, None for images that are in no files.
    """

    labels: Tensor
    query: Tensor
    gallery: Tensor
    super_labels: Tensor | None
    class_names: tuple[str, ...]
    super_names: tuple[str, ...] | None
    paths: tuple[str, ...] | None


class RetrievalSource(Source, Protocol):
    """A data set whose test classes are others than its training classes.

    `facts` tells of the training classes. `train`, `validation` and `test` give the images of `part` alone.
    """

    def part(self, root: Path | None, part: Part) -> RetrievalImages | None:
        """The images of a part; None for a validation part that the set does not have."""
        ...


class ByPart:
    """The parts of a `RetrievalSource` as those of a `Source`."""

    def part(self, root: Path | None, part: Part) -> RetrievalImages | None:
        raise NotImplementedError

    def train(self, root: Path | None) -> ImageArrays | ImageFiles:
        found = self.part(root, "train")
        assert found is not None
        return found.images

    def validation(self, root: Path | None) -> ImageArrays | ImageFiles | None:
        found = self.part(root, "val")
        return None if found is None else found.images

    def test(self, root: Path | None) -> ImageArrays | ImageFiles:
        found = self.part(root, "test")
        assert found is not None
        return found.images


class Place(NamedTuple):
    """Where an index file names an image: a line of a text file, a record of a MATLAB file; None for a folder scan."""

    file: Path
    line: int | None


class Entry(NamedTuple):
    """One image as an index names it. path: relative to the base folder. group: what classes are sorted by."""

    path: str
    group: int | str
    part: Part
    class_name: str
    place: Place
    super_name: str | None = None
    query: bool = True
    gallery: bool = True


@dataclass(frozen=True)
class Index:
    """All images that a data set names, before any is opened.

    parts: those that have images. places: by path, where each is named. problems: lines that cannot be used.
    """

    base: Path
    parts: Mapping[Part, RetrievalImages]
    places: Mapping[str, Place]
    problems: tuple[Problem, ...]

    def need(self, part: Part, name: str) -> RetrievalImages:
        """A part. Raises DatasetError with all bad lines, or if the part is empty."""
        if self.problems:
            raise ProblemsError(self.problems, name)
        if part not in self.parts:
            classes = ", ".join(f"{len(found)} {other}" for other, found in self.parts.items()) or "no"
            raise DatasetError(f"{name}: {self.base} holds no {part} images ({classes} images are there)")
        return self.parts[part]


def make_index(base: Path, entries: list[Entry], problems: list[Problem], *, outside: bool | None = None) -> Index:
    """Number the classes: those of training by their group from 0 on, then those of validation, then those of test.

    A class in two parts, and an image that is named twice, are problems, and so is one that leaves the base folder.
    outside: whether links that leave it are problems as well; None where only the name counts, for the folders of a
    published set may be links; False where images may lie anywhere.
    """
    if outside is not False:
        left = _outside(base, entries, links=bool(outside))
        problems, entries = [*problems, *left.values()], [entry for entry in entries if entry.path not in left]
    problems = [*problems, *_named_twice(base, entries), *_in_two_parts(entries)]
    numbers: dict[int | str, int] = {}
    names: dict[int | str, str] = {}
    for part in _PARTS:
        groups = {entry.group: entry.class_name for entry in entries if entry.part == part}
        for group in sorted(groups, key=_sort_key):
            numbers.setdefault(group, len(numbers))
            names.setdefault(group, groups[group])
    supers = sorted({entry.super_name for entry in entries if entry.super_name is not None})
    parts = {}
    for part in _PARTS:
        found = [entry for entry in entries if entry.part == part]
        if found:
            parts[part] = _images(base, found, numbers, tuple(names.values()), tuple(supers))
    return Index(base, parts, {entry.path: entry.place for entry in entries}, tuple(problems))


def _sort_key(group: int | str) -> tuple[int, str]:
    return (group, "") if isinstance(group, int) else (0, group)


def _images(
    base: Path,
    entries: list[Entry],
    numbers: Mapping[int | str, int],
    names: tuple[str, ...],
    supers: tuple[str, ...],
) -> RetrievalImages:
    labels = torch.tensor([numbers[entry.group] for entry in entries], dtype=torch.int64)
    super_numbers = {name: number for number, name in enumerate(supers)}
    super_labels = [super_numbers.get(entry.super_name or "", -1) for entry in entries]
    return RetrievalImages(
        images=ImageFiles(base, tuple(entry.path for entry in entries), labels),
        class_names=names,
        query=torch.tensor([entry.query for entry in entries]),
        gallery=torch.tensor([entry.gallery for entry in entries]),
        super_labels=torch.tensor(super_labels, dtype=torch.int64) if supers and -1 not in super_labels else None,
        super_names=supers if supers and -1 not in super_labels else None,
    )


def _named_twice(base: Path, entries: list[Entry]) -> list[Problem]:
    """One problem for each image that was named before, be it as ./a.png or from the root of the disk on."""
    first: dict[str, Entry] = {}
    problems = []
    for entry in entries:
        before = first.setdefault(os.path.normpath(base / entry.path), entry)
        if before is not entry:
            otherwise = "" if before.path == entry.path else f" as {before.path}"
            message = f"{entry.path} was named before{otherwise} ({described(*before.place)})"
            problems.append(Problem(*entry.place, message))
    return problems


def _outside(base: Path, entries: list[Entry], *, links: bool) -> dict[str, Problem]:
    """One problem for each image that leaves the base folder, by its path. links: followed, each folder once."""
    root, real = os.path.abspath(base), os.path.realpath(base)
    known: dict[str, str] = {}
    problems: dict[str, Problem] = {}
    for entry in entries:
        place = os.path.normpath(os.path.join(root, entry.path))
        leaves = not _within(place, root)
        if links and not leaves:
            folder = os.path.dirname(place)
            if folder not in known:
                known[folder] = os.path.realpath(folder)
            leaves = not _within(known[folder], real)
            leaves = leaves or (os.path.islink(place) and not _within(os.path.realpath(place), real))
        if leaves:
            way = "set dataset.source.allow_outside=true if that is meant" if links else "place the set again"
            problems[entry.path] = Problem(*entry.place, f"{entry.path} lies outside of {base}: {way}")
    return problems


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _in_two_parts(entries: list[Entry]) -> list[Problem]:
    """One problem for each class that is in several parts, at the first image that shows it."""
    seen: dict[int | str, Part] = {}
    problems: dict[int | str, Problem] = {}
    for entry in entries:
        before = seen.setdefault(entry.group, entry.part)
        if before != entry.part and entry.group not in problems:
            message = f"class {entry.class_name} is in {before} and in {entry.part}, but no class may be in two parts"
            problems[entry.group] = Problem(*entry.place, message)
    return list(problems.values())

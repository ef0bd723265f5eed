"""Data sets in shards: tar files of many images each, and an index of where each image lies in them.

A shard holds for image number N of its part two files, as WebDataset does: 0000000N.jpg (or what it is), byte for byte
the file of the data set, and 0000000N.cls, its label in digits. index.json beside the shards names each image by its
path in the data set, so that any of them is read without reading the others: order, class-balanced batches and resuming
are those of a data set in single files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyplearn.data.errors import DatasetError
from hyplearn.data.reading.files import ImageFiles
from hyplearn.data.reading.places import BLOCK, Member
from hyplearn.data.sources.retrieval_source import ByPart, Part, RetrievalImages
from hyplearn.data.sources.source import Facts, needed

FORMAT = 1
INDEX = "index.json"
MOST_INDEX_BYTES = 2**32  # some thirty million images
MOST_IMAGE_BYTES = 2**29
_SHARD_NAME = re.compile(r"(train|val|test)-\d{6}\.tar")


class _Index(NamedTuple):
    """What index.json says. classes: numbers that labels may have."""

    facts: Facts
    classes: int
    names: tuple[str, ...] | None
    super_names: tuple[str, ...] | None
    retrieval: bool
    parts: Mapping[str, Any]


def _read_index(folder: Path) -> _Index:
    """Read the index of a folder of shards. Raises DatasetError if it cannot be used."""
    path = folder / INDEX
    if not path.is_file():
        raise DatasetError(f"{path} is not there: set dataset.root to a folder that `hyplearn data shard` has written")
    if path.stat().st_size > MOST_INDEX_BYTES:
        raise DatasetError(f"{path} has {path.stat().st_size:,} bytes, more than {MOST_INDEX_BYTES:,}")
    try:
        content = json.loads(path.read_bytes())
        if content["format"] != FORMAT:
            raise ValueError(f"it is of format {content['format']!r}, known is {FORMAT}")
        names, supers = (_texts(content[key], key) for key in ("class_names", "super_names"))
        size = content["image_size"]
        channels, classes = int(content["in_channels"]), int(content["num_classes"])
        if channels not in (1, 3) or classes < 1 or (size is not None and not 1 <= int(size) <= 2**14):
            raise ValueError(f"in_channels={channels}, num_classes={classes} and image_size={size} make no data set")
        facts = Facts(channels, classes, size, names)
        labels = max(classes, len(names or ()))
        return _Index(facts, labels, names, supers, bool(content["retrieval"]), dict(content["parts"]))
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise DatasetError(f"{path} cannot be used ({error}): make the shards again") from error


def _texts(value: Any, key: str) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise ValueError(f"{key} is no list of texts")
    return tuple(value)


def _numbers(rows: Mapping[str, Any], key: str, least: int, below: int) -> NDArray[np.int64]:
    """(N,) int64. Raises ValueError unless all are whole numbers from `least` on and below `below`."""
    values = rows[key]
    if not isinstance(values, list) or any(type(value) is not int for value in values):
        raise ValueError(f"{key} is no list of whole numbers")
    bad = [value for value in values if not least <= value < below]
    if bad:
        raise ValueError(f"{key} {bad[0]} is not from {least} to {below - 1}")
    return np.array(values, dtype=np.int64)


def _files(folder: Path, part: str, index: _Index) -> ImageFiles:
    """The images of a part. Raises DatasetError that names the index, or the shards that are missing or too short."""
    rows = index.parts[part]
    try:
        shards, keys, names = (_texts(rows[key], key) or () for key in ("shards", "key", "name"))
        hostile = [name for name in shards if _SHARD_NAME.fullmatch(name) is None]
        hostile += [key for key in keys if PurePosixPath(key).is_absolute() or ".." in PurePosixPath(key).parts]
        if hostile:
            raise ValueError(f"{hostile[0]!r} is no name below the folder")
        number = _numbers(rows, "shard", 0, max(len(shards), 1))
        offset, size = _numbers(rows, "offset", BLOCK, 2**62), _numbers(rows, "size", 0, MOST_IMAGE_BYTES + 1)
        label = _numbers(rows, "label", 0, index.classes)
        if len({len(column) for column in (keys, names, number, offset, size, label)}) != 1:
            raise ValueError("its columns are not equally long")
        if not keys:
            raise ValueError(f"it names no {part} images")
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise DatasetError(f"{folder / INDEX}, part {part}, cannot be used ({error}): make the shards again") from error
    needs = np.zeros(len(shards), dtype=np.int64)
    np.maximum.at(needs, number, offset + size)
    _check_shards(folder, shards, needs.tolist())
    paths = [folder / name for name in shards]
    columns = zip(number.tolist(), names, offset.tolist(), size.tolist(), keys, strict=True)
    members = tuple(Member(paths[n], name, start, length, key) for n, name, start, length, key in columns)
    return ImageFiles(folder, tuple(keys), torch.from_numpy(label), members)


def _check_shards(folder: Path, shards: Sequence[str], needs: Sequence[int]) -> None:
    """Raises DatasetError with all shards that are missing or end before their last image does."""
    problems = []
    for name, least in zip(shards, needs, strict=True):
        path = folder / name
        if not path.is_file():
            problems.append(f"{path} is missing")
        elif path.stat().st_size < least:
            problems.append(f"{path} was cut: it has {path.stat().st_size:,} bytes, its images need {least:,}")
    if problems:
        raise DatasetError("\n".join([*problems, "place these shards again, or make all of them again"]))


class Shards:
    """A data set for classification in the shards that `hyplearn data shard` has written to the root."""

    name = "shards"
    in_files = True

    def facts(self, root: Path | None) -> Facts:
        return self._index(root).facts

    def prepare(self, root: Path | None) -> None:
        self._index(root)

    def train(self, root: Path | None) -> ImageFiles:
        return self._part(root, "train")

    def validation(self, root: Path | None) -> ImageFiles | None:
        return self._part(root, "val") if "val" in self._index(root).parts else None

    def test(self, root: Path | None) -> ImageFiles:
        return self._part(root, "test")

    def _part(self, root: Path | None, part: Part) -> ImageFiles:
        index = self._index(root)
        if part not in index.parts:
            raise DatasetError(f"{root} holds no shards of {part} images")
        return _files(needed(root, self.name), part, index)

    def _index(self, root: Path | None) -> _Index:
        index = _read_index(needed(root, self.name))
        if index.retrieval:
            raise DatasetError(f"{root} holds shards for retrieval: choose dataset=shards_retrieval")
        return index


class RetrievalShards(ByPart):
    """A data set for retrieval in the shards that `hyplearn data shard` has written to the root."""

    name = "shards_retrieval"
    in_files = True

    def facts(self, root: Path | None) -> Facts:
        facts = self._index(root).facts
        names = facts.class_names
        return facts._replace(class_names=None if names is None else names[: facts.num_classes])

    def prepare(self, root: Path | None) -> None:
        self._index(root)

    def part(self, root: Path | None, part: Part) -> RetrievalImages | None:
        index = self._index(root)
        if part not in index.parts:
            if part == "val":
                return None
            raise DatasetError(f"{root} holds no shards of {part} images")
        files = _files(needed(root, self.name), part, index)
        rows, path = index.parts[part], needed(root, self.name) / INDEX
        try:
            query, gallery = (self._column(rows, key, len(files), 2).bool() for key in ("query", "gallery"))
            supers = None
            if index.super_names is not None:
                supers = self._column(rows, "super_label", len(files), len(index.super_names))
        except (ValueError, LookupError) as error:
            raise DatasetError(f"{path}, part {part}, cannot be used ({error}): make the shards again") from error
        names = index.names if index.names is not None else tuple(map(str, range(index.classes)))
        return RetrievalImages(files, names, query, gallery, supers, index.super_names)

    @staticmethod
    def _column(rows: Mapping[str, Any], key: str, count: int, below: int) -> Tensor:
        found = torch.from_numpy(_numbers(rows, key, 0, below))
        if len(found) != count:
            raise ValueError(f"{key} has {len(found)} values for {count} images")
        return found

    def _index(self, root: Path | None) -> _Index:
        index = _read_index(needed(root, self.name))
        if not index.retrieval:
            raise DatasetError(f"{root} holds shards for classification: choose dataset=shards")
        return index

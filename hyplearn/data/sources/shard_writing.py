"""Writes the shards that `hyplearn.data.sources.shards` reads."""

from __future__ import annotations

import json
import secrets
import shutil
import tarfile
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

from hyplearn.data.errors import DatasetError
from hyplearn.data.reading.decoding import SUFFIXES
from hyplearn.data.reading.files import ImageFiles
from hyplearn.data.reading.places import BLOCK, Place, bytes_of, shown
from hyplearn.data.sources.retrieval_source import Part, RetrievalImages
from hyplearn.data.sources.shards import FORMAT, INDEX, MOST_IMAGE_BYTES
from hyplearn.data.sources.source import Source
from hyplearn.runs.atomic import write_text

PARTS: tuple[Part, ...] = ("train", "val", "test")
SHARD_MIB = 1024
Told = Callable[[int, int], None]


class _Rows:
    """What the index says of a part, image by image."""

    def __init__(self) -> None:
        self.columns: dict[str, list[Any]] = {name: [] for name in ("key", "name", "shard", "offset", "size", "label")}
        self.shards: list[str] = []

    def add(self, **values: object) -> None:
        for name, value in values.items():
            self.columns[name].append(value)


class _Writer:
    """Writes the shards of a part one after the other, none larger than `limit` bytes unless by one image."""

    def __init__(self, folder: Path, part: str, limit: int) -> None:
        self.folder, self.part, self.limit = folder, part, limit
        self.rows = _Rows()
        self._tar: tarfile.TarFile | None = None

    def add(self, number: int, key: str, data: bytes, label: int) -> None:
        """Add an image. Raises DatasetError for one that no reader would take."""
        if len(data) > MOST_IMAGE_BYTES:
            raise DatasetError(f"{key}: {len(data):,} bytes are more than {MOST_IMAGE_BYTES:,}: make it smaller")
        tar = self._with_room(len(data))
        suffix = PurePosixPath(key).suffix.lower()
        name = f"{number:08d}{suffix if suffix in SUFFIXES else '.img'}"
        offset = tar.offset + BLOCK
        _add(tar, name, data)
        _add(tar, f"{number:08d}.cls", str(label).encode())
        shard = len(self.rows.shards) - 1
        self.rows.add(key=key, name=name, shard=shard, offset=offset, size=len(data), label=label)

    def _with_room(self, size: int) -> tarfile.TarFile:
        if self._tar is None or (self._tar.offset > 0 and self._tar.offset + size > self.limit):
            self.close()
            name = f"{self.part}-{len(self.rows.shards):06d}.tar"
            self.rows.shards.append(name)
            self._tar = tarfile.open(self.folder / name, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 - `close`
        return self._tar

    def close(self) -> None:
        if self._tar is not None:
            self._tar.close()
        self._tar = None


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    header = tarfile.TarInfo(name)  # no time and no owner: the same images make the same bytes
    header.size = len(data)
    tar.addfile(header, BytesIO(data))


def write_shards(
    source: Source, root: Path | None, folder: Path, *, shard_mib: int = SHARD_MIB, tell: Told | None = None
) -> dict[str, int]:
    """Write all parts of a data set made of image files into a new `folder`. Returns the number of images of each.

    tell: called with how many images more are written, and their total. Raises DatasetError where a part is in no files
    or a file cannot be read; nothing is left then.
    """
    folder = folder.absolute()  # `.` has no name to put another folder beside
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DatasetError(f"{folder} is there already: name a new folder")
    parts = _parts(source, root)
    # A name of its own: of two commands that write the same folder the one that ends last is refused.
    unfinished = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.unfinished")
    unfinished.mkdir(parents=True)
    try:
        index = _describe(source, root, parts)
        total = sum(map(len, parts.values()))
        for name, images in parts.items():
            rows = _write_part(unfinished, name, images, shard_mib * 2**20, tell, total)
            index["parts"][name] = {"shards": rows.shards, **rows.columns, **_roles(images)}
        write_text(unfinished / INDEX, json.dumps(index))
        _put(unfinished, folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return {name: len(images) for name, images in parts.items()}


def _put(unfinished: Path, folder: Path) -> None:
    try:
        if folder.exists():
            folder.rmdir()
        unfinished.rename(folder)
    except OSError as error:
        raise DatasetError(f"{folder} was made meanwhile ({error.strerror}): name a new folder") from error


def _parts(source: Source, root: Path | None) -> dict[str, RetrievalImages | ImageFiles]:
    """Return the parts that the source has. Raises DatasetError where one is in no files."""
    found: dict[str, Any] = {}
    for name, read in zip(PARTS, (source.train, source.validation, source.test), strict=True):
        images = source.part(root, name) if hasattr(source, "part") else read(root)
        if images is not None:
            found[name] = images
    for images in found.values():
        files = images.images if isinstance(images, RetrievalImages) else images
        if not isinstance(files, ImageFiles):
            raise DatasetError(f"{source.name} is not made of image files: it needs no shards")
    return found


def _describe(source: Source, root: Path | None, parts: Mapping[str, RetrievalImages | ImageFiles]) -> dict[str, Any]:
    facts = source.facts(root)
    retrieval = [images for images in parts.values() if isinstance(images, RetrievalImages)]
    names = retrieval[0].class_names if retrieval else facts.class_names
    supers = retrieval[0].super_names if retrieval else None
    return {
        "format": FORMAT,
        "name": source.name,
        "retrieval": bool(retrieval),
        "in_channels": facts.in_channels,
        "num_classes": facts.num_classes,
        "image_size": facts.image_size,
        "class_names": None if names is None else list(names),
        "super_names": None if supers is None else list(supers),
        "parts": {},
    }


def _write_part(
    folder: Path, name: str, images: RetrievalImages | ImageFiles, limit: int, tell: Told | None, total: int
) -> _Rows:
    files = images.images if isinstance(images, RetrievalImages) else images
    assert isinstance(files, ImageFiles)
    writer = _Writer(folder, name, limit)
    try:
        for number, (key, place) in enumerate(zip(files.paths, files.places(), strict=True)):
            writer.add(number, key, _bytes(place), int(files.labels[number]))
            if tell is not None:
                tell(1, total)
    finally:
        writer.close()
    return writer.rows


def _bytes(place: Place) -> bytes:
    try:
        return bytes_of(place)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DatasetError(f"{shown(place)}: {reason}; `hyplearn data verify` names all that is wrong") from error


def _roles(images: RetrievalImages | ImageFiles) -> dict[str, list[int]]:
    """Return which images are queries, in the gallery, and of which coarser class."""
    if not isinstance(images, RetrievalImages):
        return {}
    roles = {"query": images.query.long().tolist(), "gallery": images.gallery.long().tolist()}
    return roles if images.super_labels is None else {**roles, "super_label": images.super_labels.tolist()}

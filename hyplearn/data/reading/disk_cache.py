"""Decoded pictures in one file that is mapped into memory: made once, shared by runs and by processes.

The file is: the pixels (H, W, C) uint8 of one picture after another; an index of int64, for each picture where it
begins, its height and width, and the CRC-32 of its pixels; a description in JSON; and 16 bytes, the length of the
description and a mark. It is named by a hash of what decides on the pixels: relative paths, sizes and times of change
of the files, channels, decoder and its version, and the shorter side.
"""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
import os
import struct
import sys
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from hyplearn.console.counting import counting
from hyplearn.data.errors import BadImageError, DatasetError
from hyplearn.data.reading.decoding import MAX_PIXELS, for_each_file
from hyplearn.data.reading.folders import alone_with
from hyplearn.data.reading.pictures import Decoder, Picture
from hyplearn.data.reading.places import Place, shown, stamp_of

log = logging.getLogger(__name__)

NO_RESERVE = 0x4000  # of Linux; Python has a name for it from 3.13 on
FORMAT = 1
MARK = b"hyplearn"
END = struct.Struct("<Q8s")
COLUMNS = ("offset", "height", "width", "crc")
MOST_DESCRIPTION = 4096  # bytes
LOOKED_AT = 32  # pictures whose CRC is compared when the file is opened


class DamagedCacheError(ValueError):
    """A cache is not what was written."""


@dataclass(frozen=True)
class DiskCache:
    """The pictures of `places` in `file`. Opened by each process for itself.

    rows: the positions in the file, None for all in order.
    """

    file: Path
    places: tuple[Place, ...]
    decoder: Decoder
    rows: tuple[int, ...] | None = None
    _opened: list[_Opened] = field(default_factory=list, repr=False, compare=False)

    @classmethod
    def of(cls, places: Sequence[Place], names: Sequence[str], decoder: Decoder, folder: Path) -> DiskCache:
        """Return the cache for the present state of the files. names: what they are called in it, in order."""
        made_by = version("pillow") if decoder.by == "pillow" else f"{version('torchvision')} {version('pillow')}"
        digest = hashlib.sha256(
            f"{FORMAT}\0{decoder.channels}\0{decoder.by} {made_by}\0{decoder.shorter_side}\n".encode()
        )
        for name, place in zip(names, places, strict=True):
            digest.update(f"{name}\0{stamp_of(place)}\n".encode(errors="surrogateescape"))
        return cls(folder / f"{digest.hexdigest()[:32]}.pixels", tuple(places), decoder)

    def select(self, ids: Tensor) -> DiskCache:
        chosen = ids.tolist()
        rows = range(len(self.places)) if self.rows is None else self.rows
        places = tuple(self.places[i] for i in chosen)
        return replace(self, places=places, rows=tuple(rows[i] for i in chosen), _opened=[])

    def ensure(self, *, threads: int) -> dict[int, BadImageError]:
        """Make the file where it is missing or damaged; who comes meanwhile waits. Returns the bad images by index.

        A whole file is only read, so that it may lie where this process cannot write. Raises DatasetError where the
        folder cannot hold it.
        """
        whole = self._bad_of_whole() if self.file.exists() else None
        if whole is not None:
            return whole
        try:
            with alone_with(self.file):
                bad = self._bad_of_whole() if self.file.exists() else None
                return self._build(threads) if bad is None else bad
        except OSError as error:
            raise DatasetError(
                f"cache=disk: {self.file} cannot be made ({error.strerror or error}): set dataset.cache_folder to a "
                "folder with room, dataset.cache_side to keep smaller pictures, or dataset.cache=none"
            ) from error

    def _bad_of_whole(self) -> dict[int, BadImageError] | None:
        """The images that the file leaves out, decoded again for what is wrong; None if it has to be made anew."""
        try:
            opened = _Opened(self.file, len(self.places), self.decoder.channels)
        except DamagedCacheError as error:
            log.warning("%s is damaged (%s): it is made anew", self.file, error)
            return None
        rows = [int(row) for row in np.flatnonzero(opened.index[:, 1] == 0)]
        places = [self.places[row] for row in rows]
        found = for_each_file(places, lambda _, place: self.decoder.picture(place), threads=1)
        if len(found) < len(rows):
            log.warning("%d images that %s leaves out can be read by now: it is made anew", len(rows), self.file)
            return None
        return {rows[i]: error for i, error in found.items()}

    def _build(self, threads: int) -> dict[int, BadImageError]:
        log.info("decoding %d images into %s", len(self.places), self.file)
        _tell_of_others(self.file)
        unfinished = self.file.with_name(f".{self.file.name}.unfinished")
        try:
            with unfinished.open("wb") as file, counting("decoding images for cache=disk") as tell:
                bad = self._fill(file, threads, lambda: tell(1, len(self.places)))
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, self.file)
        except BaseException:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)  # its part of a full disk is needed
            raise
        return bad

    def _fill(self, file: BinaryIO, threads: int, tell: Callable[[], None]) -> dict[int, BadImageError]:
        index = np.zeros((len(self.places), len(COLUMNS)), dtype="<i8")
        lock, end = Lock(), 0

        def work(row: int, place: Place) -> None:
            nonlocal end
            try:
                pixels = _array(self.decoder.picture(place))
                crc = zlib.crc32(pixels.data)
                with lock:  # in the order in which they are ready
                    index[row] = (end, *pixels.shape[:2], crc)
                    file.write(pixels.data)
                    end += pixels.nbytes
            finally:
                with lock:
                    tell()

        bad = for_each_file(self.places, work, threads=threads)
        facts = {
            "format": FORMAT,
            "count": len(index),
            "channels": self.decoder.channels,
            "crc": zlib.crc32(index.data),
        }
        description = json.dumps(facts).encode()
        file.write(index.data)
        file.write(description + END.pack(len(description), MARK))
        return bad

    # Reading

    def __len__(self) -> int:
        return len(self.places)

    def path(self, index: int) -> Path:
        return shown(self.places[index])

    def picture(self, index: int) -> Picture:
        """Return a picture as the decoder gives it; a tensor is a view into the file, not to be written to."""
        pixels = self._file().pixels(index if self.rows is None else self.rows[index])
        if self.decoder.by == "torchvision":
            return torch.from_numpy(pixels).permute(2, 0, 1)
        return Image.fromarray(pixels[..., 0] if self.decoder.channels == 1 else pixels)

    def _file(self) -> _Opened:
        if not self._opened:
            count = len(self.places) if self.rows is None else None
            self._opened.append(_Opened(self.file, count, self.decoder.channels, look=False))
        return self._opened[0]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": []}  # another process maps the file for itself


def _array(picture: Picture) -> NDArray[np.uint8]:
    """(H, W, C) uint8, contiguous."""
    pixels = tv.pil_to_tensor(picture) if isinstance(picture, Image.Image) else picture
    array: NDArray[np.uint8] = pixels.permute(1, 2, 0).contiguous().numpy()
    return array


class _Opened:
    """A file that is mapped. Raises DamagedCacheError if it is not whole.

    count: of the pictures that it must have, None where it is not known. look: compare the pixels of some pictures with
    their CRC.
    """

    def __init__(self, path: Path, count: int | None, channels: int, *, look: bool = True) -> None:
        self.channels = channels
        with path.open("rb") as file:
            index_end, facts = _description(file)
            rows = facts["count"]
            if facts["format"] != FORMAT or facts["channels"] != channels or count not in (None, rows):
                raise DamagedCacheError(f"it says {facts}, expected are {count} pictures of {channels} channels")
            self.end = index_end - rows * len(COLUMNS) * 8
            if self.end < 0:
                raise DamagedCacheError(f"it is too short for {rows:,} pictures")
            file.seek(self.end)
            content = file.read(index_end - self.end)
        if zlib.crc32(content) != facts["crc"]:
            raise DamagedCacheError("its index does not have the sum that was noted")
        self.index: NDArray[np.int64] = np.frombuffer(content, dtype="<i8").reshape(rows, len(COLUMNS))
        self._check_index()
        # Copied on writing: torch has no tensors that cannot be written to, and the file must stay as it is.
        self.bytes = _mapped(path, self.end) if self.end else np.empty(0, np.uint8)
        if look:
            self._look()

    def _check_index(self) -> None:
        offset, height, width, _ = self.index.T
        sane = (offset >= 0) & (height >= 0) & (width >= 0) & (height <= MAX_PIXELS) & (width <= MAX_PIXELS)
        if not (sane & (offset + height * width * self.channels <= self.end)).all():
            raise DamagedCacheError("its index names bytes that it does not have")

    def _look(self) -> None:
        """Compare some pictures, the first and the last among them: to read all would take as long as to use them."""
        rows = np.linspace(0, len(self.index) - 1, min(LOOKED_AT, len(self.index))).astype(int)
        for row in rows:
            if zlib.crc32(self.pixels(row).data) != self.index[row, 3]:
                raise DamagedCacheError(f"picture {row} does not have the sum that was noted")

    def pixels(self, row: int) -> NDArray[np.uint8]:
        """(H, W, C), a view into the file."""
        offset, height, width, _ = self.index[row].tolist()
        flat = self.bytes[offset : offset + height * width * self.channels]
        return flat.view(np.ndarray).reshape(height, width, self.channels)


def _mapped(path: Path, size: int) -> NDArray[np.uint8]:
    """The first bytes of a file, which may be larger than memory: none is set aside for what could be written to it."""
    with path.open("rb") as file:
        flags = mmap.MAP_PRIVATE | (NO_RESERVE if sys.platform == "linux" else 0)
        mapped = mmap.mmap(file.fileno(), size, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    return np.frombuffer(mapped, dtype=np.uint8)


def _description(file: BinaryIO) -> tuple[int, dict[str, int]]:
    """Where the index ends, and what the file says of itself."""
    size = file.seek(0, os.SEEK_END)
    if size < END.size:
        raise DamagedCacheError("it is cut")
    file.seek(size - END.size)
    length, mark = END.unpack(file.read(END.size))
    if mark != MARK or length > min(MOST_DESCRIPTION, size - END.size):
        raise DamagedCacheError("it is cut")
    start = size - END.size - length
    file.seek(start)
    try:
        found = json.loads(file.read(length))
        facts = {key: int(found[key]) for key in ("format", "count", "channels", "crc")}
    except (ValueError, TypeError, LookupError) as error:
        raise DamagedCacheError(f"its description cannot be read: {error}") from error
    if facts["count"] < 0:
        raise DamagedCacheError(f"it says that it holds {facts['count']} pictures")
    return start, facts


def _tell_of_others(path: Path) -> None:
    """Say what the folder holds already: caches of other states of the files, or of other settings."""
    others = [other for other in path.parent.glob("*.pixels") if other != path]
    if others:
        size = sum(other.stat().st_size for other in others) / 2**30
        log.info(
            "%s holds %d other caches, %.1f GiB: delete those of files or settings that are no more",
            path.parent,
            len(others),
            size,
        )

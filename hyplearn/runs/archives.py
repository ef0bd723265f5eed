"""Archives that somebody else may have made: what they would come to is bounded before they take memory."""

from __future__ import annotations

import math
import os
import zipfile
from pathlib import Path
from typing import IO, BinaryIO

UNPACKED, DENSEST = 2**30, 100  # bytes that a small archive may come to, and times its own size that any may


def check_stored(path: Path) -> None:
    """Raise ValueError for an archive of tensors that would come to more than its own bytes: torch packs nothing.

    A file that is no archive, as older ones, is left to its reader.
    """
    if not zipfile.is_zipfile(path):
        return
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except zipfile.BadZipFile as error:
        raise ValueError(f"it is damaged ({error})") from error
    whole = sum(member.file_size for member in members)
    if whole > size or any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ValueError(f"it would come to {whole:,} bytes from {size:,}, and torch packs nothing: take another file")


def check_arrays(file: BinaryIO) -> None:
    """Raise ValueError for an .npz whose arrays are larger than the bytes that it has for them."""
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        whole = sum(member.file_size for member in members)
        packed = file.seek(0, os.SEEK_END)
        if whole > max(UNPACKED, DENSEST * packed):
            raise ValueError(f"would come to {whole:,} bytes from {packed:,}: it is no archive of such arrays")
        for member in members:
            with archive.open(member) as stream:
                _check_header(stream, member)
    file.seek(0)


def _check_header(stream: IO[bytes], member: zipfile.ZipInfo) -> None:
    import numpy as np  # here: readers of text need none

    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    announced = math.prod(shape) * dtype.itemsize
    if not dtype.hasobject and announced > member.file_size:
        name = member.filename.removesuffix(".npy")
        raise ValueError(f"array {name!r} announces {announced:,} bytes, shape {shape}, and has {member.file_size:,}")

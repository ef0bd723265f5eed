"""Where the bytes of an image lie: a file of its own, or a member of a tar file (a shard)."""

from __future__ import annotations

import os
import tarfile
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeAlias

from hyplearn.runs.regular import check_regular, open_regular

BLOCK = 512  # of a tar file: a header takes one, right before the bytes that it describes
MISSING = "No such file"


class Member(NamedTuple):
    """Bytes `offset` to `offset + size` of a tar file, which are the file `name` in it.

    key: what the image is called in the data set.
    """

    shard: Path
    name: str
    offset: int
    size: int
    key: str


Place: TypeAlias = Path | Member


def shown(place: Place) -> Path:
    """Return the path by which messages name a place; that of a member is below its shard."""
    return place.shard / place.key if isinstance(place, Member) else place


def file_of(place: Place) -> Path:
    """Return the file that holds an image, which is a file whose path is text.

    Raises OSError where there is none or something else lies there, ValueError for a path that tables, records and
    pages could not say.
    """
    file = place.shard if isinstance(place, Member) else place
    try:
        str(file).encode()
    except UnicodeEncodeError as error:
        raise ValueError("its path is not in UTF-8: rename the file or its folder") from error
    check_regular(file)
    return file


def stream_of(place: Place) -> BinaryIO:
    """Return the bytes of an image, to be read and closed.

    Raises OSError where they cannot be read, ValueError where the shard holds something else at that place.
    """
    return BytesIO(bytes_of(place)) if isinstance(place, Member) else open_regular(file_of(place))


def bytes_of(place: Place) -> bytes:
    """Return the bytes of an image. Raises as `stream_of`."""
    if not isinstance(place, Member):
        with stream_of(place) as stream:
            return stream.read()
    with open(file_of(place), "rb", buffering=0) as file:
        file.seek(place.offset - BLOCK)
        block = _exactly(file, BLOCK + place.size)
    if len(block) < BLOCK + place.size:
        raise ValueError(f"the shard ends before byte {place.offset + place.size:,}: it was cut, make it again")
    _check_header(block[:BLOCK], place)
    return block[BLOCK:]


def _exactly(file: BinaryIO, count: int) -> bytes:
    """Read until `count` bytes are there or the file ends; a single read may give fewer."""
    found = file.read(count)
    while len(found) < count and (more := file.read(count - len(found))):
        found += more
    return found


def _check_header(block: bytes, member: Member) -> None:
    """A shard that was written anew, or shifted, has another file there than its index says."""
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise ValueError(f"no file begins there in the shard ({error}): it is damaged, make it again") from error
    if (header.name, header.size, header.isreg()) != (member.name, member.size, True):
        raise ValueError(
            f"the shard holds {header.name!r} of {header.size:,} bytes there, its index names {member.name!r} of "
            f"{member.size:,}: index and shard are not of one making"
        )


def size_of(place: Place) -> int:
    """Return the number of bytes, -1 where there is no file: it is reported with all other bad ones when it is read."""
    if isinstance(place, Member):
        return place.size
    try:
        return place.stat().st_size
    except OSError:
        return -1


class Stamp(NamedTuple):
    """What changes when a file is written anew."""

    size: int
    mtime_ns: int


def stamp_of(place: Place) -> Stamp | None:
    """Return size and time of the last change, those of its shard for the time of a member; None without a file."""
    file = place.shard if isinstance(place, Member) else place
    try:
        found = os.stat(file)
    except OSError:
        return None
    return Stamp(place.size if isinstance(place, Member) else found.st_size, found.st_mtime_ns)

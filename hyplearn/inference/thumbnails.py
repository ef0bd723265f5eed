"""Small pictures of a gallery in one file of an export, so that answers can be shown where the pictures are not."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hyplearn.data.reading.decoding import decode
from hyplearn.runs.archives import check_arrays
from hyplearn.runs.atomic import write_whole
from hyplearn.runs.regular import open_regular

THUMBNAILS = "thumbnails.npz"
SIDE = 160


def thumbnail(path: Path) -> bytes:
    """Return a picture as JPEG within SIDE x SIDE. Raises BadImageError."""
    picture = decode(path, channels=3)
    picture.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=85)
    return stream.getvalue()


def write_thumbnails(folder: Path, pictures: Sequence[Path]) -> None:
    """Write those of a gallery, in its order: all bytes one after the other, and where each ends."""
    made = [thumbnail(path) for path in pictures]
    content = np.frombuffer(b"".join(made), np.uint8)
    ends = np.cumsum([len(one) for one in made])
    write_whole(folder / THUMBNAILS, lambda stream: np.savez(stream, jpeg=content, ends=ends))


def read_thumbnails(folder: Path) -> list[bytes]:
    """Return them; none where the export has no pictures. Raises ValueError for a damaged file."""
    path = folder / THUMBNAILS
    if not path.is_file():
        return []
    with open_regular(path) as stream:
        check_arrays(stream)
        with np.load(stream, allow_pickle=False) as arrays:
            content, ends = arrays["jpeg"].tobytes(), arrays["ends"].tolist()
    starts = [0, *ends[:-1]]
    if any(a > b for a, b in zip(starts, ends, strict=True)) or (ends and ends[-1] != len(content)):
        raise ValueError(f"{path} is damaged: write the export anew")
    return [content[start:end] for start, end in zip(starts, ends, strict=True)]

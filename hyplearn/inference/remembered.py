"""Embeddings of image files, remembered by content: a folder that is searched again is not decoded again."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hyplearn.data.errors import BadImageError, DatasetError
from hyplearn.data.reading.decoding import usable_cpus
from hyplearn.data.reading.folders import alone_with, user_cache
from hyplearn.inference.export import preprocessing
from hyplearn.inference.open import Opened
from hyplearn.inference.prediction import Progress, attempt, listed
from hyplearn.models.digest import weights_digest
from hyplearn.runs.archives import check_arrays
from hyplearn.runs.atomic import write_whole

log = logging.getLogger("hyplearn")

BLOCK = 1 << 20


class Embedded(NamedTuple):
    """positions: (N,) of the files that could be read. points: (N, n_i) of each space. bad: the files that could not.

    remembered: how many were known from before.
    """

    positions: Tensor
    points: tuple[Tensor, ...]
    bad: tuple[BadImageError, ...]
    remembered: int


class Memory:
    """Points of images under one model, by the SHA-256 of the file: one .npz in the user's cache.

    Its name is made of all that the points depend on besides the picture: weights, preprocessing, precision, device.
    """

    def __init__(self, opened: Opened) -> None:
        channels, size = opened.facts["in_channels"], opened.facts["image_size"]
        model = opened.model
        seen = [
            weights_digest(model.model),
            json.dumps(preprocessing(opened.data, channels=channels, size=size), sort_keys=True),
            repr(model.to_pixels),
            model.precision,
            model.device.type,
        ]
        name = hashlib.sha256("\n".join(seen).encode()).hexdigest()[:32]
        self.file = user_cache() / "embeddings" / f"{name}.npz"

    def read(self) -> dict[bytes, tuple[Tensor, ...]]:
        """All points by the digest of their file; none where there is no such file, or a damaged one."""
        try:
            with self.file.open("rb") as stream:
                check_arrays(stream)
                with np.load(stream, allow_pickle=False) as arrays:
                    keys = arrays["keys"]
                    spaces = [torch.from_numpy(arrays[f"points_{i}"]) for i in range(len(arrays.files) - 1)]
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            log.warning("%s cannot be read (%s): the pictures are embedded again", self.file, error)
            return {}
        rows = zip(*(space.unbind() for space in spaces), strict=True)
        return {key.tobytes(): row for key, row in zip(keys, rows, strict=True)}

    def add(self, found: dict[bytes, tuple[Tensor, ...]]) -> None:
        """Keep points beside those that are there by now. What cannot be written is told and costs nothing."""
        try:
            with alone_with(self.file):
                kept = {**self.read(), **found}
                arrays = {"keys": np.frombuffer(b"".join(kept), dtype=np.uint8).reshape(len(kept), -1)}
                spaces = zip(*kept.values(), strict=True)
                arrays |= {f"points_{i}": torch.stack(space).numpy() for i, space in enumerate(spaces)}
                stream = io.BytesIO()
                np.savez(stream, **arrays)  # type: ignore[arg-type]
                write_whole(self.file, lambda file: file.write(stream.getbuffer()))
        except OSError as error:
            log.warning("embeddings cannot be remembered (%s): set HYPLEARN_CACHE to a folder", error)


def embed_files(
    opened: Opened,
    paths: Sequence[Path],
    *,
    batch_size: int,
    skip_unreadable: bool,
    remember: bool = True,
    progress: Progress | None = None,
) -> Embedded:
    """Points of image files; those that the memory knows are not decoded.

    Raises DatasetError as `prediction.apply` does.
    """
    memory = Memory(opened)
    known = memory.read() if remember else {}
    keys = _digests(paths) if remember else [None] * len(paths)
    new = [index for index, key in enumerate(keys) if key not in known]
    rows: dict[int, tuple[Tensor, ...]] = {
        i: known[key] for i, key in enumerate(keys) if key is not None and key in known
    }
    tried = attempt(
        opened.model,
        [paths[index] for index in new],
        batch_size=batch_size,
        skip_unreadable=skip_unreadable,
        progress=progress,
    )
    for positions_read, outputs in zip(tried.positions, tried.outputs, strict=True):
        made = zip(*(points.unbind() for points in outputs.points), strict=True)
        rows |= {new[position]: row for position, row in zip(positions_read.tolist(), made, strict=True)}
    if not rows:
        raise DatasetError(f"none of the {len(paths)} images can be read:\n{listed(tried.bad)}")
    if remember:
        found = {key: rows[index] for index in new if index in rows and (key := keys[index]) is not None}
        if found:
            memory.add(found)
    positions = sorted(rows)
    spaces = zip(*(rows[position] for position in positions), strict=True)
    points = tuple(torch.stack(space) for space in spaces)
    return Embedded(torch.tensor(positions), points, tried.bad, len(paths) - len(new))


def _digests(paths: Sequence[Path]) -> list[bytes | None]:
    """SHA-256 of each file, None for one that cannot be opened: reading it as an image says why."""
    with ThreadPoolExecutor(min(usable_cpus(), 8)) as threads:
        return list(threads.map(_digest, paths))


def _digest(path: Path) -> bytes | None:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while block := stream.read(BLOCK):
                digest.update(block)
    except OSError:
        return None
    return digest.digest()

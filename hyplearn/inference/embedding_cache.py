"""Embeddings of pictures, kept by the content of the files: what was embedded once is not embedded again."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hyplearn.data.errors import BadImageError, DatasetError
from hyplearn.data.outside_images import chunks
from hyplearn.data.reading.folders import alone_with, user_cache
from hyplearn.evaluation.metric import Embeddings
from hyplearn.inference.export import preprocessing
from hyplearn.inference.open import Opened
from hyplearn.inference.prediction import Progress, listed, metrics_to_json, unreadable
from hyplearn.models.digest import weights_digest
from hyplearn.runs.archives import check_arrays
from hyplearn.runs.atomic import write_whole
from hyplearn.runs.regular import open_regular

Point = tuple[np.ndarray[Any, Any], ...]  # of one picture, its coordinates in each space


class Embedded(NamedTuple):
    """Of all files. positions: (N,) of those that could be read; embeddings in their order. bad: the others.

    reused: how many embeddings were known already.
    """

    positions: Tensor
    embeddings: Embeddings
    bad: tuple[BadImageError, ...]
    reused: int


def embed_files(
    opened: Opened,
    paths: Sequence[Path],
    *,
    batch_size: int,
    skip_unreadable: bool,
    progress: Progress | None = None,
) -> Embedded:
    """Return the embeddings of image files; those whose bytes the same weights have seen come from the user's cache.

    Raises DatasetError that names every file that cannot be read, unless they are to be left out.
    """
    file = user_cache() / "embedded" / f"{fingerprint(opened)}.npz"
    hashes = [_hash(path) for path in paths]
    known = _read(file)
    todo = [position for position, key in enumerate(hashes) if key is None or key not in known]
    found = {position: known[key] for position, key in enumerate(hashes) if key is not None and key in known}
    bad: tuple[BadImageError, ...] = ()
    if todo:
        made, bad = _embed(opened, paths, todo, batch_size, skip_unreadable, progress)
        if bad and not skip_unreadable:
            raise unreadable(bad, total=len(paths))
        _extend(file, {key: made[position] for position in made if (key := hashes[position]) is not None})
        found |= made
    if not found:
        raise DatasetError(f"none of the {len(paths)} images can be read:\n{listed(bad)}")
    order = sorted(found)
    points = [torch.from_numpy(np.stack(space)) for space in zip(*(found[i] for i in order), strict=True)]
    metrics = [metric for metric in opened.model.metrics if metric is not None]
    return Embedded(torch.tensor(order), Embeddings(points, metrics), bad, len(paths) - len(todo))


def fingerprint(opened: Opened) -> str:
    """Return a name for everything that decides an embedding: weights, metrics, pixels, precision, device."""
    model = opened.model
    facts = {
        "metrics": metrics_to_json(model.metrics),
        "pixels": preprocessing(opened.data, channels=opened.facts["in_channels"], size=opened.facts["image_size"]),
        "precision": model.precision,
        "device": model.device.type,  # rounding differs
        "weights": weights_digest(model.model),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _embed(
    opened: Opened,
    paths: Sequence[Path],
    todo: Sequence[int],
    batch_size: int,
    skip_unreadable: bool,
    progress: Progress | None,
) -> tuple[dict[int, Point], tuple[BadImageError, ...]]:
    """The points of the files at positions `todo`, by position, and the files that cannot be read."""
    made: dict[int, Point] = {}
    bad: list[BadImageError] = []
    for chunk in chunks([paths[position] for position in todo], opened.model.to_pixels, size=batch_size):
        bad += chunk.bad
        if len(chunk.positions) and (skip_unreadable or not bad):  # else the others are only looked through
            spaces = opened.model.embeddings(opened.model(chunk.pixels).points).points
            points = zip(*(x.numpy() for x in spaces), strict=True)
            made |= dict(zip((todo[index] for index in chunk.positions.tolist()), points, strict=True))
        if progress is not None:
            progress(len(chunk.positions) + len(chunk.bad), len(todo))
    return made, tuple(bad)


def _hash(path: Path) -> bytes | None:
    """SHA-256 of a file; None of one that cannot be read, about which its decoder has the better words."""
    digest = hashlib.sha256()
    try:
        with open_regular(path) as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    except OSError:
        return None
    return digest.digest()


def _read(file: Path) -> dict[bytes, Point]:
    """What the cache holds; nothing of a file that is not there, or that something else has damaged."""
    if not file.is_file():
        return {}
    try:
        with open_regular(file) as stream:
            check_arrays(stream)
            with np.load(stream, allow_pickle=False) as arrays:
                hashes = arrays["hashes"]
                spaces = [arrays[f"embeddings_{i}"] for i in range(len(arrays.files) - 1)]
    except (ValueError, KeyError, OSError, zipfile.BadZipFile):  # it is computed anew
        return {}
    return {key.tobytes(): point for key, point in zip(hashes, zip(*spaces, strict=True), strict=True)}


def _extend(file: Path, fresh: dict[bytes, Point]) -> None:
    """Write what is known now and what is new; two commands do not lose each other's."""
    if not fresh:
        return
    with alone_with(file):
        known = _read(file) | fresh
        hashes = np.frombuffer(b"".join(known), np.uint8).reshape(len(known), -1)
        arrays: dict[str, Any] = {"hashes": hashes}
        arrays |= {f"embeddings_{i}": np.stack(x) for i, x in enumerate(zip(*known.values(), strict=True))}
        write_whole(file, lambda stream: np.savez(stream, **arrays))

"""Best scores of a block of queries in a gallery that is read once, tile after tile.

A tile is what some queries score with some of the gallery. Its size is bounded, whatever the sizes of both: so is the
memory of a search, and a gallery is read as often as there are blocks of queries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

QUERIES = 4096  # of one tile, at most

# Scores of one tile: 64 MiB in float32 on a CPU; on another device 1 GiB, 4,096 queries x 65,536 points.
ENTRIES = 1 << 24
DEVICE_ENTRIES = 1 << 28

WIDER = 8  # how many times as many gallery points a tile has as it gives candidates


class Tile(NamedTuple):
    """How many queries and gallery points it has, at most."""

    queries: int
    gallery: int


class Scores(NamedTuple):
    """scores: (B, m), larger is nearer. parts: other values of the same pairs, (B, m) each."""

    scores: Tensor
    parts: tuple[Tensor, ...] = ()


class Best(NamedTuple):
    """The best scores (B, K) in no order, the gallery positions that have them, and the other values of those pairs."""

    scores: Tensor
    indices: Tensor
    parts: tuple[Tensor, ...]


def tile_of(total: int, count: int, device: torch.device, *, shares: int = 1) -> Tile:
    """Return the size of a tile that gives `count` candidates of a gallery of `total`; `shares` tiles are held at once.

    Few candidates: as many queries as a tile may have. Many: fewer queries, so that a tile has more points than it
    gives, and what is kept stays small beside it.
    """
    entries = max(1, (ENTRIES if device.type == "cpu" else DEVICE_ENTRIES) // shares)
    gallery = min(total, max(WIDER * count, entries // QUERIES), entries)
    return Tile(max(1, min(QUERIES, entries // gallery)), gallery)


def best(score: Callable[[slice], Scores], total: int, count: int, step: int) -> Best:
    """Return the `count` best of `total` gallery points. score: of the points of a slice, of at most `step`."""
    found: Best | None = None
    for start in range(0, total, step):
        tile = score(slice(start, min(start + step, total)))
        scores, index = tile.scores.topk(min(count, tile.scores.shape[1]), sorted=False)
        new = Best(scores, index + start, tuple(part.gather(1, index) for part in tile.parts))
        found = new if found is None else _merged(found, new, count)
    assert found is not None, "a gallery has points"
    return found


def _merged(found: Best, new: Best, count: int) -> Best:
    scores = torch.cat([found.scores, new.scores], 1)
    indices = torch.cat([found.indices, new.indices], 1)
    parts = tuple(torch.cat(pair, 1) for pair in zip(found.parts, new.parts, strict=True))
    if scores.shape[1] <= count:
        return Best(scores, indices, parts)
    scores, place = scores.topk(count, sorted=False)
    return Best(scores, indices.gather(1, place), tuple(part.gather(1, place) for part in parts))


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Keep products of float32 in float32: the proof of a search knows no TF32 and no bfloat16."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)

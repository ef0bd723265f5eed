"""Rows of the benchmark for exact search at size, and what its candidates cost beside the bare product and selection.

Every round times the whole search of some queries and, on the same threads, the float32 product of the same queries
with the same gallery and the selection of as many: of `product_topk` for FAISS, of the same tiles for the torch path.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import NamedTuple

import torch
from measure import Row
from torch import Tensor

from hyplearn.evaluation.metric import Embeddings, Metric
from hyplearn.evaluation.neighbours import MARGIN, Index, Search, neighbours
from hyplearn.evaluation.tiles import Scores, best, tile_of
from hyplearn.inference.costs import resident_bytes

K, QUERIES, CHECKED, ROUNDS = 8, 4096, 16, 3
C = 0.1


class Size(NamedTuple):
    """A gallery, and what the ratio is held to."""

    points: int
    width: int
    target: float


SIZES = (Size(60_502, 128, 1.1), Size(100_000, 384, 1.1), Size(200_000, 384, 1.2))


class Measured(NamedTuple):
    """Seconds of each round, the reference first; bytes beyond the embeddings; agreement with brute force."""

    seconds: dict[str, list[float]]
    peak: int
    equal: bool


def gallery_of(size: Size) -> Tensor:
    """Points of the hyperboloid in classes of five, as trained embeddings lie, (N, n) float32."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.randn(-(-size.points // 5), size.width, generator=generator)
    x = classes.repeat_interleave(5, 0)[: size.points]
    return x.add_(torch.randn(x.shape, generator=generator), alpha=0.5).mul_(2 / size.width**0.5)


def tiled_product(x: Tensor, y: Tensor, count: int) -> None:
    """The bare product and selection of the torch path."""
    tile = tile_of(len(y), count, y.device)
    for block in x.split(tile.queries):
        best(lambda part, block=block: Scores(block @ y[part].mT), len(y), count, tile.gallery)  # type: ignore[misc]


def product_topk(x: Tensor, y: Tensor, count: int) -> None:
    """Blocks of 512 queries against the whole gallery, and their topk."""
    for block in x.split(512):
        (block @ y.mT).topk(count, sorted=False)


def measure(size: Size, index: Index, threads: int) -> Measured:
    """In a process of its own, whose peak resident set is that of the search."""
    torch.set_num_threads(threads)
    x = gallery_of(size)
    few = Embeddings(x[:600], Metric("lorentz", C))
    neighbours(few, few, K, index=index)  # imports and thread pools are not what is measured
    before = resident_bytes()
    gallery = Embeddings(x, Metric("lorentz", C))
    search = Search(gallery, gallery, index=index)
    rows = torch.arange(min(QUERIES, len(x)))
    found = search.nearest(rows, K)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    columns = search.terms[0].columns32
    assert columns is not None
    query = search.terms[0].rows(x[rows]).vectors.float()
    bare = partial(product_topk if index == "faiss" else tiled_product, query, columns, K + 1 + MARGIN)
    steps: dict[str, Callable[[], object]] = {"product + selection": bare, "hyplearn": lambda: search.nearest(rows, K)}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    return Measured(seconds, peak, _equal(gallery, found.indices))


def _equal(gallery: Embeddings, indices: Tensor) -> bool:
    """Whether some queries found what comparing them with every point in float64 finds."""
    columns = torch.arange(len(gallery))
    for row in range(0, len(indices), len(indices) // CHECKED):
        parts = [gallery.direct(torch.full_like(part, row), gallery, part) for part in columns.split(10_000)]
        if not torch.equal(torch.cat(parts).argsort(stable=True)[:K], indices[row]):
            return False
    return True


def search_row(size: Size, index: Index, options: argparse.Namespace) -> Row:
    """Search of 4,096 queries, k = 8, against the bare product and selection."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as apart:
        measured = apart.submit(measure, size, index, options.threads).result()
    if not measured.equal:
        raise AssertionError(f"the search of {size} by {index} is not that of float64 brute force")
    target = 1.2 if index == "torch" else size.target
    name = f"search {QUERIES} in {size.points} x {size.width}, {index} (bytes in GB) / product + selection"
    row = Row(name, target, 1.0, images=QUERIES)
    row.seconds, row.saved = measured.seconds, {"GB": 10**9, "hyplearn": measured.peak}
    return row


def search_rows(options: argparse.Namespace, wanted: Callable[[str], bool]) -> Iterator[Row]:
    """The rows whose name is `wanted`, measured one after the other."""
    indexes: tuple[Index, ...] = ("faiss", "torch")
    for size in SIZES:
        for index in indexes:
            if wanted(f"search_{index}_{size.points}"):
                yield search_row(size, index, options)

"""Exact nearest neighbours: candidates from a fast search, their order in float64, and a proof that none is missing.

1. Candidates: for each query the k + margin gallery points of the best scores, in float32 by FAISS (flat inner product)
   or in float64 by blocks of matrix products on the device of the points.
2. Order: the candidates' dissimilarities D in float64, from the lifted inner product where its rounding cannot matter;
   pairs that are close, or whose D differ by no more than the rounding bound, directly from their coordinates.
3. Proof: the worst score of a candidate, moved by the bound of its rounding error, says how near a point that is no
   candidate could be. If that is not farther than the k-th neighbour, the query is searched again: in float64, then
   with more candidates, in the end with all of them.

So the result is that of comparing every pair in float64 by the direct formula and sorting by (D, position in the
gallery), whatever the search, the blocks and the number of duplicates.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hyplearn.errors import one_of
from hyplearn.evaluation.duplicates import Distinct
from hyplearn.evaluation.inner_products import Lifted
from hyplearn.evaluation.metric import Embeddings, Metric

Index = Literal["auto", "faiss", "torch"]

MARGIN = 32  # candidates beyond k
GROWTH = 8  # how many times as many a search that fell short takes next

# Entries of a temporary tensor: products with the whole gallery, 128 MiB; gathered gallery points, 64 MiB; candidates
# of a block of queries, 32 MiB. FAISS is slow with few queries at once.
BLOCK = 1 << 24
GATHERED = 1 << 23
CANDIDATES = 1 << 22
FAISS_ROWS = 4096

# A pair is close when its gap is less than this share of the terms whose difference it is.
CLOSE = 1e-5

# float32 holds products of sizes up to here.
LARGEST_SIZE = 1e18


class Neighbours(NamedTuple):
    """indices: (B, k) int64 positions in the gallery, nearest first. distances: (B, k) float64. Padding: -1, inf."""

    indices: Tensor
    distances: Tensor


class _Candidates(NamedTuple):
    """indices: (B, K) positions. gaps: (B, K) for each space. floor: (B,), no other gallery point has a smaller D."""

    indices: Tensor
    gaps: list[Tensor]
    floor: Tensor


def _rounding(width: int, dtype: torch.dtype) -> float:
    """Bound of the error of an inner product of `width` terms, in any order, relative to the product of sizes."""
    return (width + 10) * torch.finfo(dtype).eps / 2


class _Term:
    """One space of the metric: query and gallery lifted in float64."""

    def __init__(self, metric: Metric, query: Tensor, gallery: Tensor) -> None:
        self.metric, self.form, self.query = metric, metric.form, query
        self.midst = self.form.midst(gallery.double())
        lifted = self.form.gallery(gallery.double(), self.midst)
        self.columns, self.sizes = lifted.vectors, lifted.sizes
        self.largest = self.sizes.amax(0)
        self.width = self.columns.shape[1]

    def rows(self, rows: Tensor) -> Lifted:
        """The queries at positions `rows`."""
        return self.form.query(self.query[rows].double(), self.midst)

    def slack(self, rows: Lifted, dtype: torch.dtype) -> Tensor:
        """Bound of the error of gaps to any gallery point whose scores were computed in `dtype`, (B,)."""
        error = _rounding(self.width, dtype) * (rows.sizes @ self.largest)
        # numbers and products below the smallest normal one may have become 0
        lost = self.width * torch.finfo(dtype).tiny * (1 + rows.sizes.sum(-1) + self.largest.sum())
        return self.form.scale * (error + lost + torch.finfo(torch.float64).eps * 4 * rows.offset)

    def gap(self, rows: Lifted, score: Tensor) -> Tensor:
        """Gaps from scores (B, ...), which are overwritten."""
        return score.neg_().add_(rows.offset[:, None]).mul_(self.form.scale)

    def scores(self, rows: Lifted) -> Tensor:
        """Scores of the whole gallery, (B, M) float64."""
        product: Tensor = rows.vectors @ self.columns.mT
        return product

    def gathered(self, rows: Lifted, index: Tensor) -> Tensor:
        """Gaps to the gallery points `index` (B, K)."""
        count = index.shape[1]
        step = max(1, min(len(index), GATHERED // (count * self.width)))
        space = self.columns.new_empty(step * count, self.width)
        score = self.columns.new_empty(*index.shape, 1)
        for start in range(0, len(index), step):
            part = index[start : start + step].reshape(-1)
            points = torch.index_select(self.columns, 0, part, out=space[: len(part)]).view(-1, count, self.width)
            torch.bmm(points, rows.vectors[start : start + step, :, None], out=score[start : start + step])
        return self.gap(rows, score.squeeze(-1))

    def distance(self, gap: Tensor) -> Tensor:
        """Return the weighted D."""
        return self.form.distance(gap.clamp(min=0)).mul_(self.metric.weight)

    def close(self, rows: Lifted, index: Tensor, gap: Tensor) -> Tensor:
        """Pairs whose gap is too small a difference of its terms, (B, K)."""
        share = CLOSE * self.form.scale
        if not (gap <= share * (rows.sizes @ self.largest + rows.offset)[:, None]).any():
            return torch.zeros_like(gap, dtype=torch.bool)
        head, tail = (self.sizes[:, i][index].mul_(rows.sizes[:, i, None]) for i in (0, 1))
        return gap <= head.add_(tail).add_(rows.offset[:, None]).mul_(share)


class Search:
    """Nearest neighbours of any of the queries in one gallery. See `neighbours` for the arguments."""

    def __init__(
        self,
        query: Embeddings,
        gallery: Embeddings,
        *,
        query_ids: Tensor | None = None,
        gallery_ids: Tensor | None = None,
        index: Index = "auto",
    ) -> None:
        one_of("index", index, Index)
        _check_comparable(query, gallery)
        self.query, self.gallery = query, gallery
        self.own = _positions(query, gallery, query_ids, gallery_ids)
        distinct = Distinct(gallery)
        self.distinct = distinct if distinct.most > MARGIN else None
        if self.distinct is not None:
            self.gallery = gallery.select(self.distinct.first)
        self.terms = [
            _Term(metric, x, y) for metric, x, y in zip(query.metrics, query.points, self.gallery.points, strict=True)
        ]
        self.relative = 2 * max(_rounding(term.width, torch.float64) for term in self.terms) / CLOSE
        self.columns32 = self._faiss_columns(index)

    def _faiss_columns(self, index: Index) -> np.ndarray[tuple[int, int], np.dtype[np.float32]] | None:
        """The gallery as FAISS reads it, None where the float64 search is to be used alone."""
        term = self.terms[0]
        if index == "auto":
            index = "faiss" if self.gallery.device.type == "cpu" and importlib.util.find_spec("faiss") else "torch"
        if index == "torch" or len(self.terms) > 1 or term.largest.amax() > LARGEST_SIZE:
            return None
        columns: np.ndarray[tuple[int, int], np.dtype[np.float32]] = term.columns.float().cpu().numpy()
        return columns

    def blocks(self, k: int, rows: Tensor) -> Iterator[tuple[Tensor, Neighbours]]:
        """The k nearest of the queries at positions `rows` (B,), block after block: positions and neighbours."""
        for block in rows.split(max(1, min(FAISS_ROWS, CANDIDATES // k))):
            yield block, self.nearest(block, k)

    def nearest(self, rows: Tensor, k: int) -> Neighbours:
        """The k nearest of the queries at positions `rows` (B,)."""
        own = None if self.own is None else self.own[rows]
        if self.distinct is None:
            return self._nearest(rows, k, own)
        found = self._nearest(rows, min(k + 1, len(self.gallery)), None)
        return Neighbours(*self.distinct.expand(found.indices, found.distances, k, own))

    def _nearest(self, rows: Tensor, k: int, own: Tensor | None) -> Neighbours:
        """The k nearest of `self.gallery`, without the positions `own` (B,)."""
        found = _none_found(len(rows), k, rows.device)
        # where nearly all are candidates anyway, gathering them costs more than all products
        fast = self.columns32 is not None and k * GROWTH <= len(self.gallery)
        self._fill(found, torch.arange(len(rows), device=rows.device), rows, own, margin=MARGIN, fast=fast)
        return found

    def _fill(
        self, found: Neighbours, places: Tensor, rows: Tensor, own: Tensor | None, *, margin: int, fast: bool
    ) -> None:
        """Write the neighbours of the queries at `places` of `rows` to `found`; again where the proof fails."""
        k, total = found.indices.shape[1], len(self.gallery)
        count = min(k + 1 + margin, total)  # one may be the query itself
        step = FAISS_ROWS if fast else max(1, BLOCK // (total * len(self.terms)))
        for place in places.split(step):
            part, excluded = rows[place], None if own is None else own[place]
            lifted = [term.rows(part) for term in self.terms]
            candidates = self._by_faiss(lifted[0], count) if fast else self._by_products(lifted, count)
            ordered = self._order(part, lifted, candidates, excluded)
            kept = min(k, count)
            indices, distances = ordered.indices[:, :kept], ordered.distances[:, :kept]
            proven = candidates.floor.isinf() | (candidates.floor > distances[:, -1] * (1 + self.relative))
            found.indices[place[proven], :kept] = indices.masked_fill(distances.isinf(), -1)[proven]
            found.distances[place[proven], :kept] = distances[proven]
            if not proven.all():
                more = margin if fast else (k + margin) * GROWTH
                self._fill(found, place[~proven], rows, own, margin=more, fast=False)

    def _by_faiss(self, rows: Lifted, count: int) -> _Candidates:
        """The `count` best scores in float32."""
        import faiss  # after torch, whose OpenMP runtime comes first

        term = self.terms[0]
        assert self.columns32 is not None
        vectors = rows.vectors.clamp(-LARGEST_SIZE, LARGEST_SIZE).float().cpu().numpy()
        with _threads(faiss, torch.get_num_threads()):
            scores, found = faiss.knn(vectors, self.columns32, count, metric=faiss.METRIC_INNER_PRODUCT)
        index = torch.from_numpy(found).to(rows.vectors.device)
        worst = torch.from_numpy(scores[:, -1]).to(rows.vectors)
        gap = term.form.scale * (rows.offset - worst) - term.slack(rows, torch.float32)
        floor = term.distance(gap.masked_fill(rows.sizes.amax(-1) > LARGEST_SIZE, 0))  # proves nothing if clamped
        return _Candidates(index, [term.gathered(rows, index)], self._floor(floor, count))

    def _by_products(self, rows: list[Lifted], count: int) -> _Candidates:
        """The `count` nearest by products in float64."""
        scores = [term.scores(lifted) for term, lifted in zip(self.terms, rows, strict=True)]
        slacks = [term.slack(lifted, torch.float64) for term, lifted in zip(self.terms, rows, strict=True)]
        if len(scores) == 1:
            best, index = scores[0].topk(count, sorted=False)
            gap = self.terms[0].gap(rows[0], best)
            floor = self.terms[0].distance(gap.amax(-1) - slacks[0])
            return _Candidates(index, [gap], self._floor(floor, count))
        gaps = [term.gap(lifted, score) for term, lifted, score in zip(self.terms, rows, scores, strict=True)]
        total = sum(term.distance(gap) for term, gap in zip(self.terms, gaps, strict=True))
        assert isinstance(total, Tensor)
        values, index = total.topk(count, largest=False, sorted=False)
        # D is concave in its gap and 0 at 0, so an error of the gap moves it by no more than D of the error
        error = sum(term.distance(slack) for term, slack in zip(self.terms, slacks, strict=True))
        floor = values.amax(-1) * (1 - self.relative) - error
        return _Candidates(index, [gap.gather(1, index) for gap in gaps], self._floor(floor, count))

    def _floor(self, floor: Tensor, count: int) -> Tensor:
        """Nothing is left out when all are candidates."""
        return torch.full_like(floor, torch.inf) if count == len(self.gallery) else floor

    def _order(self, part: Tensor, rows: list[Lifted], candidates: _Candidates, own: Tensor | None) -> Neighbours:
        """The candidates by (D, position), those to leave out last at D = inf."""
        index = candidates.indices
        distance = torch.zeros(index.shape, dtype=torch.float64, device=index.device)
        exact = torch.zeros(index.shape, dtype=torch.bool, device=index.device)
        for term, lifted, gap in zip(self.terms, rows, candidates.gaps, strict=True):
            exact |= term.close(lifted, index, gap)
            distance += term.distance(gap)
        self._direct(distance, part, index, exact)
        if own is not None:
            distance[index == own[:, None]] = torch.inf
        distance, order = distance.sort(-1)
        index, exact = index.gather(1, order), exact.gather(1, order)
        # neighbours in this order whose D the rounding of products may have exchanged
        loose = distance.diff() <= 2 * self.relative * distance[:, :-1]
        unsure = torch.nn.functional.pad(loose, (1, 0)) | torch.nn.functional.pad(loose, (0, 1))
        again = unsure.any(-1).nonzero().squeeze(-1)
        if len(again):
            index[again], distance[again] = self._settle(
                part[again], index[again], distance[again], unsure[again] & ~exact[again]
            )
        return Neighbours(index, distance)

    def _settle(self, part: Tensor, index: Tensor, distance: Tensor, unsure: Tensor) -> tuple[Tensor, Tensor]:
        """Sort by (D, position) after the `unsure` D are computed directly."""
        self._direct(distance, part, index, unsure)
        index, order = index.sort(-1)
        distance, order = distance.gather(1, order).sort(dim=-1, stable=True)
        return index.gather(1, order), distance

    def _direct(self, distance: Tensor, part: Tensor, index: Tensor, where: Tensor) -> None:
        """Overwrite D of the pairs `where` (B, K) by the direct formula."""
        step = max(1, GATHERED // (8 * self.query.width))  # the formulas hold several tensors of this size
        for pairs in where.nonzero().split(step):
            i, j = pairs.unbind(-1)
            distance[i, j] = self.query.direct(part[i], self.gallery, index[i, j])


def neighbours(
    query: Embeddings,
    gallery: Embeddings,
    k: int,
    *,
    query_ids: Tensor | None = None,
    gallery_ids: Tensor | None = None,
    index: Index = "auto",
) -> Neighbours:
    """The k nearest gallery points of every query under the metric of both, exactly.

    query, gallery: with the same metrics, on one device, float32 or float64; D is that of the given coordinates in
    float64. query_ids, gallery_ids: (Nq,), (M,) integers; a gallery point with the id of the query is not a neighbour
    of it. Those of the gallery must be distinct. Without them every gallery point is.
    index: faiss (float32 flat inner product on the CPU), torch (float64 products on the points' device) or auto (faiss
    on a CPU, torch on a GPU). The result is the same. A sum of several dissimilarities is no inner product, and is
    searched by products whatever `index` says.

    Returns indices (Nq, k) int64 and distances (Nq, k) float64, sorted by (D, position in the gallery): equal D, lower
    position first. Where the gallery has fewer than k other points the rest is -1 and inf. Distances are right to 1e-8
    of their value, those of close or tied pairs to float64.
    """
    if k < 1:
        raise ValueError(f"k={k} must be >= 1: the number of neighbours")
    search = Search(query, gallery, query_ids=query_ids, gallery_ids=gallery_ids, index=index)
    found = _none_found(len(query), k, query.device)
    for rows, block in search.blocks(k, torch.arange(len(query), device=query.device)):
        found.indices[rows], found.distances[rows] = block
    return found


def _none_found(count: int, k: int, device: torch.device) -> Neighbours:
    return Neighbours(
        torch.full((count, k), -1, device=device),
        torch.full((count, k), torch.inf, dtype=torch.float64, device=device),
    )


def _check_comparable(query: Embeddings, gallery: Embeddings) -> None:
    if query.metrics != gallery.metrics:
        raise ValueError(
            f"query has the metric {query}, gallery {gallery}: they can be compared only under the same one"
        )
    if query.device != gallery.device:
        raise ValueError(f"query is on {query.device}, gallery on {gallery.device}: move both to one device")
    for x, y, metric in zip(query.points, gallery.points, query.metrics, strict=True):
        if x.shape[1] != y.shape[1]:
            raise ValueError(f"query has {metric} points of {x.shape[1]} dimensions, gallery of {y.shape[1]}")
    if not len(gallery):
        raise ValueError("gallery has no points: neighbours need at least one")


def _positions(
    query: Embeddings, gallery: Embeddings, query_ids: Tensor | None, gallery_ids: Tensor | None
) -> Tensor | None:
    """Return where in the gallery each query itself is, (Nq,), -1 if it is not there. None without ids."""
    if query_ids is None and gallery_ids is None:
        return None
    if query_ids is None or gallery_ids is None:
        raise ValueError("query_ids and gallery_ids must be given together: a query is left out by its id")
    for name, ids, points in (("query_ids", query_ids, query), ("gallery_ids", gallery_ids, gallery)):
        if ids.shape != (len(points),) or ids.is_floating_point() or ids.is_complex():
            raise ValueError(f"{name} of shape {tuple(ids.shape)} and {ids.dtype} must be {len(points)} integers")
    known, order = gallery_ids.to(gallery.device).sort()
    repeated = (known.diff() == 0).nonzero()
    if len(repeated):
        raise ValueError(f"gallery_ids={known[repeated[0]].item()} appears twice: every gallery point needs its own id")
    wanted = query_ids.to(gallery.device).contiguous()
    place = torch.searchsorted(known, wanted).clamp(max=len(known) - 1)
    return torch.where(known[place] == wanted, order[place], -1)


@contextmanager
def _threads(faiss: object, count: int) -> Iterator[None]:
    """Give FAISS, which has an OpenMP runtime of its own, as many threads as torch uses."""
    before = faiss.omp_get_max_threads()  # type: ignore[attr-defined]
    faiss.omp_set_num_threads(count)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)  # type: ignore[attr-defined]

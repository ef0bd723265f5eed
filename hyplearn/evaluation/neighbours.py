"""Exact nearest neighbours: candidates from a fast search, their order in float64, and a proof that none is missing.

1. Candidates: for each query the k + margin gallery points of the best scores, in float32: by FAISS (flat inner
   product) on a CPU, by tiles of products on the device of the points.
2. Order: the candidates' dissimilarities D in float64, from the lifted inner product where its rounding cannot matter;
   pairs that are close, or whose D differ by no more than the rounding bound, directly from their coordinates.
3. Proof: the worst score of a candidate, moved by the bound of its rounding error, says how near a point that is no
   candidate could be. If that is not farther than the k-th neighbour, the query is searched again: by products in
   float64, then with more candidates, in the end with all of them.

So the result is that of comparing every pair in float64 by the direct formula and sorting by (D, position in the
gallery), whatever the search, the tiles and the number of duplicates.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from hyplearn.errors import one_of
from hyplearn.evaluation.duplicates import Distinct
from hyplearn.evaluation.inner_products import Lifted
from hyplearn.evaluation.lifted_gallery import CLOSE, LARGEST_SIZE, LiftedGallery, rounding
from hyplearn.evaluation.metric import Embeddings
from hyplearn.evaluation.tiles import QUERIES, Scores, Tile, best, full_precision, tile_of

Index = Literal["auto", "faiss", "torch"]

MARGIN = 32  # candidates beyond k
GROWTH = 8  # how many times as many a search that fell short takes next

# Entries of temporary tensors: coordinates of pairs, 64 MiB; candidates of a block of queries, 32 MiB.
PAIRED = 1 << 23
CANDIDATES = 1 << 22


class Neighbours(NamedTuple):
    """indices: (B, k) int64 positions in the gallery, nearest first. distances: (B, k) float64. Padding: -1, inf."""

    indices: Tensor
    distances: Tensor


class _Candidates(NamedTuple):
    """indices: (B, K) positions. gaps: (B, K) for each space. floor: (B,), no other gallery point has a smaller D."""

    indices: Tensor
    gaps: list[Tensor]
    floor: Tensor


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
        distinct = Distinct(gallery.points, gallery.hashes)
        self.distinct = distinct if distinct.most > MARGIN else None
        if self.distinct is not None:
            self.gallery = gallery.select(self.distinct.first)
        self.terms = [
            LiftedGallery(metric, points) for metric, points in zip(query.metrics, self.gallery.points, strict=True)
        ]
        self.relative = 2 * max(rounding(term.width, torch.float64) for term in self.terms) / CLOSE
        self.in_float32 = all(term.columns32 is not None for term in self.terms)
        self.faiss = self._chosen(index) == "faiss" and len(self.terms) == 1

    def _chosen(self, index: Index) -> str:
        """The index asked for; `auto` is FAISS on a CPU, if it is installed."""
        if index != "auto":
            return index
        return "faiss" if self.gallery.device.type == "cpu" and importlib.util.find_spec("faiss") else "torch"

    def asked(self, query: Embeddings) -> Search:
        """Return the search of other queries in the same gallery, which is not made ready again. They have no ids."""
        _check_comparable(query, self.gallery)
        other = copy.copy(self)
        other.query, other.own = query, None
        return other

    def blocks(self, k: int, rows: Tensor) -> Iterator[tuple[Tensor, Neighbours]]:
        """The k nearest of the queries at positions `rows` (B,), block after block: positions and neighbours."""
        for block in rows.split(max(1, min(QUERIES, CANDIDATES // k))):
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
        fast = self.in_float32 and k * GROWTH <= len(self.gallery)
        self._fill(found, torch.arange(len(rows), device=rows.device), rows, own, margin=MARGIN, fast=fast)
        return found

    def _fill(
        self, found: Neighbours, places: Tensor, rows: Tensor, own: Tensor | None, *, margin: int, fast: bool
    ) -> None:
        """Write the neighbours of the queries at `places` of `rows` to `found`; again where the proof fails."""
        k, total = found.indices.shape[1], len(self.gallery)
        count = min(k + 1 + margin, total)  # one may be the query itself
        dtype = torch.float32 if fast else torch.float64
        by_faiss = fast and self.faiss
        tile = self._tile(count, dtype)
        for place in places.split(QUERIES if by_faiss else tile.queries):
            part, excluded = rows[place], None if own is None else own[place]
            lifted = [term.rows(x[part]) for term, x in zip(self.terms, self.query.points, strict=True)]
            candidates = self._by_faiss(lifted[0], count) if by_faiss else self._by_products(lifted, count, dtype, tile)
            ordered = self._order(part, lifted, candidates, excluded)
            kept = min(k, count)
            indices, distances = ordered.indices[:, :kept], ordered.distances[:, :kept]
            proven = candidates.floor.isinf() | (candidates.floor > distances[:, -1] * (1 + self.relative))
            found.indices[place[proven], :kept] = indices.masked_fill(distances.isinf(), -1)[proven]
            found.distances[place[proven], :kept] = distances[proven]
            if not proven.all():
                more = margin if fast else (k + margin) * GROWTH
                self._fill(found, place[~proven], rows, own, margin=more, fast=False)

    def _tile(self, count: int, dtype: torch.dtype) -> Tile:
        """The size of a tile of products: a sum holds scores, gaps and distances of each space."""
        shares = (1 if len(self.terms) == 1 else 2 * len(self.terms)) * (2 if dtype == torch.float64 else 1)
        tile = tile_of(len(self.gallery), count, self.gallery.device, shares=shares)
        return tile._replace(gallery=min(tile.gallery, *(term.reach_of_tile(dtype) for term in self.terms)))

    def _by_faiss(self, rows: Lifted, count: int) -> _Candidates:
        """The `count` best scores in float32."""
        import faiss  # after torch, whose OpenMP runtime comes first

        term = self.terms[0]
        assert term.columns32 is not None
        vectors = rows.vectors.clamp(-LARGEST_SIZE, LARGEST_SIZE).float().cpu().numpy()
        with _threads(faiss, torch.get_num_threads()):
            scores, found = faiss.knn(vectors, term.columns32.cpu().numpy(), count, metric=faiss.METRIC_INNER_PRODUCT)
        index = torch.from_numpy(found).to(rows.vectors.device)
        worst = torch.from_numpy(scores[:, -1]).to(rows.vectors)
        return self._of_one_space(rows, worst, index, [term.gathered(rows, index)], torch.float32)

    def _by_products(self, rows: list[Lifted], count: int, dtype: torch.dtype, tile: Tile) -> _Candidates:
        """The `count` nearest by products in `dtype`."""
        scoring = self._score_of_one if len(self.terms) == 1 else self._score_of_sum
        with full_precision(self.gallery.device):
            found = best(scoring(rows, dtype), len(self.gallery), count, tile.gallery)
        if len(self.terms) == 1:
            term, exact = self.terms[0], dtype == torch.float64
            worst = found.scores.amin(-1).double()
            gap = term.gap(rows[0], found.scores) if exact else term.gathered(rows[0], found.indices)
            return self._of_one_space(rows[0], worst, found.indices, [gap], dtype)
        gaps = list(found.parts)
        if dtype != torch.float64:
            gaps = [term.gathered(lifted, found.indices) for term, lifted in zip(self.terms, rows, strict=True)]
        sized = torch.stack([lifted.sizes.amax(-1) for lifted in rows]).amax(0)
        # a bound of each sum is computed in `dtype` itself, from a few functions that are right to some digits
        floor = -found.scores.amin(-1).double() * (1 - 32 * torch.finfo(dtype).eps - self.relative)
        return _Candidates(found.indices, gaps, self._floor(self._provable(floor, sized, dtype), count))

    def _score_of_one(self, rows: list[Lifted], dtype: torch.dtype) -> Callable[[slice], Scores]:
        """Inner products with a slice of the gallery."""
        term, vectors = self.terms[0], _in(rows[0].vectors, dtype)
        return lambda part: Scores(vectors @ term.columns(part, dtype).mT)

    def _score_of_sum(self, rows: list[Lifted], dtype: torch.dtype) -> Callable[[slice], Scores]:
        """Minus the least that a sum of D can be: that of gaps which are as small as their errors allow."""
        vectors = [_in(lifted.vectors, dtype) for lifted in rows]
        offsets = [lifted.offset.to(dtype)[:, None] for lifted in rows]
        slacks = [
            term.slack(lifted, dtype, dtype).to(dtype)[:, None] for term, lifted in zip(self.terms, rows, strict=True)
        ]

        def score(part: slice) -> Scores:
            gaps, total = [], None
            for term, vector, offset, slack in zip(self.terms, vectors, offsets, slacks, strict=True):
                gap = (vector @ term.columns(part, dtype).mT).neg_().add_(offset).mul_(term.form.scale)
                least = term.distance(gap - slack)
                total = least if total is None else total.add_(least)
                if dtype == torch.float64:
                    gaps.append(gap)
            assert total is not None
            return Scores(total.neg_(), tuple(gaps))

        return score

    def _of_one_space(
        self, rows: Lifted, worst: Tensor, index: Tensor, gaps: list[Tensor], dtype: torch.dtype
    ) -> _Candidates:
        """Candidates of which the `worst` score (B,) was computed in `dtype`."""
        term = self.terms[0]
        floor = term.distance(term.form.scale * (rows.offset - worst) - term.slack(rows, dtype))
        return _Candidates(index, gaps, self._floor(self._provable(floor, rows.sizes.amax(-1), dtype), index.shape[1]))

    def _provable(self, floor: Tensor, sizes: Tensor, dtype: torch.dtype) -> Tensor:
        """Nothing is proven of queries whose coordinates float32 cannot hold, and which were cut."""
        return floor.masked_fill(sizes > LARGEST_SIZE, 0) if dtype == torch.float32 else floor

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
        step = max(1, PAIRED // (8 * self.query.width))  # the formulas hold several tensors of this size
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
    index: faiss (float32 flat inner product on the CPU), torch (float32 products on the points' device) or auto (faiss
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


def _in(vectors: Tensor, dtype: torch.dtype) -> Tensor:
    """Vectors of queries in `dtype`, cut to what its products hold."""
    return vectors if dtype == torch.float64 else vectors.clamp(-LARGEST_SIZE, LARGEST_SIZE).to(dtype)


@contextmanager
def _threads(faiss: object, count: int) -> Iterator[None]:
    """Give FAISS, which has an OpenMP runtime of its own, as many threads as torch uses."""
    before = faiss.omp_get_max_threads()  # type: ignore[attr-defined]
    faiss.omp_set_num_threads(count)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)  # type: ignore[attr-defined]

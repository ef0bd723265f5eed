"""One space of a search: its gallery as float32 columns for products, and what float64 needs to have beside them."""

from __future__ import annotations

import torch
from torch import Tensor

from hyplearn.evaluation.inner_products import COPIED, Lifted, in_double
from hyplearn.evaluation.metric import Metric

GATHERED = 1 << 20  # entries of the gallery points that are gathered at one time, 8 MiB

# float32 holds products of sizes up to here.
LARGEST_SIZE = 1e18

# A pair is close when its gap is less than this share of the terms whose difference it is.
CLOSE = 1e-5


def rounding(width: int, dtype: torch.dtype) -> float:
    """Bound of the error of an inner product of `width` terms, in any order, relative to the product of sizes."""
    return (width + 10) * torch.finfo(dtype).eps / 2


class LiftedGallery:
    """A gallery (M, n) under one metric, lifted: in float32 whole, in float64 a few points at a time.

    columns32: (M, m), None where float32 cannot hold products. sizes: (M, 2). heads: (M, m - n) float64, the columns
    of the lift that are no coordinates, and factors: (M, 1), what multiplies the others, or None: both without a midst,
    with which every lift is made anew.
    """

    def __init__(self, metric: Metric, points: Tensor) -> None:
        self.metric, self.form, self.points = metric, metric.form, points
        self.midst = self.form.midst(points)
        first = self.form.gallery(points[:1].double(), self.midst).vectors
        self.width, head = first.shape[1], first.shape[1] - points.shape[1]
        # all memory that stays is taken before that which goes, so that no gaps are left between
        columns = first.new_empty(len(points), self.width, dtype=torch.float32)
        self.sizes, self.heads = first.new_empty(len(points), 2), first.new_empty(len(points), head)
        multiplied = self.form.factor(points[:1].double()) is not None
        self.factors = first.new_empty(len(points), 1) if multiplied else None
        start = 0
        for block in in_double(points):
            here = slice(start, start + len(block))
            lifted = self.form.gallery(block, self.midst)
            columns[here], self.sizes[here], self.heads[here] = lifted.vectors, lifted.sizes, lifted.vectors[:, :head]
            factor = self.form.factor(block)
            if self.factors is not None and factor is not None:
                self.factors[here] = factor
            start += len(block)
        self.largest = self.sizes.amax(0)
        self.columns32 = columns if self.largest.amax() <= LARGEST_SIZE else None

    def rows(self, query: Tensor) -> Lifted:
        """Lift queries (B, n)."""
        return self.form.query(query.double(), self.midst)

    def slack(self, rows: Lifted, dtype: torch.dtype, gaps: torch.dtype = torch.float64) -> Tensor:
        """Bound of the error of gaps to any gallery point whose scores were computed in `dtype`, (B,).

        gaps: the precision in which they were computed from the scores.
        """
        reach = rows.sizes @ self.largest
        # numbers and products below the smallest normal one may have become 0
        lost = self.width * torch.finfo(dtype).tiny * (1 + rows.sizes.sum(-1) + self.largest.sum())
        error = rounding(self.width, dtype) * reach + torch.finfo(torch.float64).eps * 4 * rows.offset
        if gaps != torch.float64:
            error += torch.finfo(gaps).eps * 4 * (rows.offset + reach) + torch.finfo(gaps).tiny
        return self.form.scale * (error + lost)

    def gap(self, rows: Lifted, score: Tensor) -> Tensor:
        """Gaps from scores (B, ...), which are overwritten."""
        return score.neg_().add_(rows.offset[:, None]).mul_(self.form.scale)

    def columns(self, part: slice, dtype: torch.dtype) -> Tensor:
        """Lifted gallery points of a slice, (m, width)."""
        if dtype == torch.float64:
            return self.form.gallery(self.points[part].double(), self.midst).vectors
        assert self.columns32 is not None
        return self.columns32[part]

    def reach_of_tile(self, dtype: torch.dtype) -> int:
        """How many gallery points a product may take at one time: those of float64 are lifted for it."""
        return len(self.points) if dtype == torch.float32 else max(1, COPIED // self.width)

    def gathered(self, rows: Lifted, index: Tensor) -> Tensor:
        """Gaps to the gallery points `index` (B, K), in float64."""
        score = rows.vectors.new_empty(*index.shape)
        step = max(1, GATHERED // (index.shape[1] * self.width))
        for start in range(0, len(index), step):
            here = slice(start, start + step)
            score[here] = self._scores_of(rows.vectors[here], index[here])
        return self.gap(rows, score)

    def _scores_of(self, vectors: Tensor, index: Tensor) -> Tensor:
        """Scores of queries (b, width) and the gallery points `index` (b, K)."""
        count = index.shape[1]
        points = self.points.index_select(0, index.reshape(-1)).double()
        if self.midst is not None:
            lifted = self.form.gallery(points, self.midst).vectors.view(-1, count, self.width)
            return torch.bmm(lifted, vectors[:, :, None]).squeeze(-1)
        head = self.width - self.points.shape[1]
        score = torch.bmm(points.view(len(index), count, -1), vectors[:, head:, None]).squeeze(-1)
        if self.factors is not None:
            score.mul_(self.factors[index].squeeze(-1))
        for column in range(head):
            score.addcmul_(self.heads[:, column][index], vectors[:, column, None])
        return score

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

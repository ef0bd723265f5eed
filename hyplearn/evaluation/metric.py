"""Embeddings and the metric that compares them: one dissimilarity, or the weighted sum of several (Yue Eq. 10)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import get_args

import torch
from torch import Tensor

from hyplearn.errors import one_of
from hyplearn.evaluation.duplicates import row_hashes
from hyplearn.evaluation.inner_products import CURVED, FLAT, Form, rows_where
from hyplearn.geometry import lorentz
from hyplearn.manifolds.family import Kind

KINDS: tuple[Kind, ...] = get_args(Kind)

# Squares of coordinates, and products of two, stay within float64.
LARGEST = 1e75

# Relative error of a given time coordinate: float16 storage passes.
AMBIENT_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Metric:
    """A dissimilarity D of points (N, n), and what multiplies it where several are summed.

    lorentz: geodesic distance, points by their space coordinates. poincare: geodesic distance, ball coordinates.
    sphere: 2 - 2 cos, vectors of any length. euclidean: |x - y|.
    c: > 0 for lorentz and poincare (sectional curvature -c), None for the others. weight: > 0.
    """

    kind: Kind
    c: float | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        one_of("kind", self.kind, Kind)
        if self.curved and (self.c is None or not 0 < self.c < math.inf):
            raise ValueError(f"c={self.c} must be > 0 with kind={self.kind!r}: its sectional curvature is -c")
        if not self.curved and self.c is not None:
            raise ValueError(f"c={self.c} must be None with kind={self.kind!r}, which has no curvature to set")
        if not 0 < self.weight < math.inf:
            raise ValueError(f"weight={self.weight} must be > 0: it multiplies the {self.kind} dissimilarity")

    @property
    def curved(self) -> bool:
        """Whether the metric has a curvature c."""
        return self.kind in CURVED

    @cached_property
    def form(self) -> Form:
        """The formula by which D is computed."""
        if self.c is not None:
            return CURVED[self.kind](self.c)
        return FLAT[self.kind]()

    def check(self, points: Tensor) -> None:
        """Raise ValueError unless `points` are N points of this geometry, (N, n)."""
        if points.ndim != 2 or points.shape[1] < 1 or not points.is_floating_point():
            raise ValueError(
                f"{self.kind} points of shape {tuple(points.shape)} and {points.dtype} must have shape (N, n), one row "
                "for each image, in floating point"
            )
        # NaN compares false; in double precision, where LARGEST is a number: in the others it is infinite.
        bad = rows_where(points, lambda block: ~(block.abs() <= LARGEST).all(-1))
        if bad.any():
            row = int(bad.nonzero()[0])
            raise ValueError(
                f"{int(bad.sum())} of {len(points)} {self.kind} points are NaN, infinite or beyond {LARGEST:g}, the "
                f"first in row {row}: an embedding must be finite to have neighbours"
            )
        wrong = self.form.check(points)
        if wrong is not None:
            raise ValueError(wrong)

    def __str__(self) -> str:
        curvature = "" if self.c is None else f"(c={self.c:g})"
        return f"{self.kind}{curvature}" if self.weight == 1 else f"{self.weight:g} {self.kind}{curvature}"


class Embeddings:
    """N embeddings: their points in each space, (N, n_i) on one device, and the metric of each space.

    The dissimilarity of two embeddings is sum_i weight_i D_i.
    """

    def __init__(self, points: Sequence[Tensor] | Tensor, metrics: Sequence[Metric] | Metric) -> None:
        points = (points,) if isinstance(points, Tensor) else tuple(points)
        metrics = (metrics,) if isinstance(metrics, Metric) else tuple(metrics)
        if not points or len(points) != len(metrics):
            raise ValueError(
                f"{len(points)} tensors of points and {len(metrics)} metrics: one metric for each, at least 1"
            )
        for x, metric in zip(points, metrics, strict=True):
            metric.check(x)
        if len({(len(x), x.device) for x in points}) > 1:
            found = ", ".join(f"{len(x)} on {x.device}" for x in points)
            raise ValueError(f"spaces hold {found} points: every space must hold the same images, on one device")
        self.points = tuple(x.detach() for x in points)
        self.metrics = metrics
        self._hashes: Tensor | None = None

    def __len__(self) -> int:
        return len(self.points[0])

    @property
    def device(self) -> torch.device:
        """Device that the points are on."""
        return self.points[0].device

    def select(self, rows: Tensor | slice) -> Embeddings:
        """Return the embeddings of a mask (N,), of positions, or of a slice; all in their order are no copy."""
        if isinstance(rows, Tensor) and len(rows) == len(self):
            same = rows if rows.dtype == torch.bool else rows == torch.arange(len(self), device=rows.device)
            if bool(same.all()):
                return self
        return self._with(tuple(x[rows] for x in self.points), None if self._hashes is None else self._hashes[rows])

    def to(self, device: torch.device | str) -> Embeddings:
        """Return the embeddings on another device."""
        hashes = None if self._hashes is None else self._hashes.to(device)
        return self._with(tuple(x.to(device) for x in self.points), hashes)

    def under(self, metric: Metric) -> Embeddings:
        """Return the same coordinates, those of all spaces side by side, under another metric.

        What is known of coinciding points stays known.
        """
        points = self.points[0] if len(self.points) == 1 else torch.cat(self.points, dim=-1)
        made = Embeddings(points, metric)
        if len({x.dtype for x in self.points}) == 1:
            made._hashes = self.hashes
        return made

    @property
    def hashes(self) -> Tensor:
        """A hash of each embedding's coordinates, (N,) int64, computed once, for all parts of them, too."""
        if self._hashes is None:
            self._hashes = row_hashes(self.points)
        return self._hashes

    def _with(self, points: tuple[Tensor, ...], hashes: Tensor | None) -> Embeddings:
        """Other points of the same spaces, known to be valid."""
        made = object.__new__(Embeddings)
        made.points, made.metrics, made._hashes = points, self.metrics, hashes
        return made

    def direct(self, rows: Tensor, others: Embeddings, columns: Tensor) -> Tensor:
        """D of pairs from their coordinates, (P,) float64: embedding rows[p] and others' columns[p]. Memory ~ P n."""
        total = torch.zeros(len(rows), dtype=torch.float64, device=self.device)
        for metric, x, y in zip(self.metrics, self.points, others.points, strict=True):
            total += metric.weight * metric.form.direct(x[rows].double(), y[columns].double())
        return total

    @property
    def width(self) -> int:
        """Count the numbers in one embedding."""
        return sum(x.shape[1] for x in self.points)

    def __str__(self) -> str:
        return " + ".join(map(str, self.metrics))


def concatenate(parts: Sequence[Embeddings]) -> Embeddings:
    """The embeddings of all parts, in order. All must have the same metrics."""
    if not parts:
        raise ValueError("parts=[] must hold at least one Embeddings")
    if len({part.metrics for part in parts}) > 1:
        raise ValueError(f"parts have different metrics: {'; '.join(sorted({str(part) for part in parts}))}")
    return Embeddings(
        [torch.cat(pieces) for pieces in zip(*(part.points for part in parts), strict=True)], parts[0].metrics
    )


def from_ambient(points: Tensor, *, c: float) -> Tensor:
    """Space coordinates (N, n) of points of the hyperboloid given with their time first, (N, n + 1).

    Raises ValueError where the time is not that of curvature -c, sqrt(1/c + |x|^2), to 1e-3 of its value.
    """
    if points.ndim != 2 or points.shape[1] < 2:
        raise ValueError(f"ambient points of shape {tuple(points.shape)} must have shape (N, n + 1), time first")
    time, space = points[:, 0].double(), lorentz.from_ambient(points)
    expected = lorentz.time(space.double(), c=c)
    off = ~((time - expected).abs() <= AMBIENT_TOLERANCE * expected)
    if off.any():
        row = int(off.nonzero()[0])
        raise ValueError(
            f"{int(off.sum())} of {len(points)} ambient points do not lie on the hyperboloid of c={c:g}, the first in "
            f"row {row}: its time is {time[row].item():.6g}, but sqrt(1/c + |x|^2) is {expected[row].item():.6g}. "
            "Is c right, and does time come first?"
        )
    return space

"""Gromov's delta: how far a finite metric space is from a tree (Khrulkov et al. 2020; table headers of Bdeir).

With the Gromov product (x|y)_w = (d(x,w) + d(y,w) - d(x,y)) / 2 seen from a base point w,

    delta_w = max_{x,y,z} min((x|z)_w, (z|y)_w) - (x|y)_w,

0 for a tree. The delta of the four-point condition is the largest delta_w of all w, at most twice any one of them. The
published numbers are of one base point in a random draw, and relative to the diameter, in either of two conventions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from hyplearn.evaluation.metric import Metric
from hyplearn.geometry import lorentz, poincare, sphere

Convention = Literal["relative", "half"]
CONVENTIONS: tuple[Convention, ...] = get_args(Convention)

# 2 delta / diameter of a disc that fills the ball of c = 1, by which Khrulkov et al. suggest c = (0.144 / delta_rel)^2.
REFERENCE = 0.144

FEWEST = 4  # points of the four-point condition
ROUNDING = 2.0**-23  # of a positive float32, relative, with a factor of two to spare
COLUMNS = 4096  # of the coordinates that are converted to float64 at once


@dataclass(frozen=True)
class Draw:
    """One draw of points. delta: seen from its first point. diameter: the largest distance."""

    delta: float
    diameter: float

    def ratio(self, convention: Convention) -> float:
        """`relative`: 2 delta / diameter, in [0, 1]. `half`: delta / diameter, as some of the published code."""
        return {"relative": 2.0, "half": 1.0}[convention] * self.delta / self.diameter


@dataclass(frozen=True)
class Hyperbolicity:
    """Hyperbolicity of one set of points.

    samples: points in a draw. total: points there are. width: numbers of a point.
    """

    metric: Metric
    draws: tuple[Draw, ...]
    samples: int
    total: int
    width: int

    def mean(self, convention: Convention = "relative") -> float:
        """Mean over the draws."""
        return sum(draw.ratio(convention) for draw in self.draws) / len(self.draws)

    def std(self, convention: Convention = "relative") -> float | None:
        """Standard deviation over the draws (n - 1), None for a single one."""
        if len(self.draws) == 1:
            return None
        mean = self.mean(convention)
        return math.sqrt(sum((d.ratio(convention) - mean) ** 2 for d in self.draws) / (len(self.draws) - 1))

    @property
    def suggested_c(self) -> float:
        """(0.144 / delta_rel)^2 by the mean of 2 delta / diameter, whatever convention is shown; inf for a tree."""
        mean = self.mean("relative")
        return math.inf if mean == 0 else (REFERENCE / mean) ** 2


def hyperbolicity(
    points: Callable[[Tensor], Tensor],
    total: int,
    metric: Metric,
    *,
    samples: int,
    draws: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> Hyperbolicity:
    """Measure `draws` draws of `samples` points without replacement, all points where there are fewer.

    points: what stands at positions (m,), as (m, n). The first point of a draw is its base point. Memory: about
    four matrices of samples^2 float64, beside the points. Raises ValueError for less than 4 points
    and where all coincide.
    """
    if total < FEWEST:
        raise ValueError(f"{total} points have no delta-hyperbolicity: it needs at least {FEWEST}")
    samples = min(samples, total)
    found, width = [], 0
    for positions in drawn(total, samples=samples, draws=draws, seed=seed):
        chosen = points(positions)
        width = chosen.shape[1]
        distances = distance_matrix(chosen, metric)
        diameter = distances.max().item()
        if diameter == 0:
            raise ValueError(f"all {samples} points of a draw coincide: there is no diameter to compare delta with")
        found.append(Draw(gromov_delta(distances), diameter))
        if progress is not None:
            progress(1, draws)
    return Hyperbolicity(metric, tuple(found), samples, total, width)


def drawn(total: int, *, samples: int, draws: int, seed: int) -> Iterator[Tensor]:
    """Positions (samples,) of each draw, in random order; the same for the same numbers."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(draws):
        yield torch.randperm(total, generator=generator)[:samples]


def gromov_delta(distances: Tensor, *, base: int = 0) -> float:
    """delta_w of a symmetric matrix of distances (N, N), with w the point `base`; exact to float64.

    Rounding keeps order, so float32, at half the cost, tells which pairs of a row can raise the best value so far;
    those are computed in float64. Beside the products, (N, N) in both, memory is one such matrix in float32.
    """
    unit = 2.0 ** math.frexp(distances.max().item())[1]  # so that float32 holds products of any size
    distances = distances.double() / unit
    from_base = distances[base]
    products = (from_base[:, None] + from_base - distances) / 2
    rounded = products.float()
    best = 0.0
    for i, row in enumerate(products):  # (x|y) = (y|x): half of the pairs
        highest = torch.minimum(rounded[i], rounded[i:]).amax(1).double()
        raising = (highest * (1 + ROUNDING) - row[i:] > best).nonzero().squeeze(1)
        if len(raising):
            exact = torch.minimum(row, products[i:][raising]).amax(1) - row[i:][raising]
            best = max(best, exact.max().item())
    return best * unit


def distance_matrix(points: Tensor, metric: Metric) -> Tensor:
    """Geodesic distances (N, N), float64, without the metric's weight; exactly symmetric with a diagonal of 0.

    points: (N, n) of any real type. On the sphere the angle, since 2 - 2 cos breaks the triangle inequality.
    """
    if metric.kind == "euclidean":
        distances = _euclidean(points)
    elif metric.kind == "sphere":
        distances = 2 * (_euclidean(sphere.proj(points.double())) / 2).clamp_max(1.0).asin()
    else:
        assert metric.c is not None
        cdist = lorentz.cdist if metric.kind == "lorentz" else poincare.cdist
        x = points.double()
        distances = cdist(x, x, c=metric.c)
    distances = (distances + distances.mT) / 2
    return distances.fill_diagonal_(0.0)


def _euclidean(points: Tensor) -> Tensor:
    """Compute distances by one product of centred coordinates, to 1e-8 of the largest."""
    gram = torch.zeros(len(points), len(points), dtype=torch.float64, device=points.device)
    for columns in points.split(COLUMNS, dim=1):
        x = columns.double()
        x = x - x.mean(0)
        gram += x @ x.mT
    squares = gram.diagonal()
    return (squares[:, None] + squares - 2 * gram).clamp_min_(0.0).sqrt_()

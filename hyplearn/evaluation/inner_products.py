"""Each dissimilarity as a function of one inner product, which is what a nearest-neighbour search computes fast.

A form lifts a query x and a gallery point y to vectors such that

    gap(x, y) = scale (offset(x) - score),   score = head(x) head(y) + tail(x) . tail(y),   D(x, y) = distance(gap),

with gap >= 0 and `distance` increasing, so the nearest points are those of the largest score. Scores of close pairs are
small differences of large terms: `direct` gives D from the coordinates without that, pair by pair. All is float64;
`distance` is concave and 0 at 0, and the share of an error of gap that reaches D is at most one.

Where a gallery lies in a small neighbourhood, as that of a nearly collapsed model, the terms are those of u = x - m and
v = y - m, the differences to its midst m, which float64 holds as exactly as the points.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from hyplearn.geometry import lorentz, poincare, sphere
from hyplearn.geometry.isometry import poincare_to_lorentz
from hyplearn.geometry.numerics import squared_norm, vector_norm

# A gallery is in a small neighbourhood if its radius is less than this share of its distance to the origin.
NEAR = 1e-3

# Numbers of the float64 copy of some points, 8 MiB: a gallery is never copied whole.
COPIED = 1 << 20


def in_double(points: Tensor) -> Iterator[Tensor]:
    """Yield the points (N, n) in float64, block after block; one empty block where there are none."""
    for block in points.split(max(1, COPIED // max(1, points.shape[1]))):
        yield block.double()


def rows_where(points: Tensor, holds: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the rows (N,) of points of which something holds, a predicate of blocks in float64."""
    # taken before what goes: small memory that stays behind each block would let none of theirs be used again
    found = torch.empty(len(points), dtype=torch.bool, device=points.device)
    start = 0
    for block in in_double(points):
        found[start : start + len(block)] = holds(block)
        start += len(block)
    return found


class Lifted(NamedTuple):
    """vectors: (N, m), head first if the form has one. sizes: (N, 2), |head| and |tail|. offset: (N,), of queries."""

    vectors: Tensor
    sizes: Tensor
    offset: Tensor


def _lifted(head: Tensor, tail: Tensor, offset: Tensor) -> Lifted:
    """head: (N, 1), or (N, 0) if there is none. tail: (N, n). offset: (N, 1)."""
    sizes = torch.cat([squared_norm(head), squared_norm(tail)], dim=-1).sqrt()
    return Lifted(torch.cat([head, tail], dim=-1).contiguous(), sizes, offset.squeeze(-1))


class Midst(NamedTuple):
    """point: (n,), radius: (), > 0, of a ball that holds the gallery, in coordinates."""

    point: Tensor
    radius: Tensor


def _midst(points: Tensor, placed: Callable[[Tensor], Tensor] = Tensor.double) -> Midst | None:
    """None unless the points, each moved to where it is `placed`, differ and lie in a small neighbourhood."""
    point, radius = points.new_zeros(points.shape[1], dtype=torch.float64), points.new_zeros((), dtype=torch.float64)
    for block in in_double(points):
        point += placed(block).sum(0)
    point /= len(points)
    for block in in_double(points):
        radius = torch.maximum(radius, squared_norm(placed(block) - point).max())
    radius = radius.sqrt()
    return Midst(point, radius) if bool(radius > 0) and bool(radius <= NEAR * point.norm()) else None


def _queries(square: Tensor, tail: Tensor, midst: Midst) -> Lifted:
    """Queries by differences to the midst. square: (N, 1), half of what gap / scale holds of the point alone.

    Sizes have room for the rounding of both, and for a square that is a small difference itself.
    """
    size = 2 * squared_norm(tail).sqrt()
    sizes = torch.cat([1 + (size / (4 * midst.radius)).square(), size], dim=-1)
    return Lifted(torch.cat([torch.ones_like(square), tail], dim=-1).contiguous(), sizes, square.squeeze(-1))


def _gallery(square: Tensor, tail: Tensor, midst: Midst) -> Lifted:
    """Gallery points by differences to the midst, to be multiplied with queries."""
    reach = (4 * midst.radius).expand_as(square)
    sizes = torch.cat([reach.square(), 2 * squared_norm(tail).sqrt()], dim=-1)
    return Lifted(torch.cat([-square, tail], dim=-1).contiguous(), sizes, torch.zeros_like(square).squeeze(-1))


class Form(ABC):
    """Points are (N, n) float64 (of `midst` and `check` any precision) and have passed `check`.

    midst: that of the gallery, if it has one. Without one the last n columns of a lifted point are its coordinates,
    times `factor` for a gallery point that has one.
    """

    scale: float

    def midst(self, y: Tensor) -> Midst | None:
        """Return the midst of a gallery."""
        return _midst(y)

    @abstractmethod
    def query(self, x: Tensor, midst: Midst | None = None) -> Lifted: ...

    @abstractmethod
    def gallery(self, y: Tensor, midst: Midst | None = None) -> Lifted: ...

    def factor(self, y: Tensor) -> Tensor | None:
        """What the lift of a gallery without a midst multiplies coordinates by, (N, 1); None for 1."""
        return None

    @abstractmethod
    def distance(self, gap: Tensor) -> Tensor:
        """Return D of any gaps >= 0."""

    @abstractmethod
    def direct(self, x: Tensor, y: Tensor) -> Tensor:
        """D of pairs, (P, n), (P, n) to (P,). The value of a pair does not depend on the other pairs."""

    def check(self, points: Tensor) -> str | None:
        """Return what is wrong with finite points (N, n) float64, None if nothing is."""
        return None


class Hyperboloid(Form):
    """Geodesic distance of the hyperboloid of curvature -c, points by their space coordinates.

    With times counted from that of the origin, b = y_t - k, and k a = k (x_t - k):
    sinh^2(d/2k) = c/2 (x_t y_t - 1/c - x.y) = c/2 (k a - (-x_t b + x.y)). The lift is the ambient point with the time
    of the query negated; leaving k out of the gallery's times moves all scores of a query alike and keeps the digits
    of points near the origin. With a midst, and the differences a and b of times to its own,
    sinh^2(d/2k) = c/2 ((|u|^2 - a^2)/2 + (|v|^2 - b^2)/2 - (u.v - a b)).
    """

    def __init__(self, c: float) -> None:
        self.c, self.k, self.scale = c, c**-0.5, c / 2

    def _times(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x_t and x_t - k without the difference, (N, 1) each."""
        x_t = lorentz.time(x, c=self.c, keepdim=True)
        return x_t, squared_norm(x) / (x_t + self.k)

    def _differences(self, x: Tensor, m: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(|u|^2 - a^2) / 2, u and a without the difference of times."""
        u = x - m
        x_t, m_t = (lorentz.time(p, c=self.c, keepdim=True) for p in (x, m))
        a = (u * (x + m)).sum(-1, keepdim=True) / (x_t + m_t)
        return (squared_norm(u) - a.square()) / 2, u, a

    def query(self, x: Tensor, midst: Midst | None = None) -> Lifted:
        if midst is not None:
            square, u, a = self._differences(x, midst.point)
            return _queries(square, torch.cat([u, -a], dim=-1), midst)
        x_t, a = self._times(x)
        return _lifted(-x_t, x, self.k * a)

    def gallery(self, y: Tensor, midst: Midst | None = None) -> Lifted:
        if midst is not None:
            square, v, b = self._differences(y, midst.point)
            return _gallery(square, torch.cat([v, b], dim=-1), midst)
        _, b = self._times(y)
        return _lifted(b, y, torch.zeros_like(b))

    def distance(self, gap: Tensor) -> Tensor:
        return gap.sqrt().asinh_().mul_(2 * self.k)

    def direct(self, x: Tensor, y: Tensor) -> Tensor:
        return lorentz.dist(x, y, c=self.c)


class Ball(Hyperboloid):
    """Geodesic distance of the Poincare ball of curvature -c: the hyperboloid's, by the isometry.

    With a midst, of whose ball the radius is r, by sinh^2(d/2k) = c |u - v|^2 f(x) f(y), f(x) = 1 / (1 - c |x|^2):
    c/2 (-score), score = -2 f(x) f(y) ((|u|^2/r) r + r (|v|^2/r) - 2 u.v).
    """

    def midst(self, y: Tensor) -> Midst | None:
        midst = super().midst(y)
        return midst if midst is not None and self._largest_factor(midst) > 0 else None

    def _factor(self, x: Tensor) -> Tensor:
        return (1 - self.c * squared_norm(x)).reciprocal()

    def _largest_factor(self, midst: Midst) -> Tensor:
        """Largest conformal factor of the ball around the midst; not > 0 where that touches the boundary."""
        return self._factor((midst.point.norm() + midst.radius).view(1)).squeeze()

    def query(self, x: Tensor, midst: Midst | None = None) -> Lifted:
        if midst is None:
            return super().query(poincare_to_lorentz(x, c=self.c))
        u, f = x - midst.point, self._factor(x)
        square = squared_norm(u) / midst.radius
        head = torch.cat([square, midst.radius.expand_as(square)], dim=-1)
        lifted = _lifted(-2 * f * head, 4 * f * u, torch.zeros_like(f))
        # near the boundary the factors are as much less exact as they are large
        return lifted._replace(sizes=lifted.sizes * (f + self._largest_factor(midst)))

    def gallery(self, y: Tensor, midst: Midst | None = None) -> Lifted:
        if midst is None:
            return super().gallery(poincare_to_lorentz(y, c=self.c))
        v, f = y - midst.point, self._factor(y)
        square = squared_norm(v) / midst.radius
        head = torch.cat([midst.radius.expand_as(square), square], dim=-1)
        return _lifted(f * head, f * v, torch.zeros_like(f))

    def factor(self, y: Tensor) -> Tensor:
        return 2 * self._factor(y)

    def direct(self, x: Tensor, y: Tensor) -> Tensor:
        return poincare.dist(x, y, c=self.c)

    def check(self, points: Tensor) -> str | None:
        outside = rows_where(points, lambda block: (self.c * squared_norm(block) >= 1).squeeze(-1))
        if not outside.any():
            return None
        row = int(outside.nonzero()[0])
        return (
            f"{int(outside.sum())} of {len(points)} points lie outside the ball of c={self.c:g}, the first in row "
            f"{row} with |p|={points[row].double().norm().item():.6g}; |p| must be < 1/sqrt(c) = {self.k:.6g}. "
            "Is c the one the embeddings were trained with, and are these ball coordinates?"
        )


class Cosine(Form):
    """2 - 2 cos (D_cos of Yue Eq. 5), which is |x - y|^2 of the normalised vectors. A zero vector has cosine 0."""

    scale = 2.0

    def midst(self, y: Tensor) -> Midst | None:
        everywhere = all(bool(squared_norm(block).all()) for block in in_double(y))
        return _midst(y, sphere.proj) if everywhere else None

    def query(self, x: Tensor, midst: Midst | None = None) -> Lifted:
        if midst is None:
            return _lifted(x[:, :0], sphere.proj(x), x.new_ones(len(x), 1))
        u = sphere.proj(x) - midst.point
        nothing = (squared_norm(x) == 0) / 2  # from 1 to the D of a zero vector, 2
        return _queries(squared_norm(u) / 2 + nothing, u, midst)

    def gallery(self, y: Tensor, midst: Midst | None = None) -> Lifted:
        if midst is None:
            return self.query(y)
        v = sphere.proj(y) - midst.point
        return _gallery(squared_norm(v) / 2, v, midst)

    def factor(self, y: Tensor) -> Tensor:
        length = vector_norm(y, keepdim=True)
        return torch.where(length > 0, length, 1.0).reciprocal()

    def distance(self, gap: Tensor) -> Tensor:
        return gap.clone()

    def direct(self, x: Tensor, y: Tensor) -> Tensor:
        x, y = sphere.proj(x), sphere.proj(y)
        nothing = (squared_norm(x) == 0) | (squared_norm(y) == 0)
        return squared_norm(x - y).masked_fill_(nothing, 2.0).squeeze(-1)


class Euclidean(Form):
    """|x - y|, from |x - y|^2 = 2 (|x|^2/2 - (x.y - |y|^2/2))."""

    scale = 2.0

    def query(self, x: Tensor, midst: Midst | None = None) -> Lifted:
        if midst is not None:
            return _queries(squared_norm(x - midst.point) / 2, x - midst.point, midst)
        return _lifted(torch.ones_like(x[:, :1]), x, squared_norm(x) / 2)

    def gallery(self, y: Tensor, midst: Midst | None = None) -> Lifted:
        half = squared_norm(y if midst is None else y - midst.point) / 2
        if midst is not None:
            return _gallery(half, y - midst.point, midst)
        return _lifted(-half, y, torch.zeros_like(half))

    def distance(self, gap: Tensor) -> Tensor:
        return gap.sqrt()

    def direct(self, x: Tensor, y: Tensor) -> Tensor:
        return squared_norm(x - y).sqrt().squeeze(-1)


CURVED: dict[str, type[Hyperboloid]] = {"lorentz": Hyperboloid, "poincare": Ball}
FLAT: dict[str, type[Form]] = {"sphere": Cosine, "euclidean": Euclidean}

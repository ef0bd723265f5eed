"""Each dissimilarity as a function of one inner product, which is what a nearest-neighbour search computes fast.

A form lifts a query x and a gallery point y to vectors such that

    gap(x, y) = scale (offset(x) - score),   score = head(x) head(y) + tail(x) . tail(y),   D(x, y) = distance(gap),

with gap >= 0 and `distance` increasing, so the nearest points are those of the largest score. Scores of close pairs are
small differences of large terms: `direct` gives D from the coordinates without that, pair by pair. All is float64;
`distance` is concave and 0 at 0, and the share of an error of gap that reaches D is at most one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from hyplearn.geometry import lorentz, poincare, sphere
from hyplearn.geometry.isometry import poincare_to_lorentz
from hyplearn.geometry.numerics import squared_norm


class Lifted(NamedTuple):
    """vectors: (N, m), head first if the form has one. sizes: (N, 2), |head| and |tail|. offset: (N,), of queries."""

    vectors: Tensor
    sizes: Tensor
    offset: Tensor


def _lifted(head: Tensor, tail: Tensor, offset: Tensor) -> Lifted:
    """head: (N, 1), or (N, 0) if there is none. tail: (N, n). offset: (N, 1)."""
    sizes = torch.cat([squared_norm(head), squared_norm(tail)], dim=-1).sqrt()
    return Lifted(torch.cat([head, tail], dim=-1).contiguous(), sizes, offset.squeeze(-1))


class Form(ABC):
    """Points are (N, n) float64 and have passed `check`."""

    scale: float

    @abstractmethod
    def query(self, x: Tensor) -> Lifted: ...

    @abstractmethod
    def gallery(self, y: Tensor) -> Lifted: ...

    @abstractmethod
    def distance(self, gap: Tensor) -> Tensor:
        """D of any gaps >= 0."""

    @abstractmethod
    def direct(self, x: Tensor, y: Tensor) -> Tensor:
        """D of pairs, (P, n), (P, n) to (P,). The value of a pair does not depend on the other pairs."""

    def check(self, points: Tensor) -> str | None:
        """What is wrong with finite points (N, n) float64, None if nothing is."""
        return None


class Hyperboloid(Form):
    """Geodesic distance of the hyperboloid of curvature -c, points by their space coordinates.

    With times counted from that of the origin, b = y_t - k, and k a = k (x_t - k):
    sinh^2(d/2k) = c/2 (x_t y_t - 1/c - x.y) = c/2 (k a - (-x_t b + x.y)). The lift is the ambient point with the time
    of the query negated; leaving k out of the gallery's times moves all scores of a query alike and keeps the digits
    of points near the origin.
    """

    def __init__(self, c: float) -> None:
        self.c, self.k, self.scale = c, c**-0.5, c / 2

    def _times(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x_t and x_t - k without the difference, (N, 1) each."""
        x_t = lorentz.time(x, c=self.c, keepdim=True)
        return x_t, squared_norm(x) / (x_t + self.k)

    def query(self, x: Tensor) -> Lifted:
        x_t, a = self._times(x)
        return _lifted(-x_t, x, self.k * a)

    def gallery(self, y: Tensor) -> Lifted:
        _, b = self._times(y)
        return _lifted(b, y, torch.zeros_like(b))

    def distance(self, gap: Tensor) -> Tensor:
        return gap.sqrt().asinh_().mul_(2 * self.k)

    def direct(self, x: Tensor, y: Tensor) -> Tensor:
        return lorentz.dist(x, y, c=self.c)


class Ball(Hyperboloid):
    """Geodesic distance of the Poincare ball of curvature -c: the hyperboloid's, by the isometry."""

    def query(self, x: Tensor) -> Lifted:
        return super().query(poincare_to_lorentz(x, c=self.c))

    def gallery(self, y: Tensor) -> Lifted:
        return super().gallery(poincare_to_lorentz(y, c=self.c))

    def direct(self, x: Tensor, y: Tensor) -> Tensor:
        return poincare.dist(x, y, c=self.c)

    def check(self, points: Tensor) -> str | None:
        outside = (self.c * squared_norm(points) >= 1).squeeze(-1)
        if not outside.any():
            return None
        row = int(outside.nonzero()[0])
        return (
            f"{int(outside.sum())} of {len(points)} points lie outside the ball of c={self.c:g}, the first in row "
            f"{row} with |p|={points[row].norm().item():.6g}; |p| must be < 1/sqrt(c) = {self.k:.6g}. "
            "Is c the one the embeddings were trained with, and are these ball coordinates?"
        )


class Cosine(Form):
    """2 - 2 cos (D_cos of Yue Eq. 5), which is |x - y|^2 of the normalised vectors. A zero vector has cosine 0."""

    scale = 2.0

    def query(self, x: Tensor) -> Lifted:
        return _lifted(x[:, :0], sphere.proj(x), x.new_ones(len(x), 1))

    def gallery(self, y: Tensor) -> Lifted:
        return self.query(y)

    def distance(self, gap: Tensor) -> Tensor:
        return gap.clone()

    def direct(self, x: Tensor, y: Tensor) -> Tensor:
        x, y = sphere.proj(x), sphere.proj(y)
        zeros = (squared_norm(x) == 0).to(x) + (squared_norm(y) == 0).to(x)
        return (squared_norm(x - y) + zeros).squeeze(-1)


class Euclidean(Form):
    """|x - y|, from |x - y|^2 = 2 (|x|^2/2 - (x.y - |y|^2/2))."""

    scale = 2.0

    def query(self, x: Tensor) -> Lifted:
        return _lifted(torch.ones_like(x[:, :1]), x, squared_norm(x) / 2)

    def gallery(self, y: Tensor) -> Lifted:
        half = squared_norm(y) / 2
        return _lifted(-half, y, torch.zeros_like(half))

    def distance(self, gap: Tensor) -> Tensor:
        return gap.sqrt()

    def direct(self, x: Tensor, y: Tensor) -> Tensor:
        return squared_norm(x - y).sqrt().squeeze(-1)


CURVED: dict[str, type[Hyperboloid]] = {"lorentz": Hyperboloid, "poincare": Ball}
FLAT: dict[str, type[Form]] = {"sphere": Cosine, "euclidean": Euclidean}

"""The hyperboloid in space coordinates as a geoopt manifold."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from hyplearn.geometry import lorentz
from hyplearn.manifolds.curved import CurvedManifold
from hyplearn.manifolds.precision import full_precision
from hyplearn.manifolds.protocol import Geometry


class Lorentz(CurvedManifold):
    """The hyperboloid <x, x>_L = -1/c; a point is its space part (..., n), so every tensor is a point for every c.

    Arguments: see `CurvedManifold`. Ambient, time-first tensors exist only at the border: `to_ambient`.
    """

    name = "Lorentz"
    geometry: ClassVar[Geometry] = lorentz

    @full_precision
    def time(self, x: Tensor, *, keepdim: bool = False) -> Tensor:
        """x_t = sqrt(1/c + |x|^2). (..., n) to (...)."""
        return lorentz.time(x, c=self.c, keepdim=keepdim)

    @full_precision
    def to_ambient(self, x: Tensor) -> Tensor:
        """Time first. (..., n) to (..., n + 1)."""
        return lorentz.to_ambient(x, c=self.c)

    def projx(self, x: Tensor) -> Tensor:
        """Every vector of n numbers is a point: identity."""
        return x

    def _check_point_on_manifold(self, x: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5) -> tuple[bool, str | None]:
        return (True, None) if bool(x.isfinite().all()) else (False, "'x' has a non-finite coordinate")

"""The Poincare ball as a geoopt manifold."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from hyplearn.geometry import poincare
from hyplearn.geometry.numerics import scalar_like, vector_norm
from hyplearn.manifolds.curved import CurvedManifold
from hyplearn.manifolds.precision import full_precision, promote
from hyplearn.manifolds.protocol import Geometry


class PoincareBall(CurvedManifold):
    """The ball c |p|^2 < 1, isometric to `Lorentz` of the same c (see `geometry.isometry`).

    Arguments: see `CurvedManifold`. The edge of the ball is where its coordinates' precision ends: `projx`, and with it
    the retraction and `random`, keeps points within d_max (Bdeir Eq. 1), as x_t_max and the dtype define it.
    """

    name = "PoincareBall"
    geometry: ClassVar[Geometry] = poincare

    @full_precision
    def conformal_factor(self, x: Tensor, *, keepdim: bool = False) -> Tensor:
        """2 / (1 - c |x|^2). (..., n) to (...)."""
        return poincare.conformal_factor(x, c=self.c, keepdim=keepdim)

    @full_precision
    def mobius_add(self, x: Tensor, y: Tensor) -> Tensor:
        """Moebius addition x (+) y."""
        return poincare.mobius_add(x, y, c=self.c)

    @full_precision
    def projx(self, x: Tensor) -> Tensor:
        """The nearest point within d_max of the origin."""
        return poincare.proj(x, c=self.c, x_t_max=self.x_t_max)

    def retr(self, x: Tensor, u: Tensor) -> Tensor:
        """The exponential map, kept within d_max: a long step must not end on the edge of the ball."""
        return self.projx(self.expmap(x, u))

    def _check_point_on_manifold(self, x: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5) -> tuple[bool, str | None]:
        c = scalar_like(self.c, promote(x))  # in the precision of x before its root is taken
        inside = c.sqrt() * vector_norm(x) < 1
        return (True, None) if bool(inside.all()) else (False, "'x' has sqrt(c) |x| >= 1")

"""Pooling of a Poincare network."""

from __future__ import annotations

from torch import Tensor, nn

from hyplearn.geometry import lorentz
from hyplearn.geometry.numerics import scalar_like
from hyplearn.manifolds import PoincareBall
from hyplearn.manifolds.foreign import ours
from hyplearn.manifolds.precision import full_precision
from hyplearn.nn.poincare_tangent import to_hyperboloid, to_tangent
from hyplearn.regions import region


class PoincareGlobalPool(nn.Module):
    """Midpoint of all positions: tangent vectors (B, n, H, W) to (B, n).

    The public code of van Spengler et al. averages the tangent vectors; the midpoint does not depend on the choice of
    the origin.
    """

    def __init__(self, manifold: PoincareBall) -> None:
        super().__init__()
        self.manifold = ours(manifold)

    @full_precision
    def forward(self, v: Tensor) -> Tensor:
        return _midpoint(v, scalar_like(self.manifold.c, v), self.manifold.x_t_max)


@region
def _midpoint(v: Tensor, c: Tensor, x_t_max: float | None) -> Tensor:
    x = to_hyperboloid(v.permute(0, 2, 3, 1), c=c, x_t_max=x_t_max)
    return to_tangent(lorentz.centroid(x, c=c, dim=(1, 2)), c=c)

"""Skip connection of a Poincare network."""

from __future__ import annotations

from torch import Tensor, nn

from hyplearn.geometry.numerics import scalar_like
from hyplearn.manifolds import PoincareBall
from hyplearn.manifolds.foreign import ours
from hyplearn.manifolds.precision import full_precision
from hyplearn.nn.poincare_tangent import place, to_tangent
from hyplearn.regions import region


class PoincareResidual(nn.Module):
    """Moebius sum f(x) + shortcut of tangent vectors (B, n, H, W), as tangent vectors (van Spengler et al., 2023).

    The sum is not commutative: f(x) comes first. The Moebius translation by f is the boost that takes the origin to f.
    """

    def __init__(self, manifold: PoincareBall) -> None:
        super().__init__()
        self.manifold = ours(manifold)

    @full_precision
    def forward(self, f: Tensor, shortcut: Tensor) -> Tensor:
        return _moebius_sum(f, shortcut, scalar_like(self.manifold.c, f), self.manifold.x_t_max)


@region
def _moebius_sum(f: Tensor, shortcut: Tensor, c: Tensor, x_t_max: float | None) -> Tensor:
    b_stretch, b_square = place(f, c=c, x_t_max=x_t_max, dim=1)
    stretch, square = place(shortcut, c=c, x_t_max=x_t_max, dim=1)
    b_t, x_t = (b_square + 1 / c).sqrt(), (square + 1 / c).sqrt()
    y_t = c.sqrt() * (b_t * x_t + b_stretch * stretch * (f * shortcut).sum(1, keepdim=True))
    along = b_stretch * (x_t + y_t) / (b_t + c.rsqrt())  # boost: x + b (x_t + y_t) / (b_t + k)
    return to_tangent(stretch * shortcut + along * f, c=c, dim=1)

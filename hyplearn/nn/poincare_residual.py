"""Skip connection of a Poincare network."""

from __future__ import annotations

from torch import Tensor, nn

from hyplearn.geometry import lorentz
from hyplearn.manifolds import PoincareBall
from hyplearn.manifolds.precision import full_precision
from hyplearn.nn.poincare_tangent import to_hyperboloid, to_tangent


class PoincareResidual(nn.Module):
    """Moebius sum f(x) + shortcut of tangent vectors (B, n, H, W), as tangent vectors (van Spengler et al., 2023).

    The sum is not commutative: f(x) comes first. The Moebius translation by f is the boost that takes the origin to f.
    """

    def __init__(self, manifold: PoincareBall) -> None:
        super().__init__()
        self.manifold = manifold

    @full_precision
    def forward(self, f: Tensor, shortcut: Tensor) -> Tensor:
        c, x_t_max = self.manifold.c, self.manifold.x_t_max
        b, x = (to_hyperboloid(v.permute(0, 2, 3, 1), c=c, x_t_max=x_t_max) for v in (f, shortcut))
        return to_tangent(lorentz.boost(x, b, c=c), c=c).permute(0, 3, 1, 2)

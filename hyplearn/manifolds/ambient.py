"""geoopt's own hyperboloid, for what is only possible with it."""

from __future__ import annotations

from torch import Tensor

from hyplearn.manifolds.curvature import Curvature
from hyplearn.manifolds.interop import Manifold, geoopt
from hyplearn.manifolds.lorentz import Lorentz


class AmbientLorentz(geoopt.Lorentz):
    """The hyperboloid in ambient, time-first coordinates (..., n + 1), with the curvature of a `Lorentz` manifold.

    A stored time can disagree with the space coordinates: that is how points leave the manifold when the curvature
    changes without them (the ablation of Bdeir Table 5), which no point in space coordinates can do.
    """

    def __init__(self, space: Lorentz) -> None:
        Manifold.__init__(self)  # geoopt.Lorentz would make a curvature of its own
        self.space = space

    @property
    def k(self) -> Tensor:
        """geoopt's curvature number, 1/c."""
        return self.space.c.reciprocal()

    @property
    def curvature(self) -> Curvature:
        """The curvature object of the shared manifold."""
        return self.space.curvature

    def off_manifold(self, x: Tensor) -> Tensor:
        """How far <x, x>_L is from -1/c, relative to x_t^2: (..., n + 1) to (...)."""
        return (x[..., 1:].square().sum(-1) - x[..., 0].square() + self.k).abs() / x[..., 0].square()

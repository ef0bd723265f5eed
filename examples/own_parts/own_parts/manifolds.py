"""A manifold: the hyperboloid with another distance."""

from __future__ import annotations

from torch import Tensor

from hyplearn.geometry import lorentz
from hyplearn.manifolds import Lorentz, full_precision


class SquaredLorentz(Lorentz):
    """The hyperboloid whose points are compared by their squared Lorentzian distance |x - y|_L^2 (Law et al. 2019).

    It orders neighbours as the geodesic distance d does, being 4/c sinh^2(d sqrt(c)/2), and is smooth where two points
    meet. All else, the curvature that is learned included, is inherited.
    """

    name = "SquaredLorentz"

    @full_precision
    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        """Points (..., n) and (..., n) to (...), or (..., 1) with keepdim."""
        squared = lorentz.squared_chord(x, y, c=self.c)
        return squared if keepdim else squared.squeeze(-1)

    @full_precision
    def cdist(self, x: Tensor, y: Tensor) -> Tensor:
        """Points (B, n) and (M, n) to (B, M)."""
        return self.dist(x[..., :, None, :], y[..., None, :, :])

"""Lorentz boosts, the translation that takes the place of a bias (Bdeir Eq. 5)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from hyplearn.errors import one_of
from hyplearn.manifolds import Lorentz
from hyplearn.manifolds.foreign import ours
from hyplearn.nn.checks import positive
from hyplearn.nn.fused.scalars import floored
from hyplearn.regions import region

BoostKind = Literal["full", "axis", "scale", "none"]
MAX_RAPIDITY = 3.0  # keeps cosh of the boost near 10; the largest radial scale of existing code is 3 as well


class LorentzBoost(nn.Module):
    """Learned boost of points (B, n, ...).

    kind: `full`, a rapidity vector of n numbers (Bdeir Section 3.3; length limited to 3); `axis`, one rapidity along
    the last coordinate, and `scale`, one factor on the distance to the origin, are what published code uses; `none`.
    A full boost adds at most k times its rapidity to the distance to the origin.
    """

    def __init__(self, features: int, *, manifold: Lorentz, kind: BoostKind = "full") -> None:
        super().__init__()
        one_of("boost", kind, BoostKind)
        positive("features", features)
        self.manifold, self.kind, self.features = ours(manifold), kind, features
        if kind == "full":
            self.rapidity = nn.Parameter(1e-2 * torch.randn(features))
        elif kind == "axis":
            self.rapidity = nn.Parameter(1e-2 * torch.randn(1))
        elif kind == "scale":
            self.log_scale = nn.Parameter(torch.zeros(()))

    def point(self, c: Tensor | None = None) -> Tensor | None:
        """Return where the boost takes the origin, (n,); for `scale` its factor, (); for `none` None.

        c: the manifold's, where the caller knows it.
        """
        if self.kind == "none":
            return None
        if self.kind == "scale":
            return torch.exp(self.log_scale)
        rapidity: Tensor = self.rapidity
        if self.kind == "axis":
            rapidity = torch.cat([rapidity.new_zeros(self.features - 1), rapidity])
        return _reached(rapidity, self.manifold.c if c is None else c)

    def forward(self, x: Tensor) -> Tensor:
        point = self.point()
        if point is None:
            return x
        x = x.movedim(1, -1)
        if self.kind == "scale":
            return self.manifold.expmap0(point * self.manifold.logmap0(x)).movedim(-1, 1)
        return self.manifold.boost(x, point).movedim(-1, 1)

    def extra_repr(self) -> str:
        return f"{self.features}, kind={self.kind}"


@region
def _reached(rapidity: Tensor, c: Tensor) -> Tensor:
    """Where a rapidity (n,) takes the origin."""
    length = torch.sqrt(floored(rapidity.square().sum()))
    reach = torch.sinh(length.clamp_max(MAX_RAPIDITY)) / length
    return reach * c.rsqrt() * rapidity

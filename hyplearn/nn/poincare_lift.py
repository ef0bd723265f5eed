"""From Euclidean features to the Poincare ball."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hyplearn.geometry import poincare
from hyplearn.geometry.numerics import squared_norm
from hyplearn.manifolds import PoincareBall
from hyplearn.manifolds.foreign import ours
from hyplearn.manifolds.precision import full_precision
from hyplearn.nn.poincare_tangent import clip_factor
from hyplearn.regions import region


class PoincareLift(nn.Module):
    """Euclidean features (B, n), shortened to norm `clip`, to points of the ball by exp at the origin (HCNN's hybrid).

    For the same norm the ball's exp_0 reaches twice the distance of the hyperboloid's. Without `clip` only vectors
    beyond d_max are shortened.
    """

    def __init__(self, manifold: PoincareBall, *, clip: float | None = None) -> None:
        super().__init__()
        if clip is not None and not clip > 0:
            raise ValueError(f"clip={clip} must be > 0, or None for no clipping")
        self.manifold, self.clip = ours(manifold), clip

    @full_precision
    def forward(self, z: Tensor) -> Tensor:
        if self.clip is not None:
            z = z * (self.clip / torch.linalg.vector_norm(z, dim=-1, keepdim=True).clamp_min(self.clip))
        return _lifted(z, self.manifold.c, self.manifold.x_t_max)

    def extra_repr(self) -> str:
        return f"clip={self.clip}"


@region
def _lifted(z: Tensor, c: Tensor, x_t_max: float | None) -> Tensor:
    return poincare.expmap0(clip_factor(squared_norm(z), c=c, x_t_max=x_t_max) * z, c=c)

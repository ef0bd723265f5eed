"""Flat space with the verbs of the curved manifolds, so that a Euclidean model is a choice of object, not a branch."""

from __future__ import annotations

import torch
from torch import Tensor

from hyplearn.geometry.numerics import check_any, vector_norm
from hyplearn.geometry.pairwise import straight_distances
from hyplearn.manifolds.interop import geoopt
from hyplearn.manifolds.precision import full_precision


class Euclidean(geoopt.Euclidean):
    """R^n, the limit c -> 0 of `Lorentz`: exp and log at the origin are the identity, the centroid is the mean."""

    name = "Euclidean"

    def __init__(self) -> None:
        super().__init__(ndim=1)

    @full_precision
    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        """|x - y|. (..., n), (..., n) to (...)."""
        return vector_norm(x - y, keepdim=keepdim)

    @full_precision
    def dist0(self, x: Tensor, *, keepdim: bool = False) -> Tensor:
        """|x|. (..., n) to (...)."""
        return vector_norm(x, keepdim=keepdim)

    @full_precision
    def cdist(self, x: Tensor, y: Tensor) -> Tensor:
        """All pairwise distances. (..., N, n), (..., M, n) to (..., N, M)."""
        return straight_distances(x, y)

    @full_precision
    def centroid(self, x: Tensor, *, weights: Tensor | None = None, dim: int | tuple[int, ...] = -2) -> Tensor:
        """Weighted mean over dim. (..., N, n) to (..., n)."""
        check_any(x, dim)
        if weights is None:
            return x.mean(dim)
        share = weights.unsqueeze(-1).expand(*x.shape[:-1], 1)
        return (share / share.sum(dim, keepdim=True) * x).sum(dim)

    @full_precision
    def mlr(self, x: Tensor, z: Tensor, a: Tensor) -> Tensor:
        """z.x - a |z|, the limit of the Lorentz logits. (..., n), (classes, n), (classes,) to (..., classes)."""
        product: Tensor = x @ z.mT
        return product - a * vector_norm(z)

    def expmap0(self, u: Tensor) -> Tensor:
        """Identity."""
        return u

    def logmap0(self, x: Tensor) -> Tensor:
        """Identity."""
        return x

    def transp0(self, y: Tensor, u: Tensor) -> Tensor:
        """Identity in u."""
        return u.expand(torch.broadcast_shapes(y.shape, u.shape))

    def transp0back(self, x: Tensor, u: Tensor) -> Tensor:
        """Identity in u."""
        return u.expand(torch.broadcast_shapes(x.shape, u.shape))

    @full_precision
    def boost(self, x: Tensor, b: Tensor) -> Tensor:
        """The translation by b."""
        return x + b

    def rescale(self, x: Tensor) -> Tensor:
        """Identity: flat space needs no limit."""
        return x

    def rescale0(self, u: Tensor) -> Tensor:
        """Identity: flat space needs no limit."""
        return u

    def origin(self, *size: int, dtype: torch.dtype | None = None, device: torch.device | None = None) -> Tensor:
        """Zeros. size: (..., n)."""
        return torch.zeros(*size, dtype=dtype, device=device)

    @torch.no_grad()
    def random(
        self, *size: int, std: float = 1.0, dtype: torch.dtype | None = None, device: torch.device | None = None
    ) -> Tensor:
        """Normal points with standard deviation std per coordinate. size: (..., n)."""
        return std * torch.randn(*size, dtype=dtype, device=device)

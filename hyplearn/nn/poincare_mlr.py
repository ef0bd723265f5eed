"""Multinomial logistic regression on the Poincare ball."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from hyplearn.errors import one_of
from hyplearn.manifolds import PoincareBall
from hyplearn.manifolds.foreign import ours
from hyplearn.nn.checks import positive

Orientation = Literal["joint", "weight_norm"]


class PoincareMLR(nn.Module):
    """Unidirectional Poincare MLR (Shimizu et al., 2021, HNN++): points of the ball (B, n) to logits (B, classes).

    Class k has a hyperplane of orientation z_k, z (classes, n), and offset a_k, a (classes,), both Euclidean; its logit
    is the signed distance to it times 2|z_k|, see `geometry.poincare.mlr`. z starts normal with standard deviation
    1/sqrt(n c), a at 0, as in HCNN's hybrid model. Computes in float32 or better.
    orientation: `joint`, one parameter z; `weight_norm`, as published, z_k = g_k v_k / |v_k| of lengths g (classes,)
    and directions v (classes, n), the same function with other steps.
    Raises ValueError for another last dimension.
    """

    def __init__(
        self, features: int, classes: int, *, manifold: PoincareBall, orientation: Orientation = "joint"
    ) -> None:
        super().__init__()
        positive("features", features)
        positive("classes", classes)
        one_of("orientation", orientation, Orientation)
        self.manifold = ours(manifold)
        self.z = nn.Parameter(torch.empty(classes, features))
        self.a = nn.Parameter(torch.empty(classes))
        self.reset_parameters()
        if orientation == "weight_norm":
            weight_norm(self, "z", dim=0)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw z, set a to 0."""
        self.z.normal_().mul_((self.z.shape[1] * self.manifold.c).rsqrt())
        self.a.zero_()

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.z.shape[1]:
            raise ValueError(f"x of shape {tuple(x.shape)} must be (..., {self.z.shape[1]})")
        return self.manifold.mlr(x, self.z, self.a)

    def extra_repr(self) -> str:
        return f"{self.z.shape[1]}, {self.z.shape[0]}"

"""Lorentz multinomial logistic regression."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hyplearn.manifolds import Lorentz
from hyplearn.manifolds.foreign import ours
from hyplearn.nn.checks import positive


class LorentzMLR(nn.Module):
    """Points (B, n) to logits (B, classes): scaled signed distances to one hyperplane per class.

    Class parameters z (classes, n) and a (classes,) are Euclidean; see `geometry.lorentz.mlr` for the formula.
    Initialised as in HCNN, uniform in +-1/sqrt(n); z is then multiplied by `scale`, for features whose length does not
    grow as sqrt(n), see `hyplearn.models.initial_scale`.
    """

    def __init__(self, features: int, classes: int, *, manifold: Lorentz, scale: float = 1.0) -> None:
        super().__init__()
        positive("features", features)
        positive("classes", classes)
        self.manifold = ours(manifold)
        bound = features**-0.5
        self.z = nn.Parameter(scale * torch.empty(classes, features).uniform_(-bound, bound))
        self.a = nn.Parameter(torch.empty(classes).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        return self.manifold.mlr(x, self.z, self.a)

    def extra_repr(self) -> str:
        return f"{self.z.shape[1]}, {self.z.shape[0]}"

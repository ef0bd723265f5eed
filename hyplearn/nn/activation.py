"""Pointwise operations on the space coordinates; the time is derived, so the result is a point."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class LorentzReLU(nn.Module):
    """ReLU of the space coordinates, any shape."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x)


class LorentzDropout(nn.Module):
    """Dropout of space coordinates (the time follows); p in [0, 1). Survivors are scaled by 1/(1 - p) in training."""

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"p={p} must lie in [0, 1)")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}"

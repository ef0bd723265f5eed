"""Residual connections of Lorentz feature maps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hyplearn.manifolds import Lorentz
from hyplearn.manifolds.foreign import ours
from hyplearn.nn import monitor


class LorentzResidual(nn.Module):
    """Sum of the space coordinates (B, n, ...), then maximum-distance rescaling if `rescale`.

    The sum is what HCNN does. The paper is silent on rescaling here; published code of the same authors rescales in
    basic blocks, and without it a chain of residual sums grows past d_max.
    """

    def __init__(self, manifold: Lorentz, *, rescale: bool = True) -> None:
        super().__init__()
        self.manifold, self.rescale = ours(manifold), rescale

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        total = x + shortcut.to(torch.promote_types(x.dtype, shortcut.dtype))
        if not self.rescale:
            return total
        points = total.movedim(1, -1)
        rescaled = self.manifold.rescale(points)
        monitor.give_shrunk("residual", points, rescaled)
        return rescaled.movedim(-1, 1)

    def extra_repr(self) -> str:
        return f"rescale={self.rescale}"

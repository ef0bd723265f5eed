"""Pooling of Lorentz feature maps."""

from __future__ import annotations

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hyplearn import regions
from hyplearn.manifolds import Lorentz
from hyplearn.manifolds.foreign import ours


class LorentzGlobalPool(nn.Module):
    """Lorentzian centroid of all positions: (B, n, H, W) to (B, n)."""

    def __init__(self, manifold: Lorentz) -> None:
        super().__init__()
        self.manifold = ours(manifold)

    def forward(self, x: Tensor) -> Tensor:
        if regions.is_on():  # the compiler chooses what to keep
            return self._centroid(x)
        # computed again in the backward pass: the accurate centroid keeps several tensors of the size of x
        pooled: Tensor = checkpoint(self._centroid, x, use_reentrant=False, preserve_rng_state=False)
        return pooled

    def _centroid(self, x: Tensor) -> Tensor:
        return self.manifold.centroid(x.movedim(1, -1).flatten(1, -2), dim=1)

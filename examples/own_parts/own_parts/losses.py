"""A loss of logits, which may be any nn.Module, and a loss of embeddings, which derives from EmbeddingLoss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hyplearn.losses.base import EmbeddingLoss
from hyplearn.nn.space import Space


class FocalLoss(nn.Module):
    """Weighs the cross entropy of an image by (1 - p)^gamma, p the probability of its class (Lin et al. 2017)."""

    def __init__(self, *, gamma: float = 2.0) -> None:
        super().__init__()
        if gamma < 0:
            raise ValueError(f"gamma={gamma} must be >= 0: 0 is the cross entropy, more looks at hard images")
        self.gamma = gamma

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits (B, num_classes) and labels (B,) to the mean loss, ()."""
        log_p = logits.log_softmax(-1).gather(-1, labels[:, None]).squeeze(-1)
        return -((1 - log_p.exp()).pow(self.gamma) * log_p).mean()


class NeighbourLoss(EmbeddingLoss):
    """Raises the chance that a neighbour drawn by exp(-distance / tau) has the same class (Goldberger et al. 2004)."""

    least_per_class = 2

    def __init__(self, *, tau: float = 0.2) -> None:
        super().__init__()
        if not tau > 0:
            raise ValueError(f"tau={tau} must be > 0: it divides the distances")
        self.tau = tau

    def compute(
        self, points: Sequence[Tensor], labels: Tensor, spaces: Sequence[Space], *, generator: torch.Generator | None
    ) -> Tensor:
        """Points (B, n_i) of each space and labels (B,) to the mean of -log of that chance, ()."""
        each = [space.weight * space.manifold.cdist(x, x) for space, x in zip(spaces, points, strict=True)]
        distances = torch.stack(each).sum(0)
        itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        log_chance = (-distances / self.tau).masked_fill(itself, -torch.inf).log_softmax(-1)
        same = (labels[:, None] == labels) & ~itself
        return -log_chance.masked_fill(~same, -torch.inf).logsumexp(-1).mean()

"""Losses of a classifier: called as loss(logits, labels)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hyplearn.losses.base import checked_labels


class CrossEntropy(nn.Module):
    """Mean over the batch of -sum_k q_k log softmax(logits)_k, q = (1 - s) onehot(label) + s / classes.

    label_smoothing: s in [0, 1). Logits (B, classes) of any precision are taken in float32 or better: in bfloat16
    a loss near 0 keeps one digit.
    """

    expects = "logits"

    def __init__(self, *, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing={label_smoothing} must lie in [0, 1); 0 switches it off")
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        if logits.dim() != 2:
            raise ValueError(f"logits of shape {tuple(logits.shape)} must have shape (B, classes)")
        labels = checked_labels(labels, len(logits))
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)

    def extra_repr(self) -> str:
        return f"label_smoothing={self.label_smoothing}"

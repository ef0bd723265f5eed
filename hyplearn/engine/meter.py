"""Metrics of a classifier as exact sums over an epoch, on the device and across processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class ClassificationMeter:
    """Sums of loss, hits among the first and first five logits, and images; one float64 tensor, exact for counts.

    Metrics: `loss`, the mean over images; `top1` and, with more than five classes, `top5` in percent.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.sums = torch.zeros(4, dtype=torch.float64)
        self.classes = 0

    @torch.no_grad()
    def update(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """loss: (), the mean over the batch; logits (B, classes); labels (B,). Waits for no device."""
        self.classes = logits.shape[1]
        hits = logits.topk(min(5, self.classes)).indices == labels[:, None]
        images = len(labels)
        parts = [loss.double() * images, hits[:, 0].sum().double(), hits.sum().double()]
        values = torch.stack([*parts, torch.full_like(parts[0], images)])
        self.sums = self.sums.to(values.device) + values

    def metrics(self, total: Callable[[Tensor], Tensor] = lambda sums: sums) -> dict[str, float]:
        """The metrics so far, empty before the first batch. `total` adds the sums up over all processes."""
        loss, first, five, images = total(self.sums.clone()).tolist()
        if images == 0:
            return {}
        found = {"loss": loss / images, "top1": 100 * first / images}
        return found | ({"top5": 100 * five / images} if self.classes > 5 else {})

    def state_dict(self, total: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """What continues the sums, those of all processes together: to be loaded by the first process alone."""
        return {"sums": total(self.sums.clone()).tolist(), "classes": self.classes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sums = torch.tensor(state["sums"], dtype=torch.float64)
        self.classes = state["classes"]

"""Metrics as exact sums over an epoch, on the device and across processes.

They are not torchmetrics' for the sake of resuming: a checkpoint in the middle of an epoch is written by the first
process, and holds the sums of all of them in float64. torchmetrics keeps the sums of each process in its own module,
so that the first process's checkpoint would hold its share alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

Total = Callable[[Tensor], Tensor]


class Meter(Protocol):
    """Sums over the images of a stage."""

    def reset(self) -> None: ...

    def metrics(self, total: Total = ...) -> dict[str, float]:
        """The metrics so far, empty before the first batch. `total` adds the sums up over all processes."""
        ...

    def state_dict(self, total: Total) -> dict[str, Any]:
        """What continues the sums, those of all processes together: to be loaded by the first process alone."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class LossMeter:
    """The mean loss over images, `loss`: all there is to sum up where no image has a prediction of its own."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.sums = torch.zeros(2, dtype=torch.float64)

    @torch.no_grad()
    def update(self, loss: Tensor, images: int) -> None:
        """loss: (), of a batch with `images` images in this process. Waits for no device."""
        values = torch.stack([loss.double() * images, torch.full_like(loss, images, dtype=torch.float64)])
        self.sums = self.sums.to(values.device) + values

    def metrics(self, total: Total = lambda sums: sums) -> dict[str, float]:
        loss, images = total(self.sums.clone()).tolist()
        return {"loss": loss / images} if images else {}

    def state_dict(self, total: Total) -> dict[str, Any]:
        return {"sums": total(self.sums.clone()).tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sums = torch.tensor(state["sums"], dtype=torch.float64)


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

    def metrics(self, total: Total = lambda sums: sums) -> dict[str, float]:
        loss, first, five, images = total(self.sums.clone()).tolist()
        if images == 0:
            return {}
        found = {"loss": loss / images, "top1": 100 * first / images}
        return found | ({"top5": 100 * five / images} if self.classes > 5 else {})

    def state_dict(self, total: Total) -> dict[str, Any]:
        return {"sums": total(self.sums.clone()).tolist(), "classes": self.classes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sums = torch.tensor(state["sums"], dtype=torch.float64)
        self.classes = state["classes"]

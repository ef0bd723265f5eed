"""A callback: any Lightning callback is one."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch


class GradientNorm(pl.Callback):
    """Adds the mean norm of the gradient over the steps of an epoch to metrics.csv, as own/gradient_norm."""

    def __init__(self) -> None:
        self.total, self.steps = 0.0, 0

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: Any, optimizer: Any) -> None:
        """Measure one step."""
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        self.total += float(torch.nn.utils.get_total_norm(gradients))
        self.steps += 1

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Write the mean into the row of the epoch, and begin anew."""
        pl_module.row["own/gradient_norm"] = self.total / self.steps
        self.total, self.steps = 0.0, 0

    def state_dict(self) -> dict[str, Any]:
        """Return what a run that is resumed within an epoch goes on with."""
        return {"total": self.total, "steps": self.steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with it."""
        self.total, self.steps = state_dict["total"], state_dict["steps"]

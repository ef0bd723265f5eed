"""What is done to gradients between the backward pass and the step where authors' code does more than limit their norm.

None of it changes a run that does not ask for it. The readings of gradient norms are those before.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hyplearn.training.module import TrainingModule


class GradientRules(pl.Callback):
    """Multiplies the gradients of parts, then limits each number, then the norm of scaled gradients.

    scales: a part of the model or loss, by its name in `rate_groups`, and what multiplies its gradient. clamp: the
    largest absolute value of each number of a gradient; None for no limit. scaled_clip: the largest norm of all
    gradients times the loss scale, which is that of the gradient scaler in fp16 and `loss_scale` in other precisions;
    None for no limit.
    """

    def __init__(
        self, *, scales: Mapping[str, float], clamp: float | None, scaled_clip: float | None, loss_scale: float
    ) -> None:
        self.scales, self.clamp, self.scaled_clip, self.loss_scale = dict(scales), clamp, scaled_clip, loss_scale

    @property
    def idle(self) -> bool:
        """Whether nothing is asked for."""
        return not self.scales and self.clamp is None and self.scaled_clip is None

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Change the gradients, which a scaler has unscaled by now."""
        assert isinstance(pl_module, TrainingModule)
        parts = pl_module.rate_groups()
        for name, scale in self.scales.items():
            for gradient in _gradients(parts[name]):
                gradient.mul_(scale)
        everything = _gradients([p for group in optimizer.param_groups for p in group["params"]])
        if self.clamp is not None:
            for gradient in everything:
                gradient.clamp_(-self.clamp, self.clamp)
        if self.scaled_clip is not None:
            norms = torch.stack([torch.linalg.vector_norm(gradient) for gradient in everything])
            norm = torch.linalg.vector_norm(norms) * self._scale(trainer)
            share = (self.scaled_clip / (norm + 1e-6)).clamp_max(1.0)  # as torch's own clip has it
            for gradient in everything:
                gradient.mul_(share)

    def _scale(self, trainer: pl.Trainer) -> float:
        """What the loss of this step was multiplied with."""
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        return self.loss_scale if scaler is None else float(scaler.get_scale())


def check_scales(scales: Mapping[str, float], module: TrainingModule) -> None:
    """Raise ValueError for a part that the model and loss do not have."""
    known = module.rate_groups()
    unknown = sorted(set(scales) - set(known))
    if unknown:
        there = ", ".join(known) or "none: a classifier has one rate"
        raise ValueError(f"optim.gradient_scales.{unknown[0]} is no part of this run, its parts are {there}")


def _gradients(parameters: list[nn.Parameter]) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]

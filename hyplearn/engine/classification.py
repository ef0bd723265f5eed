"""Training of a classifier."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hyplearn.engine.module import Batch, Optimization, TrainingModule


class ClassificationModule(TrainingModule):
    """Images to logits to loss; accuracy over training, validation and test. Logits are taken in float32 or better."""

    def __init__(self, model: nn.Module, loss: nn.Module, *, seed: int, optimization: Optimization) -> None:
        expects = getattr(loss, "expects", None)
        if expects != "logits":
            raise ValueError(f"{type(loss).__name__}.expects={expects!r}: a classifier needs a loss of 'logits'")
        super().__init__(model, loss, seed=seed, optimization=optimization)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._step(batch, "train")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._step(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._step(batch, "test")

    def _step(self, batch: Batch, stage: str) -> Tensor:
        images, labels, _ = batch
        logits = self(images.to(self.dtype))  # double precision converts the model but not a transform's output
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        loss: Tensor = self.loss(logits, labels)
        self.latest_loss = loss.detach()
        self.meters[stage].update(self.latest_loss, logits, labels)
        return loss

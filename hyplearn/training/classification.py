"""Training of a classifier."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hyplearn.losses.base import input_of
from hyplearn.models.base import as_classifier, embeds
from hyplearn.training.meter import ClassificationMeter
from hyplearn.training.model_readings import radii
from hyplearn.training.module import Batch, Inspection, Optimization, TrainingModule


class ClassificationModule(TrainingModule):
    """Images to logits to loss; accuracy over training, validation and test. Logits are taken in float32 or better.

    model: any classifier, see `hyplearn.models.base`; without a method `embed` it has no radii to read.
    """

    def __init__(self, model: nn.Module, loss: nn.Module, *, seed: int, optimization: Optimization) -> None:
        expects = input_of(loss)
        if expects != "logits":
            raise ValueError(f"{type(loss).__name__}.expects={expects!r}: a classifier needs a loss of 'logits'")
        super().__init__(model, loss, seed=seed, optimization=optimization)

    def new_meter(self) -> ClassificationMeter:
        return ClassificationMeter()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._step(batch, "train")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._step(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._step(batch, "test")

    def inspect(self, images: Tensor) -> Inspection:
        network = as_classifier(self.model)
        embedding = network.embed(images)
        finite = bool(network.head(embedding).isfinite().all())
        return Inspection(radii(self.network, embedding) if embeds(self.model) else {}, finite)

    def _step(self, batch: Batch, stage: str) -> Tensor:
        images, labels, _ = batch
        logits = self(images.to(self.dtype))  # double precision converts the model but not a transform's output
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        loss: Tensor = self.loss(logits, labels)
        self.latest_loss = loss.detach()
        meter = self.meters[stage]
        assert isinstance(meter, ClassificationMeter)
        meter.update(self.latest_loss, logits, labels)
        return loss

"""Training of a classifier."""

from __future__ import annotations

from typing import Protocol, cast

import torch
from torch import Tensor, nn

from hyplearn.training.meter import ClassificationMeter
from hyplearn.training.model_readings import radii
from hyplearn.training.module import Batch, Inspection, Model, Optimization, TrainingModule


class Classifier(Model, Protocol):
    """What the engine asks of a classifier: head(embed(images)) is forward(images)."""

    def embed(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) to the points or features (B, n) that the head sees."""
        ...

    def head(self, embedding: Tensor) -> Tensor:
        """Points or features to logits."""
        ...


class ClassificationModule(TrainingModule):
    """Images to logits to loss; accuracy over training, validation and test. Logits are taken in float32 or better."""

    def __init__(self, model: nn.Module, loss: nn.Module, *, seed: int, optimization: Optimization) -> None:
        expects = getattr(loss, "expects", None)
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
        network = cast(Classifier, self.model)
        embedding = network.embed(images)
        finite = bool(network.head(embedding).isfinite().all())
        return Inspection(radii(network, embedding), finite)

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

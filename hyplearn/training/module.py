"""The part of a LightningModule that every kind of training shares: model, loss, optimizer, randomness, metrics."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hyplearn.models.base import Model, as_model
from hyplearn.optim import build_schedule, parameter_groups
from hyplearn.optim.roles import is_point
from hyplearn.optim.settings import OptimSettings
from hyplearn.training.meter import Meter
from hyplearn.training.seeding import seed_everything

Batch = tuple[Tensor, Tensor, Tensor]
Groups = list[dict[str, Any]]
# What may learn at a rate of its own. Scalars are learned temperatures and weights of spaces, which do not decay.
PARTS = ("backbone", "neck", "class_proxies", "hierarchical_proxies", "scalars")


class Inspection(NamedTuple):
    """What a forward pass tells: distances of the embeddings to the origin, and whether all of it is finite."""

    radii: dict[str, float]
    finite: bool


@dataclass(frozen=True)
class Optimization:
    """How the parameters move. build: parameter groups to an optimizer; settings: their rates, and the schedule."""

    build: Callable[[Groups], Optimizer]
    settings: OptimSettings

    def parameter_groups(self, module: TrainingModule) -> Groups:
        """The groups of a module. Raises ValueError for a scale of a part that no model or loss has."""
        own, scales, rates = module.rate_groups(), self.settings.scales, self.settings
        unknown = sorted(set(scales) - {*PARTS, *own})
        if unknown:
            known = ", ".join(dict.fromkeys([*PARTS, *own]))
            raise ValueError(f"optim.scales.{unknown[0]} is no part of a model or loss: known are {known}")
        if scales and not own:
            raise ValueError(f"optim.scales={dict(scales)} is for the parts of a retrieval run: leave it out")
        extra = {name: {**self._rates(name, parameters), "params": parameters} for name, parameters in own.items()}
        return parameter_groups(
            module,
            lr=rates.lr,
            weight_decay=rates.weight_decay,
            manifold_lr_scale=rates.manifold_lr_scale,
            manifold_weight_decay=rates.manifold_weight_decay,
            curvature_lr=rates.curvature_lr,
            curvature_weight_decay=rates.curvature_weight_decay,
            extra_groups=extra,
        )

    def _rates(self, name: str, parameters: list[nn.Parameter]) -> dict[str, float]:
        """Those of a part. Points have the rate and decay of points there, too."""
        rates = self.settings
        lr, decay = rates.lr * rates.scales.get(name, 1.0), rates.weight_decay
        if all(map(is_point, parameters)):
            lr *= rates.manifold_lr_scale
            decay = decay if rates.manifold_weight_decay is None else rates.manifold_weight_decay
        return {"lr": lr, "weight_decay": 0.0 if name == "scalars" else decay}


class TrainingModule(pl.LightningModule):
    """One training: its subclass gives the steps.

    The randomness of a training step depends on (seed, epoch, batch, process) alone. `row` holds what is known of the
    present epoch, callbacks add to it; `tests` holds the test metrics once there are any.
    """

    def __init__(self, model: nn.Module, loss: nn.Module, *, seed: int, optimization: Optimization) -> None:
        super().__init__()
        self.model, self.loss = model, loss
        self.seed, self.optimization = seed, optimization
        self.meters = {stage: self.new_meter() for stage in ("train", "val", "test")}
        self.row: dict[str, float] = {}
        self.tests: dict[str, float] = {}
        self.latest_loss: Tensor | None = None

    @abstractmethod
    def new_meter(self) -> Meter:
        """What sums up the images of one stage."""

    @abstractmethod
    def inspect(self, images: Tensor) -> Inspection:
        """A forward pass in the present mode, precision and random state."""

    def rate_groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters with a learning rate of their own, by name: none, unless a model or loss has some."""
        return {}

    @property
    def network(self) -> Model:
        """The model, as what is asked of one."""
        return as_model(self.model)

    def forward(self, images: Tensor) -> Any:
        return self.model(images)

    def configure_optimizers(self) -> Any:
        optimizer = self.optimization.build(self.optimization.parameter_groups(self))
        steps, epochs = self._steps_per_epoch(), self.trainer.max_epochs or 1
        if self.trainer.max_steps > 0:
            epochs = min(epochs, math.ceil(self.trainer.max_steps / steps))
        schedule = build_schedule(
            optimizer, self.optimization.settings.schedule, total_epochs=epochs, steps_per_epoch=steps
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _steps_per_epoch(self) -> int:
        """Optimizer steps. Not from `trainer.estimated_stepping_batches`, which sets the training loader up so early
        that Lightning does not restore its position any more."""
        batches = len(self.trainer.datamodule.train_dataloader())  # type: ignore[attr-defined]
        limit = self.trainer.limit_train_batches
        batches = min(batches, limit) if isinstance(limit, int) else batches
        return math.ceil(batches / self.trainer.accumulate_grad_batches)

    def total(self, sums: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.trainer.world_size == 1:
            return sums
        return cast(Tensor, self.trainer.strategy.reduce(sums.to(self.device), reduce_op="sum"))

    def metrics(self, stage: str) -> dict[str, float]:
        """Metrics of the stage's images so far, over all processes, as `val/top1`; empty before the first batch."""
        return {f"{stage}/{name}": value for name, value in self.meters[stage].metrics(self.total).items()}

    def seed_step(self, batch_idx: int) -> None:
        seed_everything(self.seed, self.current_epoch, batch_idx, self.global_rank)

    def on_train_epoch_start(self) -> None:
        self.meters["train"].reset()  # not called where training resumes in the middle of an epoch
        self.meters["val"].reset()
        self.row = {}

    def on_validation_epoch_start(self) -> None:
        self.meters["val"].reset()

    def on_test_epoch_start(self) -> None:
        self.meters["test"].reset()

    def on_test_epoch_end(self) -> None:
        self.tests = self.metrics("test")

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.seed_step(batch_idx)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["train_meter"] = self.meters["train"].state_dict(self.total)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.global_rank == 0:  # the sums are those of all processes
            self.meters["train"].load_state_dict(checkpoint["train_meter"])

    @torch.no_grad()
    def probe(self, images: Tensor) -> Inspection:
        """A forward pass as evaluation computes it."""
        training = self.model.training
        self.model.eval()
        try:
            with self.trainer.precision_plugin.forward_context():
                return self.inspect(images.to(self.dtype))
        finally:
            self.model.train(training)


def group_name(group: dict[str, Any], index: int) -> str:
    """Return the name of a parameter group, or its place among the groups where it has none."""
    return str(group.get("name", index))

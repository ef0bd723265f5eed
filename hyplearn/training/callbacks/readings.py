"""What is read off a run once per epoch: rates and gradients of the optimizer, speed, curvature, radii."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.optim import Optimizer

from hyplearn.nn.monitor import record
from hyplearn.training.model_readings import at_bounds, curvatures, curved
from hyplearn.training.module import Batch, TrainingModule, group_name

log = logging.getLogger("hyplearn")

PROBED_IMAGES = 256


class OptimizerReadings(pl.Callback):
    """Learning rate of the last step and mean norm of the Euclidean gradients before clipping, of each group.

    `gradient/skipped` counts the steps whose gradients were not finite: those the fp16 scaler left out.
    `latest` is the norm of all gradients at the present step.
    """

    def __init__(self) -> None:
        self.rates: dict[str, float] = {}
        self.latest = torch.zeros(())
        self._sums: dict[str, Tensor] = {}

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._sums = {}

    @torch.no_grad()
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        norms: dict[str, Tensor] = {}
        for index, group in enumerate(optimizer.param_groups):
            name = group_name(group, index)
            gradients = [p.grad for p in group["params"] if p.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients)
            norms[name] = torch.hypot(norms[name], norm) if name in norms else norm
            self.rates[name] = group["lr"]
        self.latest = torch.linalg.vector_norm(torch.stack(list(norms.values())))
        finite = self.latest.isfinite()
        readings = {name: torch.where(finite, norm, 0) for name, norm in norms.items()}
        for name, value in (readings | {"steps": finite, "skipped": ~finite}).items():
            self._sums[name] = self._sums.get(name, 0) + value.double()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, TrainingModule)
        sums = {name: value.item() for name, value in self._sums.items()}
        skipped, steps = sums.pop("skipped"), sums.pop("steps")
        pl_module.row.update({f"lr/{name}": rate for name, rate in self.rates.items()})
        pl_module.row.update({f"gradient/{name}": total / max(steps, 1) for name, total in sums.items()})
        pl_module.row["gradient/skipped"] = skipped

    def state_dict(self) -> dict[str, Any]:
        return {"rates": dict(self.rates), "sums": {name: value.item() for name, value in self._sums.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rates = state_dict["rates"]
        self._sums = {name: torch.tensor(value, dtype=torch.float64) for name, value in state_dict["sums"].items()}


class Speed(pl.Callback):
    """Seconds of an epoch, validation included, and training images per second of all processes, without it."""

    def __init__(self) -> None:
        self._before = self._training_before = 0.0  # seconds spent on this epoch before an interruption
        self._images = 0
        self._start = self._trained_until = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start = self._trained_until = time.perf_counter()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._before, self._training_before, self._images = 0.0, 0.0, 0
        self._start = self._trained_until = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self._images += len(batch[1]) * trainer.world_size
        if trainer.is_last_batch and pl_module.device.type == "cuda":
            torch.cuda.synchronize()
        self._trained_until = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, TrainingModule)
        training = self._training_before + self._trained_until - self._start
        pl_module.row["images_per_second"] = self._images / training
        pl_module.row["seconds"] = self._before + time.perf_counter() - self._start

    def state_dict(self) -> dict[str, Any]:
        return {
            "seconds": self._before + time.perf_counter() - self._start,
            "training": self._training_before + self._trained_until - self._start,
            "images": self._images,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._before, self._training_before = state_dict["seconds"], state_dict["training"]
        self._images = state_dict["images"]


class CurvatureReadings(pl.Callback):
    """c of every manifold and whether it sits on a bound; the first time it does, a warning."""

    def __init__(self) -> None:
        self._warned: set[str] = set()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, TrainingModule)
        bounds = at_bounds(pl_module.network)
        pl_module.row.update({f"curvature/{name}": c for name, c in curvatures(pl_module.network).items()})
        pl_module.row.update({f"curvature/{name}_at_bound": float(value) for name, value in bounds.items()})
        for name in [name for name, value in bounds.items() if value and name not in self._warned]:
            self._warned.add(name)
            curvature = curved(pl_module.network)[name].curvature
            log.warning(
                "curvature of %s sits on a bound, c = %.4g of bounds %s: the bound decides, not the data; widen "
                "manifold.bounds, lower optim.curvature_lr or fix c",
                *(name, curvature.c.item(), list(curvature.bounds)),
            )

    def state_dict(self) -> dict[str, Any]:
        return {"warned": sorted(self._warned)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._warned = set(state_dict["warned"])


class GeometryProbe(pl.Callback):
    """Radii of embeddings and what the layers report, of at most PROBED_IMAGES images: those of the first validation
    batch, without validation data those of the last training batch.

    radius: distance to the origin; `radius/share` is the largest as a share of d_max, the largest float32 can hold.
    `rescaled/<site>` is the share of points that the maximum distance rescaling made shorter, `limited/norm` of those
    that were longer than the batch norm's tangent limit.
    """

    def __init__(self) -> None:
        self._images: Tensor | None = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self._images = batch[0][:PROBED_IMAGES]

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if batch_idx == 0:
            self._images = batch[0][:PROBED_IMAGES]

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, TrainingModule)
        assert self._images is not None
        with record() as readings:
            inspection = pl_module.probe(self._images)
        self._images = None
        pl_module.row.update(inspection.radii | dict(sorted(readings.items())))

"""Stops a run whose loss or gradients are no longer finite, and says where that began."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hyplearn.errors import NonFiniteLoss
from hyplearn.nn.monitor import record
from hyplearn.runs.atomic import write_json
from hyplearn.runs.directory import RunDirectory
from hyplearn.training.callbacks.checkpoints import Checkpoints
from hyplearn.training.callbacks.readings import OptimizerReadings
from hyplearn.training.flags import Flag
from hyplearn.training.model_readings import at_bounds, curvatures, curved
from hyplearn.training.module import Batch, TrainingModule

# A loss scale at which gradients that still overflow in float16 would overflow in float32 as well.
LEAST_SCALE = 2.0**-14


class _Step(NamedTuple):
    """A step whose gradients are not known to be finite yet, and where it stood."""

    gradients: Flag
    loss: Tensor
    batch: Batch
    place: dict[str, int]


class NonFiniteGuard(pl.Callback):
    """Raises NonFiniteLoss, with a report in the run directory, before the parameters take the step.

    every: batches between two looks, 0 for none. Under fp16 gradients may be infinite, because the scaler leaves such
    steps out; there only the loss counts, and a scale so small that scaling cannot be the reason.
    optimizer: gives the norm of the gradients and stands before this callback.

    A GPU is not waited for: the loss is looked at when the backward pass has been queued behind it, the gradients when
    the forward pass of the next batch has been. The report names their own batch and step, whose gradients are still
    there; the parameters have taken that step by then, and no checkpoint is written of them.
    """

    def __init__(self, folder: Path, *, every: int, optimizer: OptimizerReadings, checkpoints: Checkpoints) -> None:
        self.report, self.every = RunDirectory(folder).non_finite_file, every
        self.optimizer, self.checkpoints = optimizer, checkpoints
        self._batch: Batch | None = None
        self._batch_idx = 0
        self._loss: Flag | None = None
        self._late: _Step | None = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        self._batch, self._batch_idx = batch, batch_idx

    def on_before_zero_grad(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer) -> None:
        """The forward pass is queued, the gradients of the step before are there for the last time."""
        self._read_late(trainer, pl_module)

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        assert isinstance(pl_module, TrainingModule)
        assert pl_module.latest_loss is not None
        self._loss = Flag(pl_module.latest_loss) if self._looks() else None

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._loss is not None and not self._loss.read():
            self._stop(trainer, pl_module, "loss")

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        if not self._looks():
            return
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is not None:
            if scaler.get_scale() < LEAST_SCALE:
                self._stop(trainer, pl_module, "gradients")
            return
        assert isinstance(pl_module, TrainingModule)
        assert pl_module.latest_loss is not None
        assert self._batch is not None
        self._late = _Step(Flag(self.optimizer.latest), pl_module.latest_loss, self._batch, self._place(trainer))
        if self._at_once(pl_module):
            late, self._late = self._late, None
            if not late.gradients.read():
                self._stop(trainer, pl_module, "gradients")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self._batch = None
        if trainer.is_last_batch:
            self._read_late(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._read_late(trainer, pl_module)

    def _looks(self) -> bool:
        return self.every > 0 and self._batch_idx % self.every == 0

    def _at_once(self, module: pl.LightningModule) -> bool:
        """Whether reading a value costs nothing."""
        return module.device.type == "cpu"

    def _place(self, trainer: pl.Trainer) -> dict[str, int]:
        return {"epoch": trainer.current_epoch + 1, "step": trainer.global_step, "batch": self._batch_idx}

    def _read_late(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        late, self._late = self._late, None
        if late is None or late.gradients.read():
            return
        finite_images = bool(late.batch[0].isfinite().all())
        innocent = {
            "finite_images": finite_images,
            "first_layer": None,
            "finite_output": True,
            "loss": late.loss.item(),
        }
        self._report(trainer, module, "gradients", late.place, innocent, late.batch)

    def _stop(self, trainer: pl.Trainer, module: pl.LightningModule, what: str) -> NoReturn:
        assert isinstance(module, TrainingModule)
        assert self._batch is not None
        traced = trace(module, self._batch[0], self._batch_idx)
        self._report(trainer, module, what, self._place(trainer), traced, self._batch)

    def _report(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        what: str,
        place: dict[str, int],
        traced: dict[str, Any],
        batch: Batch,
    ) -> NoReturn:
        assert isinstance(module, TrainingModule)
        report = {"non_finite": what, **place, **self._numbers(module), **traced, "batch_ids": batch[2].tolist()}
        report = _first_affected(_gather(trainer, report))
        last = self.checkpoints.last
        report["last_good_checkpoint"] = str(last) if last.is_file() else None
        if trainer.is_global_zero:
            write_json(self.report, report)
        raise NonFiniteLoss(_message(report), self.report)

    def _numbers(self, module: TrainingModule) -> dict[str, Any]:
        assert module.latest_loss is not None
        return {
            "loss": module.latest_loss.item(),
            "learning_rates": dict(self.optimizer.rates),
            "precision": str(module.trainer.precision),
            "curvatures": curvatures(module.network),
            "at_bound": [name for name, value in at_bounds(module.network).items() if value],
            "non_finite_parameters": _non_finite(module, gradients=False),
            "non_finite_gradients": _non_finite(module, gradients=True),
        }


def _non_finite(module: nn.Module, *, gradients: bool) -> list[str]:
    values = {name: p.grad if gradients else p for name, p in module.named_parameters()}
    return [name for name, value in values.items() if value is not None and not value.isfinite().all()]


@torch.no_grad()
def trace(module: TrainingModule, images: Tensor, batch_idx: int) -> dict[str, Any]:
    """Run the step's forward pass again, layer by layer: the first layer with a non-finite output, and the radii.

    Same mode, precision and random numbers as in the step; the layers before the first affected one are innocent.
    """
    found: dict[str, Any] = {"finite_images": bool(images.isfinite().all()), "first_layer": None, "radius": None}
    module.seed_step(batch_idx)
    with module.trainer.precision_plugin.forward_context(), _watch(module.model, found), record() as readings:
        inspection = module.inspect(images.to(module.dtype))
    found["finite_output"] = inspection.finite
    found["rescaled"] = dict(readings)
    found["radius"] = inspection.radii
    limits = {name: manifold.curvature.bounds for name, manifold in curved(module.network).items()}
    return found | {"curvature_bounds": {name: list(bounds) for name, bounds in limits.items()}}


@contextmanager
def _watch(model: nn.Module, found: dict[str, Any]) -> Iterator[None]:
    """Note into found["first_layer"] the first module to finish with an output that is not finite."""

    def watcher(name: str) -> Any:
        def watch(module: nn.Module, arguments: Any, output: Any) -> None:
            if found["first_layer"] is None and not _all_finite(output):
                found["first_layer"] = name
                found["first_layer_type"] = type(module).__name__

        return watch

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if name:
                hooks.callback(module.register_forward_hook(watcher(name)).remove)
        yield


def _all_finite(output: Any) -> bool:
    if isinstance(output, Tensor):
        return not output.is_floating_point() or bool(output.isfinite().all())
    return all(_all_finite(item) for item in output) if isinstance(output, (list, tuple)) else True


def _gather(trainer: pl.Trainer, report: dict[str, Any]) -> list[dict[str, Any]]:
    reports = [report] * trainer.world_size
    if trainer.world_size > 1:
        torch.distributed.all_gather_object(reports, report)
    return reports


def _first_affected(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """The report of the first process whose own forward pass is affected, else of the first process."""
    affected = [rank for rank, report in enumerate(reports) if report["first_layer"] or not report["finite_output"]]
    rank = affected[0] if affected else 0
    return reports[rank] | {"process": rank}


def _message(report: dict[str, Any]) -> str:
    what = f"non-finite {report['non_finite']} in epoch {report['epoch']}, step {report['step']}"
    where = [f"first in layer {report['first_layer']} ({report['first_layer_type']})"] if report["first_layer"] else []
    where += ["the images themselves are not finite"] if not report["finite_images"] else []
    where += [f"curvature of {name} at a bound" for name in report["at_bound"]]
    advice = ["a lower optim.lr or optim.curvature_lr", "trainer.gradient_clip=1"]
    advice += ["trainer.precision=32"] if report["precision"] in ("16-mixed", "bf16-mixed") else []
    advice += ["tighter manifold.bounds"] if report["curvatures"] else []
    kept = report["last_good_checkpoint"]
    goes_on = f"; the last good checkpoint is {kept}" if kept else ""
    return f"{'; '.join([what, *where])}{goes_on}. Try {', or '.join(advice)}."

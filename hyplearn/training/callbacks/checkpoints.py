"""The moments at which a run writes its checkpoints, and which of them counts in the end."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from signal import SIGTERM
from typing import Any, NamedTuple, NoReturn

import pytorch_lightning as pl

from hyplearn.errors import Interrupted, NonFiniteLoss
from hyplearn.nn.processes import in_any_process
from hyplearn.runs.atomic import write_json
from hyplearn.runs.directory import RunDirectory
from hyplearn.training.callbacks.stop_signals import StopSignals
from hyplearn.training.checkpoint import read_checkpoint
from hyplearn.training.finite import named, non_finite_training, not_finite
from hyplearn.training.module import TrainingModule

ADVICE = "a lower optim.lr or optim.curvature_lr, or trainer.gradient_clip=1"
log = logging.getLogger("hyplearn")


class Choice(NamedTuple):
    """Which weights count, why, and where they lie."""

    rule: str
    epoch: int
    path: Path


class Checkpoints(pl.Callback):
    """Writes best.ckpt and last.ckpt, ends a run that no longer gets better, and answers a request to stop.

    monitor: the metric that decides, smaller is better for a loss; an epoch without it (no validation) is never best.
    every: epochs between two last.ckpt. patience: epochs without a better one until the end, None for no end.
    Must be the last callback: what the others keep of an epoch belongs into its checkpoint.

    A request to stop is answered after an optimizer step in the middle of an epoch, with what it takes to continue from
    there; one during an epoch's last step or validation, once that epoch is complete.

    A checkpoint is finite: before each one, before validation and at the end of every epoch, weights, buffers, the
    state of the optimizer, the gradient scale and the metrics of the epoch are looked at, in every process.
    NonFiniteLoss names what is not finite; the files that are there stay.
    """

    def __init__(
        self, record: RunDirectory, *, monitor: str, every: int, patience: int | None, signals: StopSignals
    ) -> None:
        self.record, self.monitor, self.every, self.patience, self.signals = record, monitor, every, patience, signals
        self.best_value: float | None = None
        self.best_epoch = 0
        self.written: Path | None = None

    @property
    def best(self) -> Path:
        return self.record.best_file

    @property
    def last(self) -> Path:
        return self.record.last_file

    def state_dict(self) -> dict[str, Any]:
        return {"best_value": self.best_value, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.best.is_file():
            self.best_value, self.best_epoch = state_dict["best_value"], state_dict["best_epoch"]
        elif state_dict["best_value"] is not None:
            log.warning("%s is missing: the best epoch is chosen among those to come", self.best)

    def choice(self, last_epoch: int) -> Choice:
        """The weights to test: the best by validation if there was any, else those of the last epoch."""
        if last_epoch == 0:
            return Choice("no training", 0, self.last)
        if self.best_value is None:
            return Choice("last epoch", last_epoch, self.last)
        # A run killed between two files may have a best.ckpt newer than last.ckpt; the file itself knows its epoch.
        state = read_checkpoint(self.best)["callbacks"][type(self).__qualname__]
        return Choice(f"best {self.monitor}", state["best_epoch"], self.best)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        # That of the first process, which alone writes.
        self.record = RunDirectory(Path(trainer.strategy.broadcast(str(self.record.path))))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.signals.install()
        if self.patience is not None and not any(trainer.num_val_batches):
            raise ValueError(f"callbacks.patience={self.patience} needs validation data: set dataset.val_fraction > 0")
        self._end_if_out_of_patience(trainer, trainer.current_epoch)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        after_step = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        last_step = trainer.is_last_batch or trainer.global_step == trainer.max_steps
        if after_step and not last_step and self._stop_requested(trainer):
            self._save_last_and_stop(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._require_finite(trainer)  # what such weights embed could not even be ranked

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, TrainingModule)
        epoch = trainer.current_epoch + 1
        self._require_finite(trainer)
        self.require_finite_metrics(trainer, pl_module.row)
        value = pl_module.row.get(self.monitor)
        if value is not None and self._is_better(value):
            self.best_value, self.best_epoch = value, epoch
            trainer.save_checkpoint(self.best, weights_only=False)
        if self._stop_requested(trainer):
            self._save_last_and_stop(trainer)
        self._end_if_out_of_patience(trainer, epoch)
        at_end = trainer.should_stop or epoch == trainer.max_epochs or trainer.global_step == trainer.max_steps
        if at_end or epoch % self.every == 0:
            self._save_last(trainer)

    def on_test_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if self.signals.requested is not None:
            raise Interrupted(self.signals.requested, self.last)

    def _is_better(self, value: float) -> bool:
        if self.best_value is None:
            return True
        return value < self.best_value if self.monitor.endswith("loss") else value > self.best_value

    def _end_if_out_of_patience(self, trainer: pl.Trainer, epoch: int) -> None:
        if self.patience is not None and self.best_value is not None and epoch - self.best_epoch >= self.patience:
            trainer.should_stop = True

    def _stop_requested(self, trainer: pl.Trainer) -> bool:
        return in_any_process(self.signals.requested is not None)

    def save_untrained(self, trainer: pl.Trainer) -> None:
        """last.ckpt of weights that are only tested."""
        self._require_finite(trainer)
        self._save_last(trainer)

    def _save_last(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(self.last, weights_only=False)
        self.written = self.last

    def _save_last_and_stop(self, trainer: pl.Trainer) -> None:
        self._require_finite(trainer)
        self._save_last(trainer)
        raise Interrupted(self.signals.requested or SIGTERM, self.last)

    # What is not finite

    def require_finite_metrics(self, trainer: pl.Trainer, numbers: Mapping[str, float]) -> None:
        """Raise NonFiniteLoss, in all processes, for metrics that are not finite in one."""
        found = not_finite(numbers)
        if not trainer.strategy.reduce_boolean_decision(not found, all=True):
            self._diverged(trainer, "metrics", found)

    def _require_finite(self, trainer: pl.Trainer) -> None:
        """Raise NonFiniteLoss, in all processes, for weights or a state of training that is not finite in one."""
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        scale = None if scaler is None else float(scaler.get_scale())
        found = non_finite_training(trainer.lightning_module, trainer.optimizers, scale)
        if not trainer.strategy.reduce_boolean_decision(not found, all=True):
            self._diverged(trainer, "weights or optimizer state", found)

    def _diverged(self, trainer: pl.Trainer, what: str, found: list[str]) -> NoReturn:
        kept = str(self.last) if self.last.is_file() else None
        epoch, step = trainer.current_epoch + 1, trainer.global_step
        report = {"non_finite": what, "epoch": epoch, "step": step, "names": found, "last_good_checkpoint": kept}
        if trainer.is_global_zero:
            write_json(self.record.non_finite_file, report)
        where = f" ({named(found)})" if found else " (in another process)"
        goes_on = f"; the last good checkpoint is {kept}" if kept else ""
        message = f"non-finite {what}{where} in epoch {epoch}, after step {step}{goes_on}. Try {ADVICE}."
        raise NonFiniteLoss(message, self.record.non_finite_file)

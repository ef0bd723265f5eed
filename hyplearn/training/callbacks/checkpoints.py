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


# What decides between epochs that the monitor cannot tell apart, if it was measured: on small sets many have 100 %.
TIE_BREAKERS = {
    "val/top1": "val/loss", "val/top5": "val/loss", "val/loss": "val/top1", "val/map@r": "val/recall@1"
}  # fmt: skip
RETRIEVAL_TIE_BREAKER = "val/map@r"


class Choice(NamedTuple):
    """Which weights count, why, and where they lie. ties: how one of several equally good epochs was chosen, if so."""

    rule: str
    epoch: int
    path: Path
    ties: str | None = None


class Best(NamedTuple):
    """The best epoch so far. since: the first as good by the monitor. breaker: its second metric, if it was measured.

    tied: how many epochs are as good by the monitor; equal: how many of them by both.
    """

    value: float
    epoch: int
    since: int
    breaker: float | None = None
    tied: int = 1
    equal: int = 1


class Checkpoints(pl.Callback):
    """Writes best.ckpt and last.ckpt, ends a run that no longer gets better, and answers a request to stop.

    monitor: the metric that decides, smaller is better for a loss; an epoch without it (no validation) is never best.
    Among equals the better by MAP@R is kept (of a classifier by the loss), and of those that are equal there, too, the
    last, which has seen most.
    every: epochs between two last.ckpt. patience: epochs without a better one by the monitor until the end, None for no
    end.
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
        self.leader: Best | None = None
        self.written: Path | None = None

    @property
    def best(self) -> Path:
        return self.record.best_file

    @property
    def last(self) -> Path:
        return self.record.last_file

    @property
    def breaker(self) -> str:
        """The metric that decides between epochs of the same value of the monitor."""
        return TIE_BREAKERS.get(self.monitor, RETRIEVAL_TIE_BREAKER)

    def state_dict(self) -> dict[str, Any]:
        if self.leader is None:
            return {"best_value": None, "best_epoch": 0}
        kept = self.leader._asdict()
        return {"best_value": kept.pop("value"), "best_epoch": kept.pop("epoch"), **kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.best.is_file():
            self.leader = _leader(state_dict)
        elif state_dict["best_value"] is not None:
            log.warning("%s is missing: the best epoch is chosen among those to come", self.best)

    def choice(self, last_epoch: int) -> Choice:
        """The weights to test: the best by validation if there was any, else those of the last epoch."""
        if last_epoch == 0:
            return Choice("no training", 0, self.last)
        if self.leader is None:
            return Choice("last epoch", last_epoch, self.last)
        # A run killed between two files may have a best.ckpt newer than last.ckpt; the file itself knows its epoch.
        leader = _leader(read_checkpoint(self.best)["callbacks"][type(self).__qualname__])
        assert leader is not None
        later = self.leader if self.leader.epoch == leader.epoch else leader  # knows of ties that it won
        return Choice(f"best {self.monitor}", leader.epoch, self.best, self._ties(later))

    def _ties(self, leader: Best) -> str | None:
        if leader.tied == 1:
            return None
        told = f"of {leader.tied} epochs with it "
        if leader.breaker is None:
            return f"{told}the last"
        return f"{told}the best by {self.breaker}" + (
            f", and of {leader.equal} such the last" if leader.equal > 1 else ""
        )

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
        if value is not None and self._leads(value, pl_module.row.get(self.breaker), epoch):
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

    def _leads(self, value: float, breaker: float | None, epoch: int) -> bool:
        """Whether an epoch is the best so far, which it is from then on."""
        leader = self.leader
        if leader is None or _better(self.monitor, value, leader.value):
            self.leader = Best(value, epoch, epoch, breaker)
            return True
        if value != leader.value:
            return False
        equal = leader.equal + 1
        if leader.breaker is not None and breaker is not None and breaker != leader.breaker:
            if _better(self.breaker, leader.breaker, breaker):
                self.leader = leader._replace(tied=leader.tied + 1)
                return False
            equal = 1
        self.leader = Best(value, epoch, leader.since, breaker, leader.tied + 1, equal)
        return True

    def _end_if_out_of_patience(self, trainer: pl.Trainer, epoch: int) -> None:
        if self.patience is not None and self.leader is not None and epoch - self.leader.since >= self.patience:
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


def _better(metric: str, value: float, than: float) -> bool:
    return value < than if metric.endswith("loss") else value > than


def _leader(state: Mapping[str, Any]) -> Best | None:
    """The best epoch of a checkpoint; those from before ties were told apart know its value and number alone."""
    if state["best_value"] is None:
        return None
    more = {name: state[name] for name in ("since", "breaker", "tied", "equal") if name in state}
    return Best(**{"value": state["best_value"], "epoch": state["best_epoch"], "since": state["best_epoch"], **more})

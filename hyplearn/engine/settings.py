"""What a user sets about training, logging and callbacks. Plain data without torch: the command line checks it first.

Every `validate` raises a ValueError that names key, value and way out.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field

PRECISIONS = ("32", "64", "bf16", "fp16")
MONITORS = ("val/top1", "val/top5", "val/loss")


def _require(fine: bool, key: str, value: object, allowed: str) -> None:
    if not fine:
        raise ValueError(f"{key}={value!r} must be {allowed}")


def _choice(key: str, value: str, choices: Sequence[str]) -> None:
    _require(value in choices, key, value, "one of " + ", ".join(choices))


def _count(key: str, value: int | None) -> None:
    _require(value is None or value >= 1, key, value, "at least 1, or null")


@dataclass
class TrainerSettings:
    """How long, on what, and in which precision.

    max_epochs: passes over the training data. max_steps: optimizer steps after which training ends even earlier.
    accelerator: auto (a CUDA GPU where there is one), cpu, gpu. devices: auto or how many. strategy: auto or ddp.
    precision: 32, 64, bf16, fp16 (the 16-bit ones are mixed; geometry stays in float32).
    gradient_clip: largest global norm of the Euclidean gradients. accumulate_grad_batches: batches per optimizer step.
    deterministic: refuse operations that may differ between two runs on a GPU.
    progress: auto (rich on a terminal, plain elsewhere), rich, plain, none.
    limit_*_batches: only so many batches of an epoch, for debugging; null for all, 0 leaves validation or test out.
    num_threads: CPU threads of torch, null for torch's choice. sync_batchnorm: batch statistics over all processes.
    """

    max_epochs: int = 20
    max_steps: int | None = None
    accelerator: str = "auto"
    devices: int | str = "auto"
    strategy: str = "auto"
    precision: str = "32"
    compile: bool = False
    gradient_clip: float | None = None
    accumulate_grad_batches: int = 1
    deterministic: bool = False
    progress: str = "auto"
    limit_train_batches: int | None = None
    limit_val_batches: int | None = None
    limit_test_batches: int | None = None
    num_threads: int | None = None
    sync_batchnorm: bool = False

    def validate(self) -> None:
        for key in ("max_epochs", "max_steps", "accumulate_grad_batches", "limit_train_batches", "num_threads"):
            _count(f"trainer.{key}", getattr(self, key))
        for key in ("limit_val_batches", "limit_test_batches"):
            value = getattr(self, key)
            _require(value is None or value >= 0, f"trainer.{key}", value, "at least 0, or null")
        _choice("trainer.accelerator", self.accelerator, ("auto", "cpu", "gpu"))
        _choice("trainer.strategy", self.strategy, ("auto", "ddp"))
        _choice("trainer.precision", self.precision, PRECISIONS)
        _choice("trainer.progress", self.progress, ("auto", "rich", "plain", "none"))
        if isinstance(self.devices, int):
            _count("trainer.devices", self.devices)
        else:
            _choice("trainer.devices", self.devices, ("auto",))
        clip = self.gradient_clip
        _require(clip is None or clip > 0, "trainer.gradient_clip", clip, "greater than 0, or null for no clipping")


@dataclass
class LoggerSettings:
    """Where numbers go beside metrics.csv, which is always written.

    project, entity, group, tags: of Weights & Biases; the runs of a sweep share a group.
    mode: online, offline, or auto: online where a key is found, else offline; never a prompt.
    """

    tensorboard: bool = False
    wandb: bool = False
    project: str = "hyplearn"
    entity: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    mode: str = "auto"

    def validate(self) -> None:
        _choice("logger.mode", self.mode, ("auto", "online", "offline"))
        _require(bool(self.project), "logger.project", self.project, "a name")
        if self.tensorboard and importlib.util.find_spec("tensorboard") is None:
            raise ValueError("logger.tensorboard=True needs TensorBoard: pip install 'hyplearn[tensorboard]'")


@dataclass
class CallbackSettings:
    """What accompanies training.

    geometry: log radii and the share of rescaled points once per epoch. figures: draw the curves at the end.
    monitor: the validation metric that chooses best.ckpt; without validation data the last epoch is chosen.
    save_every_epochs: how often last.ckpt is written; it is written at the end and on a signal in any case.
    patience: stop after this many epochs without a better monitor, null to train to the end.
    nonfinite_every: look for a non-finite loss or gradient every so many batches, 0 for never. Each look waits for
    the device: on a fast GPU 50 costs nothing, but then the report comes up to 49 batches late.
    """

    geometry: bool = True
    figures: bool = True
    monitor: str = "val/top1"
    save_every_epochs: int = 1
    patience: int | None = None
    nonfinite_every: int = 1

    def validate(self) -> None:
        _choice("callbacks.monitor", self.monitor, MONITORS)
        _require(self.save_every_epochs >= 1, "callbacks.save_every_epochs", self.save_every_epochs, "at least 1")
        _count("callbacks.patience", self.patience)
        _require(self.nonfinite_every >= 0, "callbacks.nonfinite_every", self.nonfinite_every, "at least 0")

"""What a user sees while a run trains: a live bar on a terminal, plain lines elsewhere, and train.log in any case.

Lightning's bars are not used: they read the metrics at every refresh, each of which waits for the device, and say
nothing in a file or a queue's log, where most long runs are watched. What is drawn here is drawn by rich.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column

from hyplearn.errors import Interrupted, NonFiniteLoss
from hyplearn.training.model_readings import curvatures
from hyplearn.training.module import TrainingModule

log = logging.getLogger("hyplearn")

LIVE_SECONDS = 0.5  # between two updates of the bar: each reads the metrics, which waits for the device
BAR = 10  # columns of the bar itself
BESIDE = 48  # columns of all but the loss and what stands behind it: `epoch 100/200`, the bar, `1000/1000`, `0:00:00`
PLAIN_SECONDS = 30.0  # between two lines within one long epoch


class _Console(logging.Handler):
    """Prints to the standard output of the moment, which the live bar replaces so that lines appear above it."""

    def emit(self, record: logging.LogRecord) -> None:
        if not getattr(record, "for_the_file", False):
            print(self.format(record), flush=True)


class _Style(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return f"warning: {text}" if record.levelno >= logging.WARNING else text


@contextmanager
def run_log(path: Path | None, *, quiet: bool) -> Iterator[None]:
    """Send what the engine says to the terminal and, appended, to `path`. quiet: only warnings on the terminal.

    path None: a process that is not the first; it says nothing.
    """
    handlers: list[logging.Handler] = [logging.NullHandler()]
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        console, file = _Console(logging.WARNING if quiet else logging.INFO), logging.FileHandler(path)
        console.setFormatter(_Style())
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        handlers = [console, file]
    level, before = log.level, (log.propagate, log.handlers)
    log.setLevel(logging.INFO)
    log.propagate, log.handlers = False, handlers
    try:
        yield
    finally:
        log.setLevel(level)
        log.propagate, log.handlers = before
        for handler in handlers:
            handler.close()


def log_failure(error: BaseException) -> None:
    """Keep in train.log why a run ended early; on the terminal, whoever catches the error says so."""
    known = isinstance(error, (Interrupted, NonFiniteLoss))
    log.error("%s", error, exc_info=None if known else error, extra={"for_the_file": True})


def build_progress(kind: str) -> list[pl.Callback]:
    """auto, rich, plain or none as callbacks; auto means rich on a terminal and plain elsewhere."""
    if kind == "auto":
        kind = "rich" if sys.stdout.isatty() else "plain"
    shown: dict[str, list[pl.Callback]] = {"rich": [LiveBar()], "plain": [PlainLines()], "none": []}
    return shown[kind]


ACCURACIES = {"train/top1": "train", "val/top1": "val", "val/recall@1": "val R@1", "val/map@r": "MAP@R"}


def epoch_line(row: Mapping[str, float], epochs: int) -> str:
    """One epoch in one line."""
    parts = [f"epoch {row['epoch']:>3}/{epochs}", f"loss {row['train/loss']:.4f}"]
    parts += [f"{title} {row[name]:.2f} %" for name, title in ACCURACIES.items() if name in row]
    parts += _curvature_parts(_per_manifold(row))
    return "  ".join([*parts, f"{row['images_per_second']:.0f} images/s", f"{row['seconds']:.1f} s"])


def _per_manifold(row: Mapping[str, float]) -> dict[str, float]:
    names = [name for name in row if name.startswith("curvature/") and not name.endswith("_at_bound")]
    return {name.removeprefix("curvature/"): row[name] for name in names}


def _curvature_parts(found: Mapping[str, float]) -> list[str]:
    """c of up to two manifolds, or its range over more."""
    if len(found) > 2:
        return [f"c {min(found.values()):.4f} to {max(found.values()):.4f}"]
    return [f"c {name} {c:.4f}" for name, c in found.items()]


class PlainLines(pl.Callback):
    """One line per epoch, and one every PLAIN_SECONDS within a long one."""

    def __init__(self) -> None:
        self._said = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._said = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, TrainingModule)
        if time.monotonic() - self._said >= PLAIN_SECONDS:
            self._said = time.monotonic()
            batches = int(trainer.num_training_batches)
            now = "  ".join(_now(pl_module))
            log.info("epoch %3d  batch %d/%d  %s", trainer.current_epoch + 1, batch_idx + 1, batches, now)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, TrainingModule)
        self._said = time.monotonic()
        log.info(epoch_line(pl_module.row, trainer.max_epochs or 0))


def _now(module: TrainingModule) -> list[str]:
    """Loss, accuracy and curvature of this moment, of this process."""
    found = module.meters["train"].metrics()
    accuracy = [f"train {found['top1']:.2f} %"] if "top1" in found else []
    return [f"loss {found['loss']:.4f}", *accuracy, *_curvature_parts(curvatures(module.network))]


def fitting(parts: Sequence[str], room: int) -> str:
    """Return the parts that find room in one line; the first, the loss, stands there in any case."""
    shown = list(parts[:1])
    for part in parts[1:]:
        if len("  ".join([*shown, part])) > room:
            break
        shown.append(part)
    return "  ".join(shown)


def live_bar(console: Console | None = None) -> Progress:
    """Make the bar: no column is folded or cut, so that batch, time and loss stand at 80 columns, too."""
    whole = [Column(no_wrap=True) for _ in range(5)]
    return Progress(
        TextColumn("{task.description}", table_column=whole[0]),
        BarColumn(BAR, table_column=whole[1]),
        MofNCompleteColumn(table_column=whole[2]),
        TimeRemainingColumn(table_column=whole[3]),
        TextColumn("{task.fields[now]}", table_column=whole[4]),
        console=console,
        auto_refresh=False,
        transient=True,
    )


class LiveBar(pl.Callback):
    """A bar for the epoch with loss, accuracy and curvature, and the line of each finished epoch above it."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._drawn = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            self._bar = live_bar()
            self._task = self._bar.add_task("", total=None, now="")
            self._bar.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, TrainingModule)
        if self._due():
            title = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
            self._draw(title, batch_idx + 1, trainer.num_training_batches, _now(pl_module))

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._due():
            self._draw("validation", batch_idx + 1, sum(trainer.num_val_batches), [])

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, TrainingModule)
        log.info(epoch_line(pl_module.row, trainer.max_epochs or 0))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._stop()

    def _due(self) -> bool:
        return self._bar is not None and time.monotonic() - self._drawn >= LIVE_SECONDS

    def _draw(self, title: str, completed: int, total: float, parts: Sequence[str]) -> None:
        assert self._bar is not None
        now = fitting(parts, self._bar.console.width - BESIDE)
        self._drawn = time.monotonic()
        self._bar.update(self._task, description=title, completed=completed, total=total, now=now, refresh=True)

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

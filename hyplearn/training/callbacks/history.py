"""The history of a run: one row per epoch, kept in the checkpoint, written to metrics.csv and sent to the loggers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from hyplearn.runs.directory import RunDirectory
from hyplearn.training.checkpoint import check_file
from hyplearn.training.model_readings import curvatures
from hyplearn.training.module import TrainingModule

Row = dict[str, float]


class Recorder(pl.Callback):
    """Completes the row of an epoch and hands it on; after every callback that adds to the row.

    The history is part of the checkpoint and metrics.csv is rewritten from it, so a resumed run repeats no row and
    loses none. `initial` holds the curvatures before training; `listeners` receive each row.
    """

    def __init__(self, folder: Path) -> None:
        self.record = RunDirectory(folder)
        self.listeners: Sequence[Callable[[Row], None]] = []
        self.rows: list[Row] = []
        self.initial: dict[str, float] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, TrainingModule)
        if trainer.global_step == 0:
            self.initial = curvatures(pl_module.network)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, TrainingModule)
        epoch = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step}
        pl_module.row = epoch | pl_module.metrics("train") | pl_module.metrics("val") | pl_module.row
        self.rows.append(dict(pl_module.row))
        if trainer.is_global_zero:
            self.record.write_history(self.rows)
            for listen in self.listeners:
                listen(self.rows[-1])

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "initial": self.initial}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows, self.initial = state_dict["rows"], state_dict["initial"]


def recorded_rows(checkpoint: Path) -> list[Row]:
    """The history in a checkpoint, without reading its weights."""
    check_file(checkpoint)
    content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    rows: list[Row] = content["callbacks"][Recorder.__qualname__]["rows"]
    return rows

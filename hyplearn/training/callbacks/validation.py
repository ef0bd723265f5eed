"""When validation begins."""

from __future__ import annotations

import pytorch_lightning as pl


class ValidationEpochs(pl.Callback):
    """Validates in epoch `first`, counted from 0, and in every `every`-th after it; Lightning counts from its own."""

    def __init__(self, *, first: int, every: int) -> None:
        self.first, self.every = first, every

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Decide for the epoch in the middle of which a run continues."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tell Lightning whether this epoch validates: it does where (epoch + 1) is a multiple of its setting."""
        since = trainer.current_epoch - self.first
        trainer.check_val_every_n_epoch = 1 if since >= 0 and since % self.every == 0 else trainer.current_epoch + 2

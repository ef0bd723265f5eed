"""Data of one's own: a `LightningDataModule` whose loaders make the batches, for a classifier.

Most data are better given as a source (`hyplearn.data.sources.base.ImageSource`) to `ImageDataModule`, which splits,
augments, resumes in the middle of an epoch, and serves every command. A `DataModule` is for loaders that exist already:
it trains and tests; commands that look at single images (predict, export, plot) need an `ImageDataModule`.
"""

from __future__ import annotations

from collections.abc import Sized
from typing import Any, TypeAlias

import pytorch_lightning as pl
import torch
from torch import Tensor

from hyplearn.data.datamodule import ImageDataModule

# What training reads of data before a batch exists; the loaders are Lightning's.
NEEDED = ("in_channels", "num_classes", "image_size", "batch_size")


class DataModule(pl.LightningDataModule):
    """Base of a `LightningDataModule` that trains a classifier; subclasses give loaders and the numbers below.

    in_channels, num_classes, image_size (side in pixels): what a model may have to know. batch_size: of training, over
    all processes. class_names: where they are known. A batch is (images (B, C, H, W), labels (B,)) or has ids (B,) as
    its third part. Each process must see its own share: Lightning replaces no sampler.
    """

    in_channels: int
    num_classes: int
    image_size: int
    batch_size: int
    class_names: tuple[str, ...] | None = None

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What identifies the data in types that JSON knows; a subclass may add counts and digests."""
        facts = {name: getattr(self, name) for name in NEEDED}
        return {"name": type(self).__name__, **facts, "counts": self._counts()}

    def _counts(self) -> dict[str, int]:
        """Images of the data sets that have been read so far, as far as they know their number."""
        trainer = self.trainer
        read = {} if trainer is None else {"train": trainer.train_dataloader, "test": trainer.test_dataloaders}
        sets = {part: getattr(loader, "dataset", None) for part, loader in read.items()}
        return {part: len(data) for part, data in sets.items() if isinstance(data, Sized)}

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> tuple[Tensor, Tensor, Tensor]:
        """Give images a number within the batch where they have no id."""
        images, labels, *rest = batch
        ids = rest[0] if rest else torch.arange(len(labels), device=labels.device)
        if self.trainer is not None:
            images = self.trainer.precision_plugin.convert_input(images)
        return images, labels, ids


TrainingData: TypeAlias = ImageDataModule | DataModule

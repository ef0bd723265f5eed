"""Batches of an epoch, from any position: the loader that Lightning resumes in the middle of an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor

from hyplearn.data.batches.sampler import BatchSampler, share
from hyplearn.data.batches.transforms import Augmentation
from hyplearn.data.randomness import generator
from hyplearn.data.reading.images import Images


class Batch(NamedTuple):
    """What a loader yields. The datamodule makes (images, labels, ids) of it on the device.

    images: (B, C, H, W) uint8 in channels_last. labels, ids: (B,) int64. draws: the random numbers of the augmentation,
    None where there is none.
    """

    images: Tensor
    labels: Tensor
    ids: Tensor
    draws: Tensor | None


class ImageLoader:
    """Iterates over one epoch, `sampler.epoch`, as process `rank` of `world_size` sees it.

    Stateful as Lightning understands it: `state_dict()` names the epoch and the next batch, and after
    `load_state_dict()` the next iteration starts there, if it is of that epoch, else at the epoch's beginning. Order
    and augmentation are functions of (seed, epoch, batch), so nothing else needs to be stored, and the augmentation of
    an image does not depend on the number of processes.

    keep_workers: processes that decode images stay from pass to pass, until who gave the images closes them.
    """

    batch_sampler = None  # Lightning asks for it wherever there is a sampler

    def __init__(
        self,
        images: Images,
        sampler: BatchSampler,
        *,
        seed: int,
        augmentation: Augmentation | None = None,
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
        keep_workers: bool = False,
    ) -> None:
        self.images, self.sampler, self.seed, self.augmentation = images, sampler, seed, augmentation
        self.rank, self.world_size, self.pin_memory = rank, world_size, pin_memory
        self.keep_workers = keep_workers
        self._position = (0, 0)  # epoch and next batch
        self._resume: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        # All of this runs at the first `next`, after Lightning has told the sampler which epoch it is.
        epoch, start = self.sampler.epoch, 0
        if self._resume is not None and self._resume[0] == epoch:
            start = self._resume[1]
        self._resume = None
        batches = self.sampler.batches()[start:]
        parts = [share(ids, rank=self.rank, world_size=self.world_size) for ids in batches]
        order = [ids[part] for ids, part in zip(batches, parts, strict=True)]
        if self.keep_workers:
            pixels = self.images.batches_of_pass(order, epoch=epoch, pin_memory=self.pin_memory)
        else:
            pixels = self.images.batches(order, epoch=epoch)
        for number, images in enumerate(pixels):
            draws = self._draw(len(batches[number]), parts[number], epoch=epoch, batch=start + number)
            self._position = (epoch, start + number + 1)
            ids = order[number]
            yield self._pinned(Batch(images, self.images.labels[ids], ids, draws))

    def _draw(self, count: int, part: slice, *, epoch: int, batch: int) -> Tensor | None:
        """This process's part of the random numbers for a global batch of `count` samples."""
        if self.augmentation is None:
            return None
        return self.augmentation.draw(count, generator(self.seed, "augmentation", epoch, batch))[part]

    def _pinned(self, batch: Batch) -> Batch:
        if not self.pin_memory:
            return batch
        # What a thread has pinned already comes back as it is.
        return Batch(*(None if part is None else part.pin_memory() for part in batch))  # type: ignore[arg-type]

    def state_dict(self) -> dict[str, int]:
        epoch, batch = self._position if self._resume is None else self._resume
        return {"epoch": epoch, "batch": batch, "batches": len(self), "seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on at a position. Raises ValueError in the middle of an epoch that was made up of other batches."""
        epoch, batch = state_dict["epoch"], state_dict["batch"]
        same = (state_dict["batches"], state_dict["seed"]) == (len(self), self.seed)
        if 0 < batch < state_dict["batches"] and not same:
            raise ValueError(
                f"the checkpoint stands at batch {batch} of {state_dict['batches']} (seed {state_dict['seed']}), but "
                f"this run has {len(self)} batches an epoch (seed {self.seed}): resume with the data set, batch_size "
                "and seed of the checkpoint, or from a checkpoint at the end of an epoch"
            )
        self._resume = (epoch, batch)
        self.sampler.set_epoch(epoch)

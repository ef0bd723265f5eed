"""Which samples make up each batch of an epoch: pure functions of (seed, epoch), so any batch can be named at any time.

Batches are global: every process knows all of them and takes its share (`share`), nothing is drawn per process.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from hyplearn.data.randomness import generator


class BatchSampler(Protocol):
    """The global batches of an epoch, each a tensor of sample ids."""

    epoch: int

    def set_epoch(self, epoch: int) -> None: ...

    def __len__(self) -> int: ...

    def batches(self) -> list[Tensor]: ...


def share(batch: Tensor, *, rank: int, world_size: int) -> slice:
    """The part of a global batch for process `rank` of `world_size`; the parts in rank order are the batch."""
    return slice(len(batch) * rank // world_size, len(batch) * (rank + 1) // world_size)


class ShuffledBatches:
    """Every sample once an epoch in the order of a permutation seeded by (seed, epoch).

    ids: (N,) the samples. batch_size: of the global batch. The last batch of an epoch is smaller; it is kept unless
    `drop_last`, or unless a process would get fewer than `smallest_share` samples of it, since a batch norm cannot
    normalise a single value. With several processes a last batch that does not divide evenly loses its remainder
    (fewer than world_size samples, other ones each epoch), for DDP averages over equal shares.
    """

    def __init__(
        self,
        ids: Tensor,
        *,
        batch_size: int,
        seed: int,
        world_size: int = 1,
        drop_last: bool = False,
        smallest_share: int = 2,
    ) -> None:
        if batch_size % world_size or batch_size < smallest_share * world_size:
            raise ValueError(
                f"batch_size must be a multiple of the {world_size} processes and give each at least {smallest_share} "
                f"samples, got {batch_size}: try {smallest_share * world_size} or a multiple of it"
            )
        self.ids, self.batch_size, self.seed, self.epoch = ids, batch_size, seed, 0
        remainder = len(ids) % batch_size // world_size * world_size
        if drop_last or remainder < smallest_share * world_size:
            remainder = 0
        self.samples = len(ids) // batch_size * batch_size + remainder
        if self.samples == 0:
            raise ValueError(
                f"{len(ids)} training samples do not fill one batch (batch_size {batch_size}, {world_size} processes, "
                f"drop_last={drop_last}): lower batch_size or add samples"
            )

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.samples // self.batch_size)

    def batches(self) -> list[Tensor]:
        order = torch.randperm(len(self.ids), generator=generator(self.seed, "order", self.epoch))
        return list(self.ids[order[: self.samples]].split(self.batch_size))


class OrderedBatches:
    """Every sample exactly once, in order, for evaluation: no padding and no duplicates with any number of processes.

    The batches are of nearly equal size, at most `batch_size`, so that each process has a share of each of them and
    none waits for another. Raises ValueError if there are fewer samples than shares.
    """

    def __init__(self, ids: Tensor, *, batch_size: int, world_size: int = 1) -> None:
        if batch_size < 1:
            raise ValueError(f"the evaluation batch size must be at least 1, got {batch_size}")
        self.ids, self.count, self.epoch = ids, -(-len(ids) // batch_size), 0
        if len(ids) < self.count * world_size:
            raise ValueError(
                f"{len(ids)} samples in batches of {batch_size} cannot be shared by {world_size} processes: "
                "raise eval_batch_size or evaluate with fewer processes"
            )

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def batches(self) -> list[Tensor]:
        return list(self.ids.tensor_split(self.count)) if self.count else []

"""Which samples make up each batch of an epoch: pure functions of (seed, epoch), so any batch can be named at any time.

Batches are global: every process knows all of them and takes its share (`share`), nothing is drawn per process.
"""

from __future__ import annotations

import math
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


def check_class_batches(*, batch_size: int, images_per_class: int, classes: int, world_size: int = 1) -> None:
    """Raises ValueError if no batch of `images_per_class` images of each of its classes can be formed."""
    if images_per_class < 2:
        raise ValueError(f"images_per_class must be at least 2 (an anchor and a positive), got {images_per_class}")
    if batch_size < 2 * images_per_class or batch_size % images_per_class or batch_size % world_size:
        shared = f" and of the {world_size} processes" if world_size > 1 else ""
        raise ValueError(
            f"batch_size must be a multiple of images_per_class={images_per_class}{shared}, and hold at least 2 "
            f"classes, got {batch_size}: try {math.lcm(2 * images_per_class, world_size)} or a multiple"
        )
    if batch_size > classes * images_per_class:
        smaller = smaller_batches(classes * images_per_class, images_per_class, world_size)
        raise ValueError(
            f"a batch of {batch_size} with images_per_class={images_per_class} needs {batch_size // images_per_class} "
            f"classes, but {classes} are trained on: {smaller or 'use fewer processes'}, "
            "raise images_per_class, or hold out fewer classes (val_fraction)"
        )


def smaller_batches(images: int, images_per_class: int, world_size: int) -> str | None:
    """Return the advice of a batch_size that at most `images` images fill, None where there is none.

    It is a multiple of images_per_class and of the processes, and holds at least 2 classes.
    """
    step = math.lcm(images_per_class, world_size)
    largest = images // step * step
    if largest < 2 * images_per_class:
        return None
    return f"set batch_size to {largest}" + (f", or another multiple of {step} below" if largest > step else "")


def fitting_batches(images: int, classes: int, images_per_class: int, world_size: int) -> str:
    """Return the advice of settings for which `images` images of `classes` classes fill a batch."""
    smaller = smaller_batches(min(images, classes * images_per_class), images_per_class, world_size)
    if smaller is not None:
        return smaller
    step = math.lcm(2, world_size)  # 2 images of each class are the least that is compared
    largest = min(images, 2 * classes) // step * step
    if largest < 4:
        return "add images: the smallest batch has 2 images of each of 2 classes"
    return f"set images_per_class to 2 and batch_size to {largest}"


class _ClassMembers:
    """The samples of each class that has any, for drawing without replacement."""

    def __init__(self, labels: Tensor) -> None:
        self.order = labels.argsort(stable=True)
        _, self.counts = labels[self.order].unique_consecutive(return_counts=True)
        self.starts = self.counts.cumsum(0) - self.counts

    def __len__(self) -> int:
        return len(self.counts)

    def draw(self, classes: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """(len(classes) * count,) positions, `count` of each class, class after class.

        No sample twice where the class has enough; else each as often as the others, give or take one.
        """
        counts = self.counts[classes]
        starts = counts.cumsum(0) - counts
        owner = torch.arange(len(classes)).repeat_interleave(counts)
        members = self.order[self.starts[classes][owner] + torch.arange(len(owner)) - starts[owner]]
        shuffled = torch.randperm(len(owner), generator=generator)
        shuffled = shuffled[owner[shuffled].argsort(stable=True)]  # each class in an order of its own
        chosen = starts[:, None] + torch.arange(count) % counts[:, None]
        return members[shuffled[chosen.flatten()]]

    def draw_again(self, classes: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """(len(classes) * count,) positions as by `draw`, each from all samples of its class."""
        counts = self.counts[classes][:, None]
        chosen = (torch.rand(len(classes), count, generator=generator, dtype=torch.float64) * counts).long()
        return self.order[(self.starts[classes][:, None] + chosen).flatten()]


class UniqueClassBatches:
    """Every class at most once an epoch, `images_per_class` images of it, class after class (Yue's sampler).

    labels: (N,), positions in it are the ids. An epoch is a permutation of the classes cut into batches; the classes
    that are left over wait for another epoch. Raises ValueError if there are too few classes for one batch.
    """

    def __init__(
        self, labels: Tensor, *, batch_size: int, images_per_class: int, seed: int, world_size: int = 1
    ) -> None:
        self.members = _ClassMembers(labels)
        check_class_batches(
            batch_size=batch_size,
            images_per_class=images_per_class,
            classes=len(self.members),
            world_size=world_size,
        )
        self.batch_size, self.images_per_class, self.seed, self.epoch = batch_size, images_per_class, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.members) * self.images_per_class // self.batch_size

    def batches(self) -> list[Tensor]:
        random = generator(self.seed, "classes", self.epoch)
        used = len(self) * self.batch_size // self.images_per_class
        classes = torch.randperm(len(self.members), generator=random)[:used]
        return list(self.members.draw(classes, self.images_per_class, random).split(self.batch_size))


class ClassBalancedBatches:
    """Classes drawn anew for every batch, `images_per_class` images of each, class after class (the sampler of HIER).

    labels: (N,), positions in it are the ids. An epoch has floor(N / batch_size) batches, in which a class may come
    several times or not at all. Within a batch no class comes twice and no image either, unless its class has fewer
    than `images_per_class`; with `replacement` every image is drawn from all of its class, so that both of a pair may
    be one, as HIER draws them. Raises ValueError if there are too few classes or images for one batch.
    """

    def __init__(
        self,
        labels: Tensor,
        *,
        batch_size: int,
        images_per_class: int,
        seed: int,
        world_size: int = 1,
        replacement: bool = False,
    ) -> None:
        self.members = _ClassMembers(labels)
        self.batch_size, self.images_per_class, self.seed, self.epoch = batch_size, images_per_class, seed, 0
        self.count, self.replacement = len(labels) // batch_size, replacement
        if self.count == 0 and images_per_class >= 2:  # before the classes: advice that fits both
            raise ValueError(
                f"{len(labels)} training samples do not fill one batch of {batch_size}: "
                f"{fitting_batches(len(labels), len(self.members), images_per_class, world_size)}"
            )
        check_class_batches(
            batch_size=batch_size,
            images_per_class=images_per_class,
            classes=len(self.members),
            world_size=world_size,
        )

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def batches(self) -> list[Tensor]:
        random = generator(self.seed, "class batches", self.epoch)
        return [self._batch(random) for _ in range(self.count)]

    def _batch(self, random: torch.Generator) -> Tensor:
        classes = torch.randperm(len(self.members), generator=random)[: self.batch_size // self.images_per_class]
        draw = self.members.draw_again if self.replacement else self.members.draw
        return draw(classes, self.images_per_class, random)

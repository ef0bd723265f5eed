"""Stratified splits and subsets. All indices come back sorted."""

from __future__ import annotations

import torch
from torch import Tensor

from hyplearn.data.randomness import generator


def _class_ranks(labels: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """Rank of each sample within its class when the classes are dealt in `order`, and the size of its class."""
    ranks = torch.empty_like(labels)
    counts = torch.bincount(labels)
    sorted_labels, by_class = labels[order].sort(stable=True)
    starts = counts.cumsum(0) - counts
    ranks[order[by_class]] = torch.arange(len(labels)) - starts[sorted_labels]
    return ranks, counts[labels]


def _smallest(keys: Tensor, order: Tensor, count: int) -> Tensor:
    """Indices of the `count` smallest keys, ties broken by `order`."""
    return order[keys[order].argsort(stable=True)[:count]].sort().values


def stratified_split(labels: Tensor, fraction: float, *, seed: int, purpose: str) -> tuple[Tensor, Tensor]:
    """Indices kept and indices held out, `round(fraction * N)` of them, in proportion from each class.

    labels: (N,) int64. fraction: in [0, 1); 0 holds nothing out. `purpose` keeps splits with one seed independent.
    Every class keeps at least one sample. Raises ValueError if a fraction > 0 would hold out nothing.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"the {purpose} fraction must be in [0, 1), got {fraction}")
    total = round(fraction * len(labels))
    if fraction > 0 and total == 0:
        raise ValueError(
            f"a {purpose} fraction of {fraction} of {len(labels)} samples is none: raise it, or set it to 0"
        )
    order = torch.randperm(len(labels), generator=generator(seed, "split", purpose))
    ranks, sizes = _class_ranks(labels, order)
    # The sample of rank r of n stands at (r + 1/2) / n of its class: the first `total` by this position are a share.
    positions = (ranks + 0.5) / sizes
    positions[ranks == sizes - 1] = torch.inf
    total = min(total, int(positions.isfinite().sum()))
    held_out = _smallest(positions, order, total)
    kept = torch.ones(len(labels), dtype=torch.bool)
    kept[held_out] = False
    return kept.nonzero().squeeze(1), held_out


def stratified_subset(labels: Tensor, count: int, *, seed: int) -> Tensor:
    """Indices of `count` samples, in proportion from each class and at least one of each.

    labels: (N,) int64. Raises ValueError if `count` is not between the number of classes present and N.
    """
    classes = int((torch.bincount(labels) > 0).sum())
    if not classes <= count <= len(labels):
        raise ValueError(
            f"limit_train must be from {classes} (one image of each class) to {len(labels)} (all), got {count}"
        )
    order = torch.randperm(len(labels), generator=generator(seed, "split", "subset"))
    ranks, sizes = _class_ranks(labels, order)
    return _smallest(ranks / sizes, order, count)


def held_out_classes(count: int, fraction: float, *, seed: int) -> tuple[Tensor, Tensor]:
    """Numbers of the classes kept and of `round(fraction * count)` classes held out for validation, both sorted.

    0 holds out none. Raises ValueError if a fraction > 0 leaves either side with fewer than 2 classes: among images of
    one class the nearest is always right.
    """
    held_out = round(fraction * count)
    if fraction > 0 and (held_out < 2 or count - held_out < 2):
        raise ValueError(
            f"val_fraction={fraction} of {count} training classes holds out {held_out} and keeps {count - held_out}, "
            "needed are at least 2 of each: "
            + (f"set val_fraction={round(2 / count, 3)} or " if count >= 4 else "")
            + "set val_fraction=0 to validate on nothing"
        )
    order = torch.randperm(count, generator=generator(seed, "split", "validation classes"))
    return order[held_out:].sort().values, order[:held_out].sort().values

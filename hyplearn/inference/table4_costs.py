"""Measures memory and time of the networks that Bdeir Table 4 compares."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from hyplearn.errors import ConfigError
from hyplearn.inference.table4 import CLASSES, FIRST, GB, IMAGE_SIZE, VARIANTS, Bench, Cost, Variant

if TYPE_CHECKING:
    from torch import Tensor

    from hyplearn.inference.costs import TrainingStep

SMALL = (4, 8)  # batches from which the memory of a large one is foreseen


def measured(bench: Bench) -> list[Cost]:
    """Measure the costs of all variants: memory one after the other, then time in turns."""
    from hyplearn.console.counting import counting
    from hyplearn.inference.costs import interleave

    batches = batches_of(bench)
    if bench.device == "cpu":
        _foresee(bench)
    steps = {variant.method: _step(variant, batches, bench) for variant in VARIANTS}
    total = len(VARIANTS) * (bench.repeats + 1)
    with counting("measuring") as tell:
        costs = []
        for variant in VARIANTS:
            costs.append(_memory(variant, steps[variant.method], batches))
            tell(1, total)
        seconds = interleave(
            steps,
            repeats=bench.repeats,
            warmup=0,  # the memory took two steps of each
            device=bench.device,
            steps_per_round=bench.steps,
            progress=lambda name: tell(1, total),
        )
    for cost in costs:
        cost.seconds = seconds[cost.variant.method]
    return costs


def batches_of(bench: Bench) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches without end on the device: one of random numbers again and again, or those of CIFAR-100."""
    if bench.data == "synthetic":
        return itertools.repeat(_random(bench.batch, bench.device))
    from hyplearn.config.build import images as images_of
    from hyplearn.config.compose import compose

    root = [] if bench.root is None else [f"dataset.root='{bench.root}'"]
    typed = ["dataset=cifar100", f"dataset.batch_size={bench.batch}", "dataset.val_fraction=0.0", *root]
    data = images_of(compose(typed).config)
    data.prepare_data()
    data.setup("fit")

    def without_end() -> Iterator[tuple[Tensor, Tensor]]:
        for epoch in range(1, sys.maxsize):
            for images, labels, _ in data.batches("train", epoch=epoch):
                yield images.to(bench.device), labels.to(bench.device)

    return without_end()


def _random(batch: int, device: str) -> tuple[Tensor, Tensor]:
    import torch

    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)
    labels = torch.randint(0, CLASSES, (batch,), generator=generator)
    return images.to(device, memory_format=torch.channels_last), labels.to(device)


def _step(variant: Variant, batches: Iterator[tuple[Tensor, Tensor]], bench: Bench) -> TrainingStep:
    """The variant's network, loss and optimizer, made as a run makes them."""
    from hyplearn.config.build import specification
    from hyplearn.config.compose import compose
    from hyplearn.inference.costs import TrainingStep
    from hyplearn.nn.unfolded_conv import unfold

    composed = compose([*variant.typed(bench), "dataset=cifar100"])
    module = specification(composed.config).build_module().to(bench.device).train()
    if variant.unfolded:
        unfold(module)
    return TrainingStep(module, batches, precision=bench.precision)


def _memory(variant: Variant, step: TrainingStep, batches: Iterator[tuple[Tensor, Tensor]]) -> Cost:
    from hyplearn.inference.costs import saved_bytes

    parameters = list(step.module.parameters())
    peak = step.peak_bytes()
    images, _ = next(batches)
    saved = saved_bytes(lambda: step.forward(images), parameters)
    return Cost(variant, sum(p.numel() for p in parameters), peak, saved)


def _foresee(bench: Bench) -> None:
    """Raise ConfigError if the main memory will not do: the system would end this process without a word."""
    from hyplearn.inference.costs import available_bytes

    available = available_bytes()
    if available is None or bench.batch <= max(SMALL):
        return
    (largest,) = [variant for variant in VARIANTS if variant.method == FIRST]
    peaks = []
    for size in SMALL:
        step = _step(largest, itertools.repeat(_random(size, "cpu")), bench)
        peaks.append(step.peak_bytes())
    each = (peaks[1] - peaks[0]) / (SMALL[1] - SMALL[0])
    needed = peaks[1] + each * (bench.batch - SMALL[1]) + len(VARIANTS) * step.held_bytes()  # of all
    if needed > available:
        raise ConfigError(
            f"--batch {bench.batch} needs about {needed / GB:.1f} GB for {FIRST}, and {available / GB:.1f} GB are "
            "free: choose a smaller --batch or --width."
        )

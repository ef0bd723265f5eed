"""`hyplearn bench table4`: memory and time of the convolutions that Bdeir Table 4 compares, on this machine."""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hyplearn.cli.bench.table4 import CLASSES, FIRST, GB, IMAGE_SIZE, PRINTED, VARIANTS, Cost, Variant, record, text
from hyplearn.cli.parser import Parser
from hyplearn.errors import FAILED, OK, ConfigError, nearest

if TYPE_CHECKING:
    from torch import Tensor

    from hyplearn.inference.costs import TrainingStep

FOLDER = Path("outputs/bench")
TABLES = ("table4",)
ROUNDS = {"cpu": (3, 1), "cuda": (10, 20)}  # rounds, and steps of each network in a round
SMALL = (4, 8)  # batches from which the memory of a large one is foreseen

HELP = """\
hyplearn bench table4 [options]

Memory and seconds of an epoch of training on CIFAR-100 (50,000 images of 32 x 32 pixels), beside Bdeir Table 4:
  Euclidean                      the ResNet
  HECNN+ - [1]                   HECNN+ with the convolution of HCNN as published: patches unfolded, layer by layer
  HECNN+ - Ours                  HECNN+ as this library trains it: the paper's convolution, layers fused
  HECNN+ - Ours, layer by layer  the same without fusing
  HECNN+ - [1], fused            HCNN's convolution as this library trains it: not unfolded, layers fused
The networks take turns, so that a change of the machine's speed meets all of them. A step is forward, loss, backward
and optimizer; the seconds of an epoch are extrapolated from it. Ratios are medians over the rounds.

  --device D      auto, cpu or cuda; auto: a GPU where there is one
  --batch N       80
  --models M      r50 or r18; r50
  --width W       channels of the first stage, 64; fewer for a quick look
  --data D        synthetic, or cifar100 with its loading and augmentation (--root, or $HYPLEARN_DATA, or data/ here)
  --root DIR      folder of the data
  --repeats N     rounds; 3 on a CPU, 10 on a GPU
  --steps N       steps of each network in a round; 1 on a CPU, 20 on a GPU
  --precision P   32 or bf16; 32
  --threads N     of the CPU; torch's choice
  --output FILE   FILE.json; outputs/bench/table4_<time>.json, of which `hyplearn report bdeir_table4` reads the newest
  -h, --help      this text

  hyplearn bench table4
  hyplearn bench table4 --device cpu --threads 1 --repeats 1         (minutes)
  hyplearn bench table4 --models r18 --width 8 --batch 16            (seconds)

Memory: the most that the tensors of one network's training hold at one time, parameters, gradients and state of the
optimizer included; on a GPU by its allocator, on a CPU by torch's profiler, which sees all tensors."""


def bench(argv: Sequence[str]) -> int:
    """Measure, print, and write the record. Raises ConfigError for what cannot be measured here."""
    options = _options(argv)
    if options.help:
        print(HELP)
        return OK
    _check(options)
    import torch

    _complete(options)
    try:
        costs = _measured(options)
    except torch.OutOfMemoryError:
        print(f"error: the GPU has too little memory for --batch {options.batch}: try a smaller one", file=sys.stderr)
        return FAILED
    found = record(costs, options)
    path = options.output or FOLDER / f"table4_{time.strftime('%Y-%m-%d_%H-%M-%S')}.json"
    from hyplearn.runs.atomic import write_json

    write_json(path, found)
    print(text(found))
    print(f"written to {path}", file=sys.stderr)
    return OK


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("bench")
    parser.add_argument("table", nargs="?")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--batch", type=_at_least(2), default=PRINTED["batch"])
    parser.add_argument("--models", choices=["r50", "r18"], default=PRINTED["models"])
    parser.add_argument("--width", type=_at_least(1), default=PRINTED["width"])
    parser.add_argument("--data", choices=["synthetic", "cifar100"], default="synthetic")
    parser.add_argument("--root", type=Path)
    parser.add_argument("--repeats", type=_at_least(1))
    parser.add_argument("--steps", type=_at_least(1))
    parser.add_argument("--precision", choices=["32", "bf16"], default="32")
    parser.add_argument("--threads", type=_at_least(1))
    parser.add_argument("--output", type=_json)
    return parser.parse_args(list(argv))


def _at_least(lowest: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdigit() or int(text) < lowest:
            raise argparse.ArgumentTypeError(f"{text!r} must be a whole number from {lowest} on")
        return int(text)

    return number


def _json(text: str) -> Path:
    if Path(text).suffix != ".json":
        raise argparse.ArgumentTypeError(f"{text!r} must end in .json")
    return Path(text)


def _check(options: argparse.Namespace) -> None:
    if options.table not in TABLES:
        asked = "a table" if options.table is None else f"another table than {options.table!r}"
        close = "" if options.table is None else nearest(options.table, TABLES)
        raise ConfigError(f"hyplearn bench needs {asked}: hyplearn bench table4.{close} (see hyplearn bench --help)")
    if options.root is not None and options.data == "synthetic":
        raise ConfigError(f"--root {options.root} would be ignored: synthetic data are in no folder; --data cifar100.")


def _complete(options: argparse.Namespace) -> None:
    """What depends on the machine."""
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch sees no CUDA device; use --device cpu.")
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    repeats, steps = ROUNDS[options.device]
    options.repeats, options.steps = options.repeats or repeats, options.steps or steps
    if options.threads is not None:
        torch.set_num_threads(options.threads)


# Measuring


def _measured(options: argparse.Namespace) -> list[Cost]:
    """The costs of all variants: memory one after the other, then time in turns."""
    from hyplearn.console.counting import counting
    from hyplearn.inference.costs import interleave

    batches = _batches(options)
    if options.device == "cpu":
        _foresee(options)
    steps = {variant.method: _step(variant, batches, options) for variant in VARIANTS}
    total = len(VARIANTS) * (options.repeats + 1)
    with counting("measuring") as tell:
        costs = []
        for variant in VARIANTS:
            costs.append(_memory(variant, steps[variant.method], batches))
            tell(1, total)
        seconds = interleave(
            steps,
            repeats=options.repeats,
            warmup=0,  # the memory took two steps of each
            device=options.device,
            steps_per_round=options.steps,
            progress=lambda name: tell(1, total),
        )
    for cost in costs:
        cost.seconds = seconds[cost.variant.method]
    return costs


def _batches(options: argparse.Namespace) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches without end on the device: one of random numbers again and again, or those of CIFAR-100."""
    if options.data == "synthetic":
        return itertools.repeat(_random(options.batch, options.device))
    from hyplearn.config.build import images as images_of
    from hyplearn.config.compose import compose

    root = [] if options.root is None else [f"dataset.root='{options.root}'"]
    typed = ["dataset=cifar100", f"dataset.batch_size={options.batch}", "dataset.val_fraction=0.0", *root]
    data = images_of(compose(typed).config)
    data.prepare_data()
    data.setup("fit")

    def without_end() -> Iterator[tuple[Tensor, Tensor]]:
        for epoch in range(1, sys.maxsize):
            for images, labels, _ in data.batches("train", epoch=epoch):
                yield images.to(options.device), labels.to(options.device)

    return without_end()


def _random(batch: int, device: str) -> tuple[Tensor, Tensor]:
    import torch

    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)
    labels = torch.randint(0, CLASSES, (batch,), generator=generator)
    return images.to(device, memory_format=torch.channels_last), labels.to(device)


def _step(variant: Variant, batches: Iterator[tuple[Tensor, Tensor]], options: argparse.Namespace) -> TrainingStep:
    """The variant's network, loss and optimizer, made as a run makes them."""
    from hyplearn.config.build import specification
    from hyplearn.config.compose import compose
    from hyplearn.inference.costs import TrainingStep
    from hyplearn.nn.unfolded_conv import unfold

    composed = compose([*variant.typed(options), "dataset=cifar100"])
    module = specification(composed.config).build_module().to(options.device).train()
    if variant.unfolded:
        unfold(module)
    return TrainingStep(module, batches, precision=options.precision)


def _memory(variant: Variant, step: TrainingStep, batches: Iterator[tuple[Tensor, Tensor]]) -> Cost:
    from hyplearn.inference.costs import saved_bytes

    parameters = list(step.module.parameters())
    peak = step.peak_bytes()
    images, _ = next(batches)
    saved = saved_bytes(lambda: step.forward(images), parameters)
    return Cost(variant, sum(p.numel() for p in parameters), peak, saved)


def _foresee(options: argparse.Namespace) -> None:
    """Raise ConfigError if the main memory will not do: the system would end this process without a word."""
    from hyplearn.inference.costs import available_bytes

    available = available_bytes()
    if available is None or options.batch <= max(SMALL):
        return
    (largest,) = [variant for variant in VARIANTS if variant.method == FIRST]
    peaks = []
    for size in SMALL:
        step = _step(largest, itertools.repeat(_random(size, "cpu")), options)
        peaks.append(step.peak_bytes())
    each = (peaks[1] - peaks[0]) / (SMALL[1] - SMALL[0])
    needed = peaks[1] + each * (options.batch - SMALL[1]) + len(VARIANTS) * step.held_bytes()  # of all
    if needed > available:
        raise ConfigError(
            f"--batch {options.batch} needs about {needed / GB:.1f} GB for {FIRST}, and {available / GB:.1f} GB are "
            "free: choose a smaller --batch or --width."
        )

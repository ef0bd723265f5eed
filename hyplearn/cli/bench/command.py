"""`hyplearn bench table4`: memory and time of the convolutions that Bdeir Table 4 compares, on this machine."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from hyplearn.cli.parser import Parser, at_least, file_ending_in, name_of
from hyplearn.errors import FAILED, OK, ConfigError
from hyplearn.inference.table4 import PRINTED, Bench, record, text
from hyplearn.inference.table4_costs import measured
from hyplearn.runs.writing import writing

FOLDER = Path("outputs/bench")
TABLES = ("table4",)
ROUNDS = {"cpu": (3, 1), "cuda": (10, 20)}  # rounds, and steps of each network in a round

DESCRIPTION = """
Memory and seconds of an epoch of training on CIFAR-100 (50,000 images of 32 x 32 pixels), beside Bdeir Table 4:
  Euclidean                      the ResNet
  HECNN+ - [1]                   HECNN+ with the convolution of HCNN as published: patches unfolded,
                                 layer by layer
  HECNN+ - Ours                  HECNN+ as this library trains it: the paper's convolution, layers
                                 fused
  HECNN+ - Ours, layer by layer  the same without fusing
  HECNN+ - [1], fused            HCNN's convolution as this library trains it: not unfolded, layers
                                 fused
The networks take turns, so that a change of the machine's speed meets all of them. A step is forward, loss, backward
and optimizer; the seconds of an epoch are extrapolated from it. Ratios are medians over the rounds."""
MEMORY = """
Memory: the most that the tensors of one network's training hold at one time, parameters, gradients and state of the
optimizer included; on a GPU by its allocator, on a CPU by torch's profiler, which sees all tensors."""


def bench(argv: Sequence[str]) -> int:
    """Measure, print, and write the record. Raises ConfigError for what cannot be measured here."""
    options = bench_parser().parse_args(list(argv))
    _check(options)
    path = options.output or FOLDER / f"table4_{time.strftime('%Y-%m-%d_%H-%M-%S')}.json"
    with writing(path):
        import torch

        chosen = _completed(options)
        try:
            costs = measured(chosen)
        except torch.OutOfMemoryError:
            print(
                f"error: the GPU has too little memory for --batch {options.batch}: try a smaller one", file=sys.stderr
            )
            return FAILED
        found = record(costs, chosen)
        from hyplearn.runs.atomic import write_json

        write_json(path, found)
        print(text(found))
        print(f"written to {path}", file=sys.stderr)
        return OK


def bench_parser() -> Parser:
    """Make the parser of the command."""
    parser = Parser(
        "bench",
        DESCRIPTION,
        needs="a table: hyplearn bench table4",
        examples="""
hyplearn bench table4
hyplearn bench table4 --device cpu --threads 1 --repeats 1         (minutes)
hyplearn bench table4 --models r18 --width 8 --batch 16            (seconds)""",
        more=MEMORY,
    )
    parser.add_argument(
        "table", type=name_of("table", TABLES), choices=TABLES, metavar="table4", help="what to measure"
    )
    parser.add_argument(
        "--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto: a GPU where there is one; %(default)s"
    )
    parser.add_argument("--batch", type=at_least(2), default=PRINTED["batch"], help="images; %(default)s")
    parser.add_argument("--models", choices=["r50", "r18"], default=PRINTED["models"], help="%(default)s")
    parser.add_argument(
        "--width",
        type=at_least(1),
        default=PRINTED["width"],
        help="channels of the first stage; %(default)s, fewer for a quick look",
    )
    parser.add_argument(
        "--data",
        choices=["synthetic", "cifar100"],
        default="synthetic",
        help="cifar100: with its loading and augmentation (--root, or $HYPLEARN_DATA, or data/ here); %(default)s",
    )
    parser.add_argument("--root", type=Path, metavar="DIR", complete="directory", help="folder of the data")
    parser.add_argument("--repeats", type=at_least(1), help="rounds; 3 on a CPU, 10 on a GPU")
    parser.add_argument("--steps", type=at_least(1), help="of each network in a round; 1 on a CPU, 20 on a GPU")
    parser.add_argument("--precision", choices=["32", "bf16"], default="32", help="%(default)s")
    parser.add_argument("--threads", type=at_least(1), help="of the CPU; torch's choice")
    parser.add_argument(
        "--output",
        type=file_ending_in(".json"),
        metavar="FILE.json",
        help="outputs/bench/table4_<time>.json, of which `hyplearn report bdeir_table4` reads the newest",
    )
    return parser


def _check(options: argparse.Namespace) -> None:
    if options.root is not None and options.data == "synthetic":
        raise ConfigError(f"--root {options.root} would be ignored: synthetic data are in no folder; --data cifar100.")


def _completed(options: argparse.Namespace) -> Bench:
    """Choose what depends on the machine. Raises ConfigError for a GPU that is not there."""
    import torch

    device = options.device
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch sees no CUDA device; use --device cpu.")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    repeats, steps = ROUNDS[device]
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    return Bench(
        device=device,
        batch=options.batch,
        models=options.models,
        width=options.width,
        data=options.data,
        root=options.root,
        repeats=options.repeats or repeats,
        steps=options.steps or steps,
        precision=options.precision,
    )

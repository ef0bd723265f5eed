"""What Bdeir Table 4 compares, what was measured of it, and the record and text of a comparison."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

TRAINING_IMAGES, CLASSES, IMAGE_SIZE = 50_000, 100, 32  # of CIFAR-100
PRINTED = {"models": "r50", "batch": 80, "width": 64}  # the caption names the batch, and no network
GB = 1e9
MEMORY, SECONDS = "memory_gb", "seconds_per_epoch"

EUCLIDEAN, FIRST, OURS = "Euclidean", "HECNN+ - [1]", "HECNN+ - Ours"  # as printed
OURS_BY_LAYER, FIRST_FUSED = "HECNN+ - Ours, layer by layer", "HECNN+ - [1], fused"
# What is compared with what. The last two differ in the convolution alone.
PAIRS = (
    (FIRST, EUCLIDEAN),
    (OURS, EUCLIDEAN),
    (OURS, FIRST),
    (OURS_BY_LAYER, EUCLIDEAN),
    (FIRST_FUSED, EUCLIDEAN),
    (OURS_BY_LAYER, FIRST),
    (OURS, FIRST_FUSED),
)


@dataclass(frozen=True)
class Bench:
    """What is measured, and how. repeats: rounds. steps: of each network in a round. root: of the data."""

    device: str
    batch: int
    models: str
    width: int
    data: str
    root: Path | None
    repeats: int
    steps: int
    precision: str


@dataclass(frozen=True)
class Variant:
    """One row. how: what distinguishes it, for the record. unfolded: HCNN's convolution as published."""

    method: str
    model: str
    overrides: tuple[str, ...]
    how: str
    unfolded: bool = False

    def typed(self, bench: Bench) -> tuple[str, ...]:
        """The overrides that make its network."""
        return (f"model={self.model}_{bench.models}", f"model.width={bench.width}", *self.overrides)


VARIANTS = (
    Variant(EUCLIDEAN, "euclidean", ("optim=sgd",), "the ResNet, SGD"),
    Variant(
        FIRST,
        "hecnn",
        ("model.conv.kind=original", "model.fused=false", "optim=rsgd"),
        "HECNN+ with the convolution of HCNN as published (patches unfolded), layer by layer",
        unfolded=True,
    ),
    Variant(OURS, "hecnn", ("optim=rsgd",), "HECNN+ as this library trains it, layers fused"),
    Variant(OURS_BY_LAYER, "hecnn", ("model.fused=false", "optim=rsgd"), "HECNN+, layer by layer"),
    Variant(
        FIRST_FUSED,
        "hecnn",
        ("model.conv.kind=original", "optim=rsgd"),
        "HECNN+ with the convolution of HCNN as this library computes it: not unfolded, layers fused",
    ),
)


@dataclass
class Cost:
    """What was measured of one variant. seconds: of a step, one value a round."""

    variant: Variant
    parameters: int
    peak: int
    saved: int
    seconds: list[float] = field(default_factory=list)


def record(costs: Sequence[Cost], bench: Bench) -> dict[str, Any]:
    import torch

    from hyplearn.training.provenance import hardware, now, source, versions

    typed = {name: getattr(bench, name) for name in PRINTED}
    return {
        "table": "bdeir_table4",
        "rows": [_row(cost, bench) for cost in costs],
        "ratios": _ratios({cost.variant.method: cost for cost in costs}),
        "as_printed": typed == PRINTED,
        **typed,
        "device": torch.cuda.get_device_name() if bench.device == "cuda" else "cpu",
        "precision": bench.precision,
        "data": bench.data,
        "rounds": bench.repeats,
        "load_average": list(os.getloadavg()),
        "steps_per_round": bench.steps,
        "steps_per_epoch": math.ceil(TRAINING_IMAGES / bench.batch),
        "extrapolation": "seconds_per_epoch: median seconds of a step x steps_per_epoch",
        "memory": "peak of all tensors in a training step, in 10^9 bytes, by "
        + ("the CUDA allocator" if bench.device == "cuda" else "torch's profiler"),
        "measured": now(),
        "source": source(),
        "versions": versions(),
        "hardware": hardware(),
    }


def _row(cost: Cost, bench: Bench) -> dict[str, Any]:
    step = statistics.median(cost.seconds)
    return {
        "method": cost.variant.method,
        "printed": published().get(cost.variant.method),
        "memory_gb": cost.peak / GB,
        "saved_gb": cost.saved / GB,
        "seconds_per_epoch": step * math.ceil(TRAINING_IMAGES / bench.batch),
        "seconds_per_step": step,
        "seconds_of_rounds": cost.seconds,
        "parameters": cost.parameters,
        "how": cost.variant.how,
        "overrides": list(cost.variant.typed(bench)),
    }


def _ratios(costs: Mapping[str, Cost]) -> list[dict[str, Any]]:
    """Of every pair memory, and the median of time within a round, beside those of the paper."""
    printed, found = published(), []
    for subject, reference in PAIRS:
        one, other = costs[subject], costs[reference]
        in_rounds = [a / b for a, b in zip(one.seconds, other.seconds, strict=True)]
        beside = None
        if subject in printed and reference in printed:
            beside = {key: value / printed[reference][key] for key, value in printed[subject].items()}
        measured = {MEMORY: one.peak / other.peak, SECONDS: statistics.median(in_rounds)}
        found.append({"of": subject, "to": reference, **measured, "printed": beside})
    return found


@cache
def published() -> dict[str, dict[str, float]]:
    """By method, memory_gb and seconds_per_epoch as the paper prints them."""
    from hyplearn.papers.published import entries

    names = {"vmem_gb": MEMORY, "runtime_s_per_epoch": SECONDS}
    return {
        entry.method: {names[key]: value for key, value in entry.metrics.items() if value is not None}
        for entry in entries()
        if (entry.paper, entry.table) == ("bdeir", 4)
    }


def text(found: Mapping[str, Any]) -> str:
    """Two tables, and what has to be known to read them."""
    costs = [[row["method"], *_cells(row, ("{:.2f}", "{:.0f}"))] for row in found["rows"]]
    ratios = [[f"{ratio['of']} / {ratio['to']}", *_cells(ratio, ("{:.2f}", "{:.2f}"))] for ratio in found["ratios"]]
    batch, device = found["batch"], found["device"]
    where = f"{device}, threads: {found['hardware']['threads']}" if device == "cpu" else device
    lines = [
        f"Bdeir Table 4: {found['models']}, batch {batch}, width {found['width']}, precision {found['precision']}, "
        f"{found['data']} data, {where}",
        "",
        _table(("", "memory GB", "printed", "s an epoch", "printed"), costs),
        "",
        _table(("ratio", "memory", "printed", "time", "printed"), ratios),
        "",
        f"Seconds of an epoch are extrapolated: {found['steps_per_epoch']} times the median of a training step, over "
        f"{found['rounds']} rounds of {found['steps_per_round']} in turns.",
        "Memory: " + found["memory"] + ".",
    ]
    load, cores = found["load_average"][-1], found["hardware"]["cores"]
    if device == "cpu" and load > found["hardware"]["threads"] + 0.5:
        lines.append(
            f"Other programs ran beside it: load {load:.1f} on {cores} cores. Ratios suffer less than seconds."
        )
    if not found["as_printed"]:
        lines.append(
            "Not what the paper measures: it has "
            + ", ".join(f"{name} {value}" for name, value in PRINTED.items())
            + " (the network is inferred from its times)."
        )
    return "\n".join(lines)


def _cells(row: Mapping[str, Any], forms: tuple[str, str]) -> list[str]:
    """Measured and printed memory, measured and printed time."""
    printed = row["printed"] or {}
    cells = []
    for key, form in zip((MEMORY, SECONDS), forms, strict=True):
        cells += [form.format(row[key]), f"{printed[key]:.3g}" if key in printed else "-"]
    return cells


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their longest entry: the first to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for name, *cells in (header, *rows):
        right = (f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True))
        lines.append("  ".join([f"{name:<{widths[0]}}", *right]))
    return "\n".join(lines)

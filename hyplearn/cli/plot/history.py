"""`hyplearn plot curvature` and `hyplearn plot convergence`: figures of what runs logged epoch by epoch."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyplearn.cli.parser import Parser
from hyplearn.errors import OK, ConfigError, nearest
from hyplearn.runs.keys import SEED, UNTOLD, within

if TYPE_CHECKING:
    from hyplearn.plots.convergence import Groups, Trace
    from hyplearn.runs.directory import RunDirectory

GROUPED = """\
<run ...>: run directories, or folders that hold some at any depth.
  --by KEYS       what makes groups: keys of the configuration, as manifold.learned or choices.optim,model.width;
                  by default all settings but the seed"""

CURVATURE = f"""\
hyplearn plot curvature <run ...> [options]

c of every manifold over the epochs, from its first value on: thin lines for each run, a thick one for the mean of a
group, bounds of c dotted where a curve comes near. Runs without a curvature are left out and named.
{GROUPED}
  --output DIR    where curvature.png and curvature.csv go; plots
  -h, --help      this text

  hyplearn plot curvature outputs/hecnn_r18_cifar10/2025-01-31_12-00-00_seed1_ab12
  hyplearn plot curvature outputs/reproduce/bdeir_table5_* --by manifold.learned"""

CONVERGENCE = f"""\
hyplearn plot convergence <run ...> [options]

How fast groups of runs learn: their validation accuracy over epochs (mean and range), the first epoch of each run at a
target, and the median of each group. A run that never reaches the target counts as later than all others, in the
picture and in the median; none is dropped.
{GROUPED}
  --target T      0.9 or 90 for 90 %; by default 95 % of the best that any run reached
  --metric NAME   column of metrics.csv; val/top1, or val/recall@1 of retrieval runs
  --output DIR    where convergence.png and convergence.csv go; plots
  --json          one JSON object instead of a table
  -h, --help      this text

  hyplearn plot convergence outputs/reproduce/bdeir_table5_* --target 0.7 --by manifold.learned"""

# What names groups that differ in it, the first before all others.
NAMING = tuple(f"choices.{name}" for name in ("experiment", "model", "manifold", "optim", "loss", "dataset"))
FEW = 3  # keys that a name has room for


def curvature(argv: Sequence[str]) -> int:
    """Draw curvatures. Raises ConfigError."""
    options = _parser("plot curvature").parse_intermixed_args(list(argv))
    if options.help:
        print(CURVATURE)
        return OK
    runs = _runs(options.runs, "plot curvature")
    curved = [run for run in runs if _manifolds(run)]
    for run in runs:
        if run not in curved:
            print(f"left out, it has no curvature: {run.path}")
    if not curved:
        raise ConfigError("none of these runs has a curvature: nothing to draw.")
    grouped = _grouped(curved, options.by)
    names = list(dict.fromkeys(name for run in curved for name in _manifolds(run)))
    traces = {name: _traces(grouped, lambda run, name=name: _curvature(run, name)) for name in names}
    bounds = {name: sorted({b for run in curved if name in _manifolds(run) for b in _bounds(run)}) for name in names}
    from hyplearn.plots.curvature import draw_curvature

    _tell(draw_curvature(options.output / "curvature.png", traces, bounds=bounds, title=_title("Curvature", curved)))
    return OK


def convergence(argv: Sequence[str]) -> int:
    """Draw accuracy over epochs, and print the epochs to the target. Raises ConfigError."""
    parser = _parser("plot convergence")
    parser.add_argument("--target", type=_target)
    parser.add_argument("--metric")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_intermixed_args(list(argv))
    if options.help:
        print(CONVERGENCE)
        return OK
    runs = _runs(options.runs, "plot convergence")
    metric = options.metric or _usual_metric(runs)
    _check_metric(runs, metric)
    groups = _traces(_grouped(runs, options.by), lambda run: _column(run, metric))
    best = max(value for traces in groups.values() for trace in traces for value in trace.values)
    target = 0.95 * best if options.target is None else options.target
    from hyplearn.plots.convergence import draw_convergence

    written = draw_convergence(
        options.output / "convergence.png",
        groups,
        target=target,
        label=f"{metric}, %",
        title=_title(f"Convergence of {metric}", runs),
    )
    if options.json:
        import json

        print(json.dumps({"metric": metric, "target": target, "groups": _summary(groups, target)}, indent=2))
    else:
        print(_table(groups, metric, target))
        _tell(written)
    return OK


def _parser(command: str) -> Parser:
    parser = Parser(command)
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--by", type=lambda text: text.split(","))
    parser.add_argument("--output", type=Path, default=Path("plots"))
    return parser


def _target(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} must be a share such as 0.9, or percent such as 90")
    return 100 * value if value <= 1 else value


def _title(text: str, runs: Sequence[RunDirectory]) -> str:
    """Says so where small data stood in for the real ones."""
    return f"SMOKE RUNS (small data) · {text}" if any(run.smoke for run in runs) else text


def _tell(written: Sequence[Path]) -> None:
    for path in written:
        print(f"written to {path}")


# Runs and groups


def _runs(paths: Sequence[Path], command: str) -> list[RunDirectory]:
    """All runs in and below the folders that have logged an epoch. Raises ConfigError."""
    if not paths:
        raise ConfigError(f"hyplearn {command} needs runs (see hyplearn {command} --help)")
    for path in paths:
        if not path.is_dir():
            raise ConfigError(f"{path} is no folder: name run directories, or folders that hold some.")
    from hyplearn.runs.finding import runs_below

    found = runs_below(paths)
    if not found:
        raise ConfigError(f"there is no run in {', '.join(map(str, paths))}.")
    begun = [run for run in found if run.history]
    if not begun:
        raise ConfigError(f"none of the {len(found)} runs has ended its first epoch.")
    return begun


def _grouped(runs: Sequence[RunDirectory], by: Sequence[str] | None) -> dict[str, list[RunDirectory]]:
    """Runs by the values of keys of their configuration; without keys those of the same settings, in a telling name."""
    flat = [dict(_leaves(run.config)) for run in runs]
    for key in by or ():
        known = {name for one in flat for name in one}
        if key not in known:
            raise ConfigError(f"--by {key}: no such key in these runs.{nearest(key, known)}")
    names = _cell_names(runs, flat) if by is None else [_values(one, by) for one in flat]
    grouped: dict[str, list[RunDirectory]] = {}
    for run, name in zip(runs, names, strict=True):
        grouped.setdefault(name, []).append(run)
    return dict(sorted(grouped.items()))


def _cell_names(runs: Sequence[RunDirectory], flat: Sequence[Mapping[str, Any]]) -> list[str]:
    """By the choices that tell cells apart; where these are equal by few keys, or by the cell itself."""
    chosen: list[str] = []
    names = [""] * len(runs)
    for key in NAMING:
        finer = [_values(one, [*chosen, key]) for one in flat]
        if len(set(finer)) > max(len(set(names)), 1):
            chosen, names = [*chosen, key], finer
    names = [name or _choice(run) for name, run in zip(names, runs, strict=True)]
    cells = [run.cell for run in runs]
    return [_telling(name, cell, names, cells, flat, one) for name, cell, one in zip(names, cells, flat, strict=True)]


def _telling(
    name: str, cell: str, names: Sequence[str], cells: Sequence[str], flat: Sequence[Mapping[str, Any]],
    own: Mapping[str, Any],
) -> str:  # fmt: skip
    """The name, with what tells its cell from others of the same name."""
    same = [i for i, other in enumerate(names) if other == name]
    if len({cells[i] for i in same}) == 1:
        return name
    alike = [flat[i] for i in same]
    keys = [key for one in alike for key in one if not within(key, (*SEED, *UNTOLD))]
    differing = _differing(alike, list(dict.fromkeys(keys)))
    return f"{name}, {_values(own, differing) if len(differing) <= FEW else cell}"


def _differing(flat: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[str]:
    return [key for key in keys if len({repr(one.get(key)) for one in flat}) > 1]


def _values(one: Mapping[str, Any], keys: Sequence[str]) -> str:
    return ", ".join(f"{_label(key, keys)}={_value(one.get(key))}" for key in keys)


def _leaves(node: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _label(key: str, keys: Sequence[str]) -> str:
    """The last part of a key where no other ends alike."""
    last = key.rpartition(".")[2]
    return last if sum(other.rpartition(".")[2] == last for other in keys) == 1 else key


def _value(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def _choice(run: RunDirectory) -> str:
    choices = run.config.get("choices", {})
    return str(choices.get("experiment") or f"{choices.get('model')}, {choices.get('dataset')}")


def _traces(grouped: Mapping[str, Sequence[RunDirectory]], column: Any) -> Groups:
    """What `column` gives (epoch, value) of every run; without runs and groups that have none."""
    from hyplearn.plots.convergence import Trace

    found: dict[str, list[Trace]] = {}
    for name, runs in grouped.items():
        for run in runs:
            pairs = [(epoch, value) for epoch, value in column(run) if math.isfinite(value)]
            if pairs:
                epochs, values = zip(*pairs, strict=True)
                found.setdefault(name, []).append(Trace(str(run.path), run.seed, epochs, values))
    return found


# What runs hold


def _manifolds(run: RunDirectory) -> list[str]:
    """Names of the curvatures it logged."""
    names = [name.removeprefix("curvature/") for name in run.history[-1] if name.startswith("curvature/")]
    return [name for name in names if not name.endswith("_at_bound")]


def _curvature(run: RunDirectory, name: str) -> list[tuple[int, float]]:
    """From the first value, at epoch 0, on."""
    manifold = run.config["manifold"]
    decoder = manifold.get("decoder_c") if name == "decoder" else None
    first = manifold["c"] if decoder is None else decoder
    logged = _column(run, f"curvature/{name}")
    return [(0, float(first)), *logged] if logged else []


def _bounds(run: RunDirectory) -> list[float]:
    return [float(bound) for bound in run.config["manifold"].get("bounds", ())]


def _column(run: RunDirectory, name: str) -> list[tuple[int, float]]:
    return [(int(row["epoch"]), row[name]) for row in run.history if name in row]


def _usual_metric(runs: Sequence[RunDirectory]) -> str:
    """What validation measures in these runs."""
    for name in ("val/top1", "val/recall@1"):
        if any(name in row for run in runs for row in run.history):
            return name
    raise ConfigError(
        "these runs have no validation accuracy: name a column of their metrics.csv, --metric train/top1."
    )


def _check_metric(runs: Sequence[RunDirectory], metric: str) -> None:
    known = {name for run in runs for row in run.history for name in row}
    if metric not in known:
        raise ConfigError(f"--metric {metric}: no run has it.{nearest(metric, known)}")
    lacking = [run for run in runs if not _column(run, metric)]
    if lacking:
        raise ConfigError(f"{lacking[0].path} has no {metric}: compare runs that have it.")


# Telling


def _summary(groups: Groups, target: float) -> list[dict[str, Any]]:
    from hyplearn.plots.convergence import median_epoch

    return [
        {
            "group": name,
            "runs": len(traces),
            "best": [max(trace.values) for trace in traces],
            "epochs": [trace.reaches(target) for trace in traces],
            "never": sum(trace.reaches(target) is None for trace in traces),
            "median_epoch": middle if math.isfinite(middle := median_epoch(traces, target)) else None,
        }
        for name, traces in groups.items()
    ]


def _table(groups: Groups, metric: str, target: float) -> str:
    lines = [("", "runs", f"best {metric}", "median epoch", f"epochs to {target:.4g} %")]
    for row in _summary(groups, target):
        epochs = ", ".join("never" if epoch is None else str(epoch) for epoch in row["epochs"])
        middle = "never" if row["median_epoch"] is None else f"{row['median_epoch']:g}"
        lines.append((row["group"], str(row["runs"]), _spread(row["best"]), middle, epochs))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip() for cells in lines
    )


def _spread(values: Sequence[float]) -> str:
    from statistics import mean, stdev

    return f"{mean(values):.2f}" + (f" +- {stdev(values):.2f}" if len(values) > 1 else "")

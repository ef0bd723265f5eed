"""How fast groups of runs learn: validation accuracy over epochs, and the epochs until it reaches a target."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from hyplearn.plots.style import COLOURS, DASHES, MARKERS, TEXT, TITLE, WIDTH, new_figure, plain, save


@dataclass(frozen=True)
class Trace:
    """A number over the epochs of one run. values: finite ones, at the epochs of the same positions, ascending."""

    run: str
    seed: int
    epochs: tuple[int, ...]
    values: tuple[float, ...]

    def reaches(self, target: float) -> int | None:
        """The first epoch with at least `target`, None where there is none."""
        return next((e for e, v in zip(self.epochs, self.values, strict=True) if v >= target), None)


Groups = Mapping[str, Sequence[Trace]]


def median_epoch(traces: Sequence[Trace], target: float) -> float:
    """Return the median over the runs of a group, where one that never reaches the target counts as later than all.

    Inf if so is half.
    """
    found = [trace.reaches(target) for trace in traces]
    return median(math.inf if epoch is None else epoch for epoch in found)


def at_epochs(traces: Sequence[Trace]) -> list[tuple[int, list[float]]]:
    """Epochs at which every run of a group has a value, and the values."""
    kept = [dict(zip(trace.epochs, trace.values, strict=True)) for trace in traces]
    shared = sorted(set.intersection(*(set(one) for one in kept)))
    return [(epoch, [one[epoch] for one in kept]) for epoch in shared]


def draw_convergence(path: Path, groups: Groups, *, target: float, label: str, title: str) -> list[Path]:
    """Write curves (mean and range over the runs of a group) and epochs to the target as PNG, all values as .csv."""
    figure = new_figure(WIDTH, 3.6 + 0.4 * len(groups))
    several = any(len(traces) > 1 for traces in groups.values())
    figure.suptitle(f"{title}{': mean and range of runs' if several else ''}", x=0.01, ha="left", fontsize=TITLE)
    upper, lower = figure.subplots(2, 1, height_ratios=(3.0, 0.5 + 0.42 * len(groups)), sharex=True)
    plain(upper, y=label)
    plain(lower, x="epoch")
    for place, (name, traces) in enumerate(groups.items()):
        style = (COLOURS[place % len(COLOURS)], DASHES[place % len(DASHES)], MARKERS[place % len(MARKERS)])
        _curve(upper, name, traces, style)
        _reached(lower, place, traces, target, style)
    upper.axhline(target, color="black", linewidth=0.9, linestyle=(0, (1, 2)), label=f"target {target:.4g}")
    lower.set_yticks(range(len(groups)), [short(name) for name in groups], fontsize=TEXT - 1)
    lower.set_ylim(len(groups) - 0.5, -0.5)
    lower.set_title(
        f"first epoch at {target:.4g} or more: of each run, and the median (stroke)", loc="left", fontsize=TEXT
    )
    last = max(trace.epochs[-1] for traces in groups.values() for trace in traces)
    lower.set_xlim(0, last * 1.14 + 0.5)
    whole_epochs(lower)
    handles, labels = upper.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=2, frameon=False, fontsize=TEXT - 1)
    return save(figure, path, _rows(groups, target))


def _curve(axes: Axes, name: str, traces: Sequence[Trace], style: tuple[str, str, str]) -> None:
    colour, dashes, marker = style
    found = at_epochs(traces)
    epochs = [epoch for epoch, _ in found]
    axes.fill_between(
        epochs, [min(v) for _, v in found], [max(v) for _, v in found], color=colour, alpha=0.18, linewidth=0
    )
    axes.plot(
        epochs,
        [mean(v) for _, v in found],
        color=colour,
        linestyle=dashes,
        marker=marker,
        markersize=4.5,
        markevery=max(1, len(epochs) // 12),
        linewidth=1.7,
        label=f"{short(name)} (n = {len(traces)})",
    )


def _reached(axes: Axes, place: int, traces: Sequence[Trace], target: float, style: tuple[str, str, str]) -> None:
    """A marker for each run, equal ones side by side; an arrow behind the end of those that never got there."""
    colour, _, marker = style
    reached = [epoch for trace in traces if (epoch := trace.reaches(target)) is not None]
    never = [trace.epochs[-1] for trace in traces if trace.reaches(target) is None]
    for epoch in sorted(set(reached)):
        count = reached.count(epoch)
        heights = [place + min(0.17, 0.6 / count) * (number - (count - 1) / 2) for number in range(count)]
        axes.plot([epoch] * count, heights, marker, color=colour, markersize=6, markeredgecolor="white", linestyle="")
    middle = median_epoch(traces, target)
    if math.isfinite(middle):
        axes.plot([middle] * 2, [place - 0.38, place + 0.38], color="black", linewidth=1.6)
    for end in sorted(set(never)):
        behind = 1.035 * end + 0.1
        axes.plot([behind], [place], ">", color="white", markeredgecolor=colour, markeredgewidth=1.4, markersize=7)
        axes.annotate(
            f"{never.count(end)} never", (behind, place), xytext=(7, 0), textcoords="offset points", va="center",
            fontsize=TEXT - 2,
        )  # fmt: skip


def whole_epochs(axes: Axes) -> None:
    """Ticks of the horizontal axis at whole numbers."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def short(name: str) -> str:
    """The name of a group in lines as wide as a legend has room for."""
    return textwrap.fill(name, 40)


def _rows(groups: Groups, target: float) -> list[dict[str, object]]:
    return [
        {"group": name, "run": trace.run, "seed": trace.seed, "epoch": epoch, "value": value, "target": target}
        | {"reached_at": trace.reaches(target)}
        for name, traces in groups.items()
        for trace in traces
        for epoch, value in zip(trace.epochs, trace.values, strict=True)
    ]

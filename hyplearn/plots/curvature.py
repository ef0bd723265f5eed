"""Curvatures over the epochs of one or several runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from hyplearn.plots.convergence import Groups, Trace, at_epochs, short, whole_epochs
from hyplearn.plots.style import COLOURS, DASHES, MARKERS, TEXT, TITLE, WIDTH, new_figure, plain, save

NEAR = 1.5  # times a bound within which it is drawn
WIDE = 5.0  # ratio from which on the scale is logarithmic


def draw_curvature(
    path: Path, manifolds: Mapping[str, Groups], *, bounds: Mapping[str, Sequence[float]], title: str
) -> list[Path]:
    """Write a panel for each manifold, c over epochs from 0 on, thin for each run and thick for the mean of a group.

    bounds: of c for each manifold, dotted where a curve comes near. As PNG, with all values as .csv.
    """
    figure = new_figure(WIDTH, 1.3 + 1.9 * len(manifolds))
    several = any(len(traces) > 1 for groups in manifolds.values() for traces in groups.values())
    figure.suptitle(f"{title}{': each run and their mean' if several else ''}", x=0.01, ha="left", fontsize=TITLE)
    panels = figure.subplots(len(manifolds), 1, squeeze=False, sharex=True)[:, 0]
    names = list(dict.fromkeys(name for groups in manifolds.values() for name in groups))
    for axes, (manifold, groups) in zip(panels, manifolds.items(), strict=True):
        plain(axes, y="c")
        axes.set_title(f"{manifold}: sectional curvature is −c", loc="left", fontsize=TEXT)
        for name, traces in groups.items():
            _group(axes, name, traces, names.index(name))
        _scale(axes, [v for traces in groups.values() for trace in traces for v in trace.values], bounds[manifold])
    panels[-1].set_xlabel("epoch")
    whole_epochs(panels[-1])
    shown = {label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(
        list(shown.values()), list(shown), loc="outside lower left", ncols=2, frameon=False, fontsize=TEXT - 1
    )
    rows = [
        {"manifold": manifold, "group": name, "run": trace.run, "seed": trace.seed, "epoch": epoch, "c": c}
        for manifold, groups in manifolds.items()
        for name, traces in groups.items()
        for trace in traces
        for epoch, c in zip(trace.epochs, trace.values, strict=True)
    ]
    return save(figure, path, rows)


def _group(axes: Axes, name: str, traces: Sequence[Trace], index: int) -> None:
    colour, dashes = COLOURS[index % len(COLOURS)], DASHES[index % len(DASHES)]
    if len(traces) > 1:
        for trace in traces:
            axes.plot(trace.epochs, trace.values, color=colour, linewidth=0.7, alpha=0.7)
    found = at_epochs(traces)
    axes.plot(
        [epoch for epoch, _ in found],
        [mean(values) for _, values in found],
        color=colour,
        linestyle=dashes,
        marker=MARKERS[index % len(MARKERS)],
        markersize=4.5,
        markevery=max(1, len(found) // 12),
        linewidth=1.9,
        label=f"{short(name)} (n = {len(traces)})",
    )


def _scale(axes: Axes, values: Sequence[float], bounds: Sequence[float]) -> None:
    """Logarithmic for a wide range; a still curve, not its rounding, fills the picture; bounds that are near."""
    low, high = min(values), max(values)
    if high > WIDE * low:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    elif high - low < 0.02 * high:
        axes.set_ylim(low - 0.05 * high, high + 0.05 * high)
    for bound in bounds:
        if low / NEAR <= bound <= high * NEAR:
            axes.axhline(bound, color="#444444", linewidth=1.1, linestyle=(0, (1, 2)), label=f"bound {bound:g}")

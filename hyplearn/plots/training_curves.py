"""Loss, accuracy and curvature over epochs as PNG. The numbers are those of metrics.csv."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hyplearn.runs.atomic import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, float]
Points = tuple[list[float], list[float]]

# Okabe and Ito's colours, distinct to every kind of colour vision; dashes and markers keep them apart in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def draw_figures(
    folder: Path,
    rows: Sequence[Row],
    *,
    initial: Mapping[str, float],
    bounds: Mapping[str, tuple[float, float]],
    tests: Mapping[str, float],
    tested_epoch: int | None,
) -> list[Path]:
    """Write loss.png, accuracy.png or recall.png, and curvature.png for a model with curvature; returns their paths.

    initial: curvatures before training, drawn at epoch 0. bounds: of each curvature, drawn where a curve comes near.
    tests: test metrics, drawn as a star at the epoch whose weights were tested.
    """
    if not rows:
        return []
    star = (tested_epoch, tests) if tested_epoch is not None else (0, {})
    figures = {"loss": _loss(rows, *star)}
    if any("train/top1" in row for row in rows):
        figures["accuracy"] = _accuracy(rows, *star)
    if any("val/recall@1" in row for row in rows):
        figures["recall"] = _recall(rows, *star)
    curves = _curvature_points(rows, initial)
    if curves:
        figures["curvature"] = _curvature(curves, bounds)
    for name, figure in figures.items():
        write_whole(folder / f"{name}.png", lambda stream, figure=figure: figure.savefig(stream, format="png"))  # type: ignore[misc]
    return [folder / f"{name}.png" for name in figures]


def _points(rows: Sequence[Row], name: str) -> Points:
    found = [(row["epoch"], row[name]) for row in rows if name in row and math.isfinite(row[name])]
    return [epoch for epoch, _ in found], [value for _, value in found]


def _axes(title: str, label: str) -> tuple[Figure, Axes]:
    # here and below: a run that draws no figures should not wait for matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7.2, 4.0), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=13)
    axes.set_xlabel("epoch", fontsize=11)
    axes.set_ylabel(label, fontsize=11)
    axes.grid(color="#DDDDDD", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure, axes


def _curves(axes: Axes, curves: Mapping[str, Points]) -> None:
    for index, (name, (epochs, values)) in enumerate(curves.items()):
        axes.plot(
            epochs,
            values,
            label=name,
            color=COLOURS[index % len(COLOURS)],
            linestyle=DASHES[index % len(DASHES)],
            marker=MARKERS[index % len(MARKERS)],
            markersize=5,
            markevery=max(1, len(epochs) // 12),
            linewidth=1.8,
        )


def _metric(rows: Sequence[Row], name: str, title: str, label: str, epoch: int, tests: Mapping[str, float]) -> Figure:
    figure, axes = _axes(title, label)
    curves = {stage: _points(rows, f"{stage}/{name}") for stage in ("train", "val")}
    _curves(axes, {stage: points for stage, points in curves.items() if points[0]})
    if f"test/{name}" in tests:
        value = tests[f"test/{name}"]
        label = f"test {value:.4g}"
        axes.plot([epoch], [value], "*", color="#000000", markeredgecolor="white", markersize=15, label=label, zorder=5)
    if name == "loss":
        _log_scale_if_wide(axes, [value for _, values in curves.values() for value in values], ratio=20)
    _legend(figure)
    return figure


def _legend(figure: Figure) -> None:
    figure.legend(loc="outside right upper", frameon=False, fontsize=11)  # no curve runs beneath it


def _log_scale_if_wide(axes: Axes, values: Sequence[float], *, ratio: float) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    if values and min(values) > 0 and max(values) > ratio * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if max(values) > 1e3 * min(values) else (1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())


def _loss(rows: Sequence[Row], epoch: int, tests: Mapping[str, float]) -> Figure:
    return _metric(rows, "loss", "Loss", "mean over images", epoch, tests)


def _accuracy(rows: Sequence[Row], epoch: int, tests: Mapping[str, float]) -> Figure:
    return _metric(rows, "top1", "Accuracy", "top-1, %", epoch, tests)


def _recall(rows: Sequence[Row], epoch: int, tests: Mapping[str, float]) -> Figure:
    figure, axes = _axes("Retrieval, classes not trained on", "%")
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if name.startswith("val/")]
    curves = {name.removeprefix("val/"): _points(rows, name) for name in names if _shown(name)}
    _curves(axes, {f"val {_title(name)}": points for name, points in curves.items()})
    for index, name in enumerate(curves):
        if f"test/{name}" in tests:
            value = tests[f"test/{name}"]
            label = f"test {_title(name)} {value:.4g}"
            colour = COLOURS[index % len(COLOURS)]
            axes.plot(
                [epoch], [value], "*", color=colour, markeredgecolor="black", markersize=13, label=label, zorder=5
            )
    _legend(figure)
    return figure


def _shown(name: str) -> bool:
    """Recall at every k and MAP@R: no counts, no metrics beside the trained one."""
    measure = name.removeprefix("val/")
    return measure.startswith("recall@") or measure == "map@r"


def _title(measure: str) -> str:
    return measure.replace("recall@", "R@").replace("map@r", "MAP@R")


def _curvature_points(rows: Sequence[Row], initial: Mapping[str, float]) -> dict[str, Points]:
    names = [key for key in rows[-1] if key.startswith("curvature/") and not key.endswith("_at_bound")]
    curves: dict[str, Points] = {}
    for key in names:
        epochs, values = _points(rows, key)
        name = key.removeprefix("curvature/")
        start = [initial[name]] if name in initial else []
        curves[name] = ([0.0] * len(start) + epochs, start + values)
    return curves


def _curvature(curves: Mapping[str, Points], bounds: Mapping[str, tuple[float, float]]) -> Figure:
    figure, axes = _axes("Curvature", "c (sectional curvature is -c)")
    _curves(axes, curves)
    values = [value for _, points in curves.values() for value in points]
    _log_scale_if_wide(axes, values, ratio=10)
    if max(values) - min(values) < 0.02 * max(values):  # a still curve, not its rounding, fills the picture
        axes.set_ylim(min(values) - 0.05 * max(values), max(values) + 0.05 * max(values))
    low, high = axes.get_ylim()
    for bound in sorted({bound for name in curves for bound in bounds.get(name, ())}):
        if low <= bound <= high:
            axes.axhline(bound, color="#555555", linewidth=1, linestyle=(0, (1, 2)), label=f"bound {bound:g}")
    _legend(figure)
    return figure

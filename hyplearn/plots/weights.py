"""Which negatives of an anchor the loss listens to: sorted p(x-) of one or several runs (Yue Fig. 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from hyplearn.losses.hard_negatives import WeightCurve, weight_curve
from hyplearn.losses.pairwise import slots
from hyplearn.manifolds import Euclidean, Lorentz, PoincareBall, Sphere
from hyplearn.nn.space import Space
from hyplearn.plots.style import COLOURS, DASHES, MARKERS, TEXT, TITLE, WIDTH, new_figure, plain, save

if TYPE_CHECKING:
    from hyplearn.evaluation.metric import Metric
    from hyplearn.evaluation.store import Stored

MANY = 20  # negatives from which on ranks are drawn in powers


def curve(batch: Stored, anchor: int) -> WeightCurve:
    """Return the weight curve of the image at position `anchor` and the next of its class.

    batch: its metrics are weighted by weight/tau.
    """
    assert batch.metrics is not None
    spaces = [_space(metric) for metric in batch.metrics]
    points = [x.double() for x in batch.points]
    return weight_curve(points, batch.labels, spaces, [metric.weight for metric in batch.metrics], anchor=anchor)


def mean_weights(batch: Stored) -> list[float]:
    """Return the mean weight by rank, over all anchors of the batch."""
    curves = [curve(batch, anchor).weights for anchor in range(len(batch.labels))]
    mean: list[float] = torch.stack(curves).mean(0).tolist()
    return mean


def check(batch: Stored) -> None:
    """Raise ValueError unless every class of the batch has the same number of images."""
    slots(batch.labels)


def _space(metric: Metric) -> Space:
    if metric.c is None:
        return Space(Sphere() if metric.kind == "sphere" else Euclidean())
    kind = Lorentz if metric.kind == "lorentz" else PoincareBall
    return Space(kind(metric.c, learned=False, bounds=(metric.c / 2, 2 * metric.c)).double())


def draw_weights(path: Path, batches: Mapping[str, Stored], anchors: Sequence[int], *, title: str) -> list[Path]:
    """Write a panel for each anchor and one for the mean over all anchors of the batch, a line for each run.

    anchors: ids that every batch holds. As PNG, with all weights and distances as .csv.
    """
    figure = new_figure(WIDTH, 1.1 + 2.3 * ((len(anchors) + 2) // 2) + 0.22 * len(batches))
    figure.suptitle(title, x=0.01, ha="left", fontsize=TITLE)
    panels = figure.subplots((len(anchors) + 2) // 2, 2, squeeze=False, sharex=True, sharey=True).flatten().tolist()
    rows: list[dict[str, object]] = []
    for axes, identity in zip(panels, anchors, strict=False):
        plain(axes)
        for place, (name, batch) in enumerate(batches.items()):
            found = curve(batch, _position(batch, identity))
            _line(axes, place, found.weights.tolist())
            rows += _rows(name, batch, found)
        axes.set_title(f"anchor: training image {identity}", loc="left", fontsize=TEXT)
    whole = panels[len(anchors)]
    plain(whole)
    for place, (name, batch) in enumerate(batches.items()):
        means = mean_weights(batch)
        _line(whole, place, means)
        rows += [{"run": name, "anchor": "mean", "rank": rank, "weight": p} for rank, p in enumerate(means, start=1)]
    whole.set_title(f"mean of the {_count(batches)} anchors of the batch", loc="left", fontsize=TEXT)
    for axes in panels[len(anchors) + 1 :]:
        axes.set_axis_off()
    negatives = max(len(line.get_xdata()) for line in whole.lines)
    _finish(figure, panels, len(anchors) + 1, list(batches), many=negatives > MANY)
    return save(figure, path, rows)


def _position(batch: Stored, identity: int) -> int:
    return int((batch.ids == identity).nonzero()[0])


def _count(batches: Mapping[str, Stored]) -> str:
    return " or ".join(str(count) for count in sorted({len(batch.labels) for batch in batches.values()}))


def _line(axes: Axes, place: int, weights: Sequence[float]) -> None:
    axes.plot(
        range(1, len(weights) + 1),
        weights,
        color=COLOURS[place % len(COLOURS)],
        linestyle=DASHES[place % len(DASHES)],
        marker=MARKERS[place % len(MARKERS)],
        markersize=4,
        markevery=_marked(len(weights)),
        linewidth=1.5,
        label=f"{weights[0]:.3f}",
    )


def _marked(count: int) -> list[int]:
    """Choose which points have a marker: all of few, else those at powers of 2."""
    return list(range(count)) if count <= MANY else [2**i - 1 for i in range(count.bit_length())]


def _finish(figure: Figure, panels: Sequence[Axes], used: int, names: Sequence[str], *, many: bool) -> None:
    """Axis labels, the largest weights above the lines of each panel, and which line is which run."""
    columns = 2 if len(names) in (2, 4) else 3

    panels[0].set_ylim(0, panels[0].get_ylim()[1] * (1 + 0.1 * (2 + -(-len(names) // columns))))
    for place, axes in enumerate(panels[:used]):
        axes.legend(
            title="weight of the nearest", fontsize=TEXT - 2, title_fontsize=TEXT - 2, loc="upper center",
            ncols=columns, frameon=False, handlelength=1.6, columnspacing=1.0, borderaxespad=0.1,
        )  # fmt: skip
        axes.tick_params(labelbottom=True)
        if many:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.xaxis.set_minor_locator(NullLocator())
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if place % 2 == 0:
            axes.set_ylabel("weight p(x⁻)", fontsize=TEXT)
        if place + 2 >= used:
            axes.set_xlabel("negatives in ascending order of distance", fontsize=TEXT)
    handles, _ = panels[0].get_legend_handles_labels()
    figure.legend(handles, list(names), loc="outside lower left", ncols=columns, frameon=False, fontsize=TEXT)


def _rows(name: str, batch: Stored, found: WeightCurve) -> list[dict[str, object]]:
    """Return the rows of one anchor: a row for each negative, D of each space without weight and temperature."""
    assert batch.metrics is not None
    pairs = zip(found.negatives.tolist(), found.weights.tolist(), found.distances.T.tolist(), strict=True)
    return [
        {"run": name, "anchor": int(batch.ids[found.anchor]), "rank": rank, "weight": weight}
        | {"positive": int(batch.ids[found.positive]), "negative": int(batch.ids[position])}
        | {"label": int(batch.labels[position])}
        | {f"distance_{metric.kind}": value for metric, value in zip(batch.metrics, distances, strict=True)}
        for rank, (position, weight, distances) in enumerate(pairs, start=1)
    ]

"""How far from the origin embeddings lie: a histogram for each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from torch import Tensor

from hyplearn.plots.classes import Group
from hyplearn.plots.style import TEXT, TITLE, WIDTH, new_figure, plain, save

Numbers = npt.NDArray[np.float64]

BINS = 48
NEAR = 0.7  # share of a limit from which on it is drawn
HEIGHT = 0.85  # of a histogram, where 1 is the distance of two


def draw_radii(
    path: Path,
    radii: Tensor,
    panels: Mapping[str, Sequence[Group]],
    *,
    limits: Mapping[str, float],
    title: str,
    rows: Sequence[Mapping[str, object]],
) -> list[Path]:
    """Write histograms of the distances to the origin (N,), a row for each class, as PNG with all radii as .csv.

    panels: the classes, and super-classes if there are, by title. limits: distances beyond which no point can lie, by
    name; drawn where points come near. rows: what is saved of each image, beside its radius.
    """
    tallest = max(map(len, panels.values()))
    figure = new_figure(WIDTH, 1.7 + 0.42 * tallest)
    figure.suptitle(title, x=0.01, ha="left", fontsize=TITLE)
    values = radii.double().numpy()
    near = {name: limit for name, limit in limits.items() if values.max() > NEAR * limit}
    edges = _edges(values, near)
    for axes, (name, classes) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        plain(axes, title="", x="distance to the origin")
        axes.set_title(name, loc="left", fontsize=TEXT + 1)
        axes.grid(visible=False, axis="y")
        for place, group in enumerate(classes):
            _histogram(axes, values[group.rows.numpy()], edges, place, group.colour)
        axes.set_yticks(range(len(classes)), [f"{g.name} ({int(g.rows.sum())})" for g in classes], fontsize=TEXT - 1)
        axes.set_ylim(len(classes) - 0.4, -1.05)
        axes.set_xlim(edges[0], max(edges[-1], *(1.02 * limit for limit in near.values())) if near else edges[-1])
        for style, (limit_name, limit) in zip(("--", ":"), near.items(), strict=False):
            axes.axvline(limit, color="black", linewidth=1.2, linestyle=style, label=f"{limit_name}: {limit:.4g}")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if labels:
        figure.legend(handles, labels, loc="outside lower right", ncols=len(labels), frameon=False, fontsize=TEXT - 1)
    return save(figure, path, [{**row, "radius": radius} for row, radius in zip(rows, values.tolist(), strict=True)])


def _edges(values: Numbers, near: Mapping[str, float]) -> Numbers:
    low, high = float(values.min()), float(values.max())
    margin = max(0.03 * (high - low), 0.02 * high, 1e-6)  # points of one radius
    return np.linspace(max(low - margin, 0.0), high + margin, BINS + 1)


def _histogram(axes: Axes, values: Numbers, edges: Numbers, place: int, colour: str) -> None:
    """One row, its highest bar as high as that of every other; a stroke at the median."""
    counts, _ = np.histogram(values, edges)
    top = place - HEIGHT * counts / max(counts.max(), 1)
    axes.stairs(top, edges, baseline=place, fill=True, color=colour, alpha=0.55)
    axes.stairs(top, edges, baseline=place, color="#333333", linewidth=0.7)
    axes.plot([np.median(values)] * 2, [place, place - HEIGHT], color="black", linewidth=1.4)
    axes.axhline(place, color="#999999", linewidth=0.5)

"""Draws the pictures of the tutorials from the library itself: `python docs/figures/draw.py`. The same files each time.

trace.csv holds what the curvature pictures show: columns of metrics.csv of the three runs named in RUNS.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from hyplearn.geometry import lorentz, poincare
from hyplearn.plots.training_curves import COLOURS, DASHES

HERE = Path(__file__).resolve().parent
CURVATURES = (0.25, 1.0, 4.0)
RUNS = {  # experiment=evidence/<name>, seed 1
    "digits_hcnn_r18": "rate 0.01, Algorithm 1",
    "digits_hcnn_r18_fast_curvature": "rate 0.1, Algorithm 1",
    "digits_hcnn_r18_fast_curvature_no_scheme": "rate 0.1, points stay behind",
}


def disk() -> Figure:
    """The same tangent vectors in three discs: rings of equal distance, and the triangle between three points."""
    figure = Figure(figsize=(9, 3.7), layout="constrained")
    for axes, c in zip(figure.subplots(1, 3), CURVATURES, strict=True):
        _circle(axes, 1.0, color="black", linewidth=1.5)
        for distance in range(1, 7):
            ring = poincare.expmap0(torch.tensor([distance / 2, 0.0], dtype=torch.float64), c=c)
            _circle(axes, math.sqrt(c) * ring.norm().item(), color="#888888", linewidth=0.6, linestyle=":")
        angles = torch.tensor([0.5, 2.6, 4.7], dtype=torch.float64)
        corners = poincare.expmap0(torch.stack([angles.cos(), angles.sin()], dim=-1), c=c)
        for index in range(3):
            x, y = _geodesic(corners[index], corners[(index + 1) % 3], c)
            axes.plot(math.sqrt(c) * x, math.sqrt(c) * y, color=COLOURS[0])
        axes.plot(*(math.sqrt(c) * corners.T), "o", color=COLOURS[1])
        side = poincare.dist(corners[0], corners[1], c=c).item()
        axes.set_title(f"c = {c:g}, K = {1 / c:g}\nupper side {side:.2f}", fontsize=10)
        axes.set_aspect("equal")
        axes.set(xlim=(-1.02, 1.02), ylim=(-1.02, 1.02))
        axes.set_axis_off()
    return figure


def _circle(axes: Axes, radius: float, **style: object) -> None:
    t = torch.linspace(0, 2 * math.pi, 361)
    axes.plot(radius * t.cos(), radius * t.sin(), **style)


def _geodesic(start: Tensor, end: Tensor, c: float) -> Tensor:
    """Points of the shortest line, (2, 60)."""
    steps = torch.linspace(0, 1, 60, dtype=torch.float64)[:, None]
    direction = poincare.logmap(start, end, c=c)
    return poincare.expmap(start.expand(60, 2), steps * direction, c=c).T


def rescaling() -> Figure:
    """Distance to the origin before and after: for three curvatures at s = 2, and for three s at c = 1."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    cases = [(c, 2.0, f"c = {c:g}") for c in CURVATURES]
    _rescaled(left, cases, "tightness s = 2, float32")
    _rescaled(right, [(1.0, s, f"s = {s:g}") for s in (1.0, 2.0, 3.0)], "c = 1, float32")
    return figure


def _rescaled(axes: Axes, cases: list[tuple[float, float, str]], title: str) -> None:
    d = torch.linspace(0, 30, 301)
    axes.plot(d, d, color="#888888", linewidth=0.8, linestyle=":", label="unchanged")
    for index, (c, s, label) in enumerate(cases):
        after = lorentz.rescale0(d[:, None], c=torch.tensor(c), s=s)[:, 0]
        axes.plot(d, after, DASHES[index], color=COLOURS[index], label=label)
        limit = lorentz.d_max(c=c).item()
        axes.axhline(limit, color=COLOURS[index], linewidth=0.5)
    axes.set(xlabel="distance before", ylabel="distance after", title=title, ylim=(0, 20))
    axes.legend(loc="upper left", fontsize=8, ncols=2)


def move() -> Figure:
    """A point when c goes from 1 to 0.3: left behind, or moved with its distance to the origin kept."""
    old, new = 1.0, 0.3
    x = torch.tensor([1.6], dtype=torch.float64)
    figure = Figure(figsize=(5.6, 3.4), layout="constrained")
    axes = figure.subplots()
    space = torch.linspace(-3, 3, 301, dtype=torch.float64)[:, None]
    for index, c in enumerate((old, new)):
        axes.plot(
            space[:, 0], lorentz.time(space, c=c), DASHES[index], color=COLOURS[index], label=f"hyperboloid, c = {c:g}"
        )
    moved = lorentz.change_curvature(x, c_old=old, c_new=new)
    axes.plot(x, lorentz.time(x, c=old), "o", color="black", label="the point, and where it is left behind")
    axes.plot(moved, lorentz.time(moved, c=new), "s", color=COLOURS[2], label="where Algorithm 1 moves it")
    ends = [(v.item(), lorentz.time(v, c=c).item()) for v, c in ((x, old), (moved, new))]
    axes.annotate("", ends[1], ends[0], arrowprops={"arrowstyle": "->", "color": "#444444", "shrinkA": 6, "shrinkB": 6})
    axes.set(xlabel="space coordinate", ylabel="time", aspect="equal", ylim=(0.5, 4))
    axes.legend(loc="upper center", fontsize=8)
    return figure


def trace() -> Figure:
    """Curvature of three real runs, how far their points are from the manifold, and their accuracy."""
    with (HERE / "trace.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    panels = {
        "curvature/encoder": "c of the encoder",
        "off_manifold/beta": "distance from the manifold",
        "val/top1": "validation, %",
    }
    for axes, (column, label) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        for index, (run, title) in enumerate(RUNS.items()):
            points = [(int(row["epoch"]), float(row[column])) for row in rows if row["run"] == run and row[column]]
            axes.plot(*zip(*points, strict=True), DASHES[index], color=COLOURS[index], label=title)
        axes.set(xlabel="epoch", ylabel=label)
    figure.axes[2].legend(loc="lower right", fontsize=7)
    return figure


FIGURES: dict[str, Callable[[], Figure]] = {"disk": disk, "rescaling": rescaling, "move": move, "trace": trace}


def main() -> None:
    """Write every figure beside this file."""
    mpl.rcParams.update({"font.size": 9})
    for name, draw in FIGURES.items():
        draw().savefig(HERE / f"{name}.png", dpi=100, bbox_inches="tight", metadata={"Software": None})


if __name__ == "__main__":
    main()

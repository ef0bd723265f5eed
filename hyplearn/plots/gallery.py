"""Pictures of retrieval: queries with their nearest neighbours, and how far from the origin the embeddings lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from hyplearn.plots.training_curves import COLOURS, DASHES
from hyplearn.runs.atomic import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RIGHT, WRONG = COLOURS[0], COLOURS[1]  # blue and vermilion: distinct to every kind of colour vision


class Shown(NamedTuple):
    """One query and its neighbours, the nearest first. images: (H, W, C) uint8; names: of the classes."""

    query: Tensor
    query_name: str
    images: Sequence[Tensor]
    names: Sequence[str]
    distances: Sequence[float]


def draw_gallery(path: Path, rows: Sequence[Shown], *, title: str) -> None:
    """One row per query: blue solid frames are right, vermilion dashed ones wrong; captions give class and distance."""
    columns = 1 + max(len(row.images) for row in rows)
    figure = Figure(figsize=(1.25 * columns, 1.5 * len(rows) + 0.8), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes, row in zip(grid, rows, strict=True):
        for ax in axes:
            ax.set_axis_off()
        _picture(axes[0], row.query, f"query\n{_short(row.query_name)}")
        for ax, image, name, distance in zip(axes[1:], row.images, row.names, row.distances, strict=False):
            _picture(ax, image, f"{_short(name)}\n{distance:.3g}")
            _frame(ax, right=name == row.query_name)
    _write(path, figure)


def draw_radii(path: Path, radii: Mapping[str, Tensor], *, limits: Mapping[str, float]) -> None:
    """Histogram of the distances to the origin, (N,) of each space, with the largest that float32 holds where near."""
    figure = Figure(figsize=(7.2, 3.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title("Radii of the test embeddings", loc="left", fontsize=13)
    axes.set_xlabel("distance to the origin", fontsize=11)
    axes.set_ylabel("images", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    low, high = min(float(r.min()) for r in radii.values()), max(float(r.max()) for r in radii.values())
    margin = max(0.02 * (high - low), 0.02 * high, 1e-6)  # points on a sphere around the origin have one radius
    for index, (name, values) in enumerate(radii.items()):
        colour, dashes = COLOURS[index % len(COLOURS)], DASHES[index % len(DASHES)]
        span = (max(low - margin, 0.0), high + margin)
        axes.hist(
            values.numpy(),
            bins=60,
            range=span,
            label=name,
            histtype="step",
            color=colour,
            linestyle=dashes,
            linewidth=1.8,
        )
        if values.max() > 0.7 * limits[name]:
            axes.axvline(limits[name], color=colour, linewidth=1, linestyle=(0, (1, 2)), label=f"{name}, limit")
    figure.legend(loc="outside right upper", frameon=False, fontsize=11)
    _write(path, figure)


def _picture(axes: Axes, image: Tensor, caption: str) -> None:
    grey = image.shape[-1] == 1
    axes.set_title(caption, fontsize=7)
    axes.imshow(image.squeeze(-1).numpy() if grey else image.numpy(), cmap="gray" if grey else None, vmin=0, vmax=255)


def _frame(axes: Axes, *, right: bool) -> None:
    colour, style = (RIGHT, "-") if right else (WRONG, "--")
    frame = Rectangle(
        (0, 0), 1, 1, transform=axes.transAxes, fill=False, edgecolor=colour, linestyle=style, linewidth=3
    )
    axes.add_patch(frame)


def _short(name: str) -> str:
    return name if len(name) <= 16 else f"{name[:15]}…"


def _write(path: Path, figure: Figure) -> None:
    write_whole(path, lambda stream: figure.savefig(stream, format="png"))

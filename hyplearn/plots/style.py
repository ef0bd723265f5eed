"""How the figures look: sizes and fonts for print, colours for every kind of vision, and how a figure is saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hyplearn.plots.training_curves import COLOURS, DASHES, MARKERS
from hyplearn.runs import spreadsheet
from hyplearn.runs.atomic import write_json, write_text, write_whole

__all__ = ["COLOURS", "DASHES", "DPI", "GREY", "LABEL", "MARKERS", "TEXT", "TITLE", "WIDTH", "plain", "save", "table"]

WIDTH = 7.2  # inches, of a page
DPI = 200
TITLE, LABEL, TEXT = 12, 10, 9  # points
GREY = "#999999"


def new_figure(width: float = WIDTH, height: float = 4.0) -> Figure:
    """An empty figure, in inches; no window and no state of pyplot is involved."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def plain(axes: Axes, *, title: str = "", x: str = "", y: str = "") -> None:
    """Title to the left, labels, a faint grid behind, no frame to the right and above."""
    axes.set_title(title, loc="left", fontsize=TITLE)
    axes.set_xlabel(x, fontsize=LABEL)
    axes.set_ylabel(y, fontsize=LABEL)
    axes.tick_params(labelsize=TEXT)
    axes.grid(color="#DDDDDD", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def save(figure: Figure, path: Path, data: Mapping[str, object] | Sequence[Mapping[str, object]]) -> list[Path]:
    """Write the figure as PNG `path` and what it shows beside it: rows as .csv, anything else as .json; returns both.

    The picture holds no time and no version, so that the same data give the same bytes.
    """
    path = path.with_suffix(".png")
    write_whole(path, lambda stream: figure.savefig(stream, format="png", dpi=DPI, metadata={"Software": None}))
    if isinstance(data, Mapping):
        beside = path.with_suffix(".json")
        write_json(beside, data)
    else:
        beside = path.with_suffix(".csv")
        write_text(beside, table(data))
    return [path, beside]


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """Comma-separated values, floats to six digits; a column for each key of any row, in order of appearance."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return spreadsheet.table([names, *([_cell(row.get(name)) for name in names] for row in rows)])


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)

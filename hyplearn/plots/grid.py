"""A metric over two settings, as a heat map and as curves (Yue Figs. 2 and 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullLocator

from hyplearn.plots.style import COLOURS, DASHES, GREY, LABEL, MARKERS, TEXT, TITLE, WIDTH, new_figure, plain, save


@dataclass(frozen=True)
class Grid:
    """values: of each (row, column) the metric of every seed; missing pairs are absent. metric, x, by: their names."""

    values: Mapping[tuple[str, float | str], Sequence[float]]
    metric: str
    x: str
    by: str

    @property
    def rows(self) -> list[str]:
        return list(dict.fromkeys(row for row, _ in self.values))

    @property
    def columns(self) -> list[float | str]:
        found = {column for _, column in self.values}
        return sorted(found, key=lambda value: (isinstance(value, str), value))


def draw_heat_map(path: Path, grid: Grid, *, title: str) -> list[Path]:
    """Write means, with their standard deviation over seeds in the cells, as PNG and .csv; missing cells hatched."""
    rows, columns = grid.rows, grid.columns
    figure = new_figure(max(WIDTH, 1.1 * len(columns) + 2), 1.6 + 0.62 * len(rows))
    axes = figure.add_subplot()
    table = [[_mean(grid.values.get((row, column))) for column in columns] for row in rows]
    image = axes.imshow(table, cmap="cividis", aspect="auto")
    low, high = image.get_clim()
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            found = grid.values.get((row, column))
            if found is None:
                axes.add_patch(
                    Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, hatch="///", edgecolor=GREY, linewidth=0)
                )
                continue
            dark = mean(found) < (low + high) / 2
            axes.text(j, i, _cell(found), ha="center", va="center", fontsize=TEXT, color="white" if dark else "black")
    axes.set_title(title, loc="left", fontsize=TITLE)
    axes.set_xticks(range(len(columns)), [_text(column) for column in columns], fontsize=TEXT)
    axes.set_yticks(range(len(rows)), rows, fontsize=TEXT)
    axes.set_xlabel(grid.x, fontsize=LABEL)
    axes.set_ylabel(grid.by, fontsize=LABEL)
    bar = figure.colorbar(image, ax=axes)
    bar.set_label(f"{grid.metric}, %", fontsize=LABEL)
    bar.ax.tick_params(labelsize=TEXT)
    return save(figure, path, _table(grid))


def draw_curves(path: Path, grid: Grid, *, title: str) -> list[Path]:
    """Write a line for each row, mean and standard deviation over seeds, as PNG and .csv."""
    figure = new_figure(WIDTH, 4.2)
    axes = figure.add_subplot()
    plain(axes, title=title, x=grid.x, y=f"{grid.metric}, %, mean ± std of seeds")
    columns = grid.columns
    positions = _positions(axes, columns)
    logarithmic = axes.get_xscale() == "log"
    for place, row in enumerate(grid.rows):
        aside = place - (len(grid.rows) - 1) / 2  # error bars stand beside each other
        kept = [
            (_aside(positions[column], aside, logarithmic=logarithmic), found)
            for column in columns
            if (found := grid.values.get((row, column)))
        ]
        axes.errorbar(
            [position for position, _ in kept],
            [mean(found) for _, found in kept],
            yerr=[_std(found) or 0.0 for _, found in kept],
            color=COLOURS[place % len(COLOURS)],
            linestyle=DASHES[place % len(DASHES)],
            marker=MARKERS[place % len(MARKERS)],
            capsize=3,
            label=f"{_named(grid.by, row)} ({_count([found for _, found in kept])})",
        )
    figure.legend(loc="outside lower left", ncols=2, frameon=False, fontsize=TEXT)
    return save(figure, path, _table(grid))


def _positions(axes: Axes, columns: Sequence[float | str]) -> dict[float | str, float]:
    """Numbers where they are, in powers where they are positive; names side by side."""
    numbers = [column for column in columns if not isinstance(column, str)]
    if len(numbers) < len(columns):
        axes.set_xticks(range(len(columns)), [_text(column) for column in columns])
        return {column: float(place) for place, column in enumerate(columns)}
    if min(numbers) > 0:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(numbers, [_text(number) for number in numbers])
    return {number: float(number) for number in numbers}


def _aside(position: float, steps: float, *, logarithmic: bool) -> float:
    return position * 1.03**steps if logarithmic else position + 0.06 * steps


def _named(by: str, row: str) -> str:
    """Numbers need the key that they are values of; names speak for themselves."""
    try:
        float(row)
    except ValueError:
        return row
    return f"{by} = {row}"


def _mean(values: Sequence[float] | None) -> float:
    return mean(values) if values else float("nan")


def _std(values: Sequence[float]) -> float | None:
    return stdev(values) if len(values) > 1 else None


def _cell(values: Sequence[float]) -> str:
    spread = _std(values)
    return f"{mean(values):.2f}" + ("" if spread is None else f"\n±{spread:.2f}")


def _count(found: Sequence[Sequence[float]]) -> str:
    counts = sorted({len(values) for values in found})
    return f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"


def _text(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _table(grid: Grid) -> list[dict[str, object]]:
    return [
        {grid.by: row, grid.x: column, "metric": grid.metric, "seeds": len(values)}
        | {"mean": mean(values), "std": _std(values), "values": " ".join(f"{value:.6g}" for value in values)}
        for (row, column), values in grid.values.items()
    ]

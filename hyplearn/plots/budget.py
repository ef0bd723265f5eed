"""What the best of n tried settings is worth: geometries compared at equal tuning budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from hyplearn.plots.style import COLOURS, DASHES, MARKERS, TEXT, WIDTH, new_figure, plain, save


class Tried(NamedTuple):
    """One setting, of one seed: its validation metric, which chooses, and its test metric, which is shown."""

    val: float
    test: float


@dataclass(frozen=True)
class Budget:
    """Search results of one geometry. seeds: of each seed the settings tried, as many in each."""

    geometry: str
    seeds: Mapping[int, Sequence[Tried]]

    @property
    def settings(self) -> int:
        return len(next(iter(self.seeds.values())))

    def best_of(self, n: int) -> list[float]:
        """`expected_best` of each seed."""
        return [expected_best(tried, n) for tried in self.seeds.values()]


def expected_best(tried: Sequence[Tried], n: int) -> float:
    """Mean test metric of the best by validation among n settings, over all subsets of n; exact.

    The i-th best of N settings is the best of C(N - i, n - 1) of the C(N, n) subsets. Equal validation metrics share
    their test metrics. Raises ValueError unless 1 <= n <= N.
    """
    if not 1 <= n <= len(tried):
        raise ValueError(f"n={n} must lie between 1 and {len(tried)}, the settings tried")
    ranked = sorted(tried, key=lambda one: one.val, reverse=True)
    tests = [mean(other.test for other in ranked if other.val == one.val) for one in ranked]
    chances = [comb(len(tried) - place, n - 1) for place in range(1, len(tried) + 1)]
    return sum(chance * test for chance, test in zip(chances, tests, strict=True)) / comb(len(tried), n)


def compared(budgets: Sequence[Budget]) -> list[dict[str, Any]]:
    """A row for each geometry and n, up to the number of settings that every geometry has."""
    largest = min(budget.settings for budget in budgets)
    return [
        {"geometry": budget.geometry, "settings": budget.settings, "n": n, "seeds": len(values)}
        | {"mean": mean(values), "std": stdev(values) if len(values) > 1 else None}
        for budget in budgets
        for n in range(1, largest + 1)
        for values in [budget.best_of(n)]
    ]


def draw_budget(path: Path, budgets: Sequence[Budget], *, metric: str, title: str) -> list[Path]:
    """Write the curves over n with the standard deviation over seeds as PNG, and the numbers as .csv."""
    rows = compared(budgets)
    figure = new_figure(WIDTH, 4.0)
    axes = figure.add_subplot()
    plain(axes, title=title, x="settings tried, n", y=f"{metric} of the best by validation, %")
    for place, budget in enumerate(budgets):
        own = [row for row in rows if row["geometry"] == budget.geometry]
        shift = 0.04 * (place - (len(budgets) - 1) / 2)  # error bars stand beside each other
        axes.errorbar(
            [row["n"] + shift for row in own],
            [row["mean"] for row in own],
            yerr=[row["std"] or 0.0 for row in own],
            color=COLOURS[place % len(COLOURS)],
            linestyle=DASHES[place % len(DASHES)],
            marker=MARKERS[place % len(MARKERS)],
            capsize=3,
            label=f"{budget.geometry}: {budget.settings} settings, {own[0]['seeds']} seed{'s' * (own[0]['seeds'] > 1)}",
        )
    axes.set_xticks(sorted({row["n"] for row in rows}))
    figure.legend(loc="outside lower left", ncols=2, frameon=False, fontsize=TEXT)
    return save(figure, path, rows)

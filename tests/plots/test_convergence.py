from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest

from hyplearn.plots.convergence import Trace, at_epochs, draw_convergence, median_epoch
from hyplearn.plots.curvature import draw_curvature

FAST = Trace("a", 1, (1, 2, 3, 4), (10.0, 60.0, 80.0, 70.0))
SLOW = Trace("b", 2, (1, 2, 3, 4), (5.0, 20.0, 40.0, 65.0))
SHORT = Trace("c", 3, (2, 4), (30.0, 50.0))


def test_first_epoch_at_the_target() -> None:
    assert [FAST.reaches(target) for target in (5, 60, 80, 80.1)] == [1, 2, 3, None]


def test_a_run_that_never_gets_there_counts_as_later_than_all() -> None:
    assert median_epoch([FAST, SLOW, SHORT], 60) == 4
    assert median_epoch([FAST, SHORT], 60) == math.inf
    assert median_epoch([FAST, SLOW], 60) == 3


def test_means_are_of_epochs_that_all_runs_have() -> None:
    assert at_epochs([FAST, SHORT]) == [(2, [60.0, 30.0]), (4, [70.0, 50.0])]


def test_every_value_is_saved_with_the_picture(tmp_path: Path) -> None:
    groups = {"learned": [FAST, FAST], "fixed": [SLOW, SHORT]}
    for name in ("one", "two"):
        png, table = draw_convergence(tmp_path / f"{name}.png", groups, target=60, label="val/top1", title="t")
    assert png.read_bytes() == (tmp_path / "one.png").read_bytes()
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert len(rows) == 14
    assert {(row["run"], row["reached_at"]) for row in rows} == {("a", "2"), ("b", "4"), ("c", "")}


@pytest.mark.parametrize("values", [(1.0, 1.0, 1.0), (1.0, 8.0, 19.9), (1.0, 1.1, 0.9)])
def test_curvatures_of_any_range_are_drawn(tmp_path: Path, values: tuple[float, ...]) -> None:
    traces = [Trace("a", 1, (0, 1, 2), values), Trace("b", 2, (0, 1), values[:2])]
    manifolds = {"encoder": {"g": traces}, "decoder": {"g": traces[:1]}}
    bounds = {"encoder": [0.05, 20.0], "decoder": [0.05, 20.0]}
    _, table = draw_curvature(tmp_path / "c.png", manifolds, bounds=bounds, title="t")
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [(row["manifold"], row["run"], row["epoch"]) for row in rows[:4]] == [
        ("encoder", "a", "0"), ("encoder", "a", "1"), ("encoder", "a", "2"), ("encoder", "b", "0"),
    ]  # fmt: skip
    assert [float(row["c"]) for row in rows[:3]] == list(values)

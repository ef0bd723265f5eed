"""The best of n settings, by its definition: all subsets."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from statistics import mean

import pytest

from hyplearn.plots.budget import Budget, Tried, compared, draw_budget, expected_best

TRIED = [Tried(3, 10), Tried(1, 40), Tried(2, 5), Tried(3, 30), Tried(0, 7)]


def by_subsets(tried: list[Tried], n: int) -> float:
    def best(subset: tuple[Tried, ...]) -> float:
        top = max(one.val for one in subset)
        return mean(one.test for one in subset if one.val == top)

    return mean(best(subset) for subset in combinations(tried, n))


@pytest.mark.parametrize("n", range(1, 6))
def test_is_the_mean_over_all_subsets(n: int) -> None:
    assert expected_best(TRIED, n) == pytest.approx(by_subsets(TRIED, n))


def test_refuses_more_than_was_tried() -> None:
    with pytest.raises(ValueError, match="between 1 and 5"):
        expected_best(TRIED, 6)


def test_budgets_are_compared_up_to_the_smaller_one(tmp_path: Path) -> None:
    budgets = [Budget("sph", {1: TRIED, 2: TRIED}), Budget("hyp", {1: TRIED[:2], 2: TRIED[1:3]})]
    rows = compared(budgets)
    assert [(row["geometry"], row["n"]) for row in rows] == [("sph", 1), ("sph", 2), ("hyp", 1), ("hyp", 2)]
    assert rows[-1]["mean"] == mean([10, 5])
    picture, table = draw_budget(tmp_path / "budget", budgets, metric="test/recall@1", title="Budget")
    first = picture.read_bytes()
    draw_budget(tmp_path / "budget", budgets, metric="test/recall@1", title="Budget")
    assert picture.read_bytes() == first
    assert len(table.read_text().splitlines()) == 5

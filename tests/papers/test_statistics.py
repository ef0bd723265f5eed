"""Paired differences and Holm's correction against scipy and by hand."""

from __future__ import annotations

import pytest
from scipy import stats

from hyplearn.papers.statistics import holm, paired, spread


def test_one_value_has_no_deviation_and_one_pair_no_test() -> None:
    one, pair = spread([80.0]), paired([0.5])
    assert one is not None and one.std is None
    assert pair is not None and (pair.low, pair.p, pair.exact) == (None, None, None)
    assert spread([]) is None and paired([]) is None


def test_paired_is_the_t_test_and_its_interval() -> None:
    first, second = [80.1, 81.3, 79.9, 80.6, 81.0, 80.2], [79.0, 80.9, 80.0, 79.7, 80.3, 79.9]
    found = paired([a - b for a, b in zip(first, second, strict=True)])
    expected = stats.ttest_rel(first, second)
    assert found is not None and found.low is not None and found.high is not None
    assert found.p == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.exact == pytest.approx(
        2 * 2 / 2**6
    )  # ranks of the one negative: the smallest, two rankings as extreme


def test_null_moves_the_test_and_ties_take_signs() -> None:
    moved = paired([0.1, 0.3, -0.2], null=-1.0)
    assert moved is not None and moved.p == pytest.approx(stats.ttest_1samp([0.1, 0.3, -0.2], -1.0).pvalue)
    ties = paired([1.0, 1.0, 1.0, 1.0, 1.0, 2.0])
    assert ties is not None and ties.exact == pytest.approx(2 / 2**6)


def test_differences_all_alike_have_no_interval() -> None:
    found = paired([2.0] * 4)
    assert found is not None and (found.mean, found.low, found.p) == (2.0, None, None)


def test_holm_steps_down_and_leaves_out_what_has_no_p() -> None:
    assert holm([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]

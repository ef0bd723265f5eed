"""What seeds can say of a difference: mean, interval and p of paired runs, and Holm's correction over all of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
EXACT_FROM = 6  # pairs: with fewer the exact test cannot fall below 0.05


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over n values; std is None for one value."""

    mean: float
    std: float | None
    n: int


@dataclass(frozen=True)
class Paired:
    """The difference of two arms over the seeds they share.

    low, high: the 95 % interval of the mean by Student's t; None with fewer than two pairs or without spread.
    p: two-sided, of the mean being `null`, by the paired t-test. exact: the same by Wilcoxon's signed ranks, or by
    signs where differences tie, from six pairs on.
    """

    mean: float
    low: float | None
    high: float | None
    n: int
    p: float | None
    exact: float | None


def spread(values: Sequence[float]) -> Spread | None:
    """Return mean and spread of values, None without any."""
    if not values:
        return None
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def paired(differences: Sequence[float], *, null: float = 0.0) -> Paired | None:
    """Test the mean of differences, one for each seed. Returns None without any."""
    if not differences:
        return None
    n, mean = len(differences), statistics.fmean(differences)
    deviation = statistics.stdev(differences) if n > 1 else 0.0
    if deviation <= 1e-12 * max(1.0, abs(mean)):  # one pair, or all alike: the t-test is not defined
        return Paired(mean, None, None, n, None, _exact(differences, null))
    from scipy import stats  # here: loading it takes longer than most commands that read tables

    error = deviation / math.sqrt(n)
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, n - 1)) * error
    p = float(2 * stats.t.sf(abs(mean - null) / error, n - 1))
    return Paired(mean, mean - half, mean + half, n, p, _exact(differences, null))


def _exact(differences: Sequence[float], null: float) -> float | None:
    """Wilcoxon's signed-rank test; ties with the null are left out, and the rest must be enough."""
    moved = [value - null for value in differences if value != null]
    if len(moved) < EXACT_FROM:
        return None
    from scipy import stats

    distinct = len({abs(value) for value in moved}) == len(moved)
    if not distinct:  # the exact distribution of the ranks does not hold for ties: signs alone
        return float(stats.binomtest(sum(value > 0 for value in moved), len(moved)).pvalue)
    return float(stats.wilcoxon(moved, method="exact").pvalue)


def holm(values: Sequence[float | None]) -> list[float | None]:
    """p values corrected for their number by Holm's step-down; None stays None and does not count."""
    known = sorted((value, index) for index, value in enumerate(values) if value is not None)
    corrected: list[float | None] = [None] * len(values)
    largest = 0.0
    for rank, (value, index) in enumerate(known):
        largest = max(largest, min(1.0, value * (len(known) - rank)))
        corrected[index] = largest
    return corrected

"""Numbers of a user's own parts: the range that the annotation gives is kept, and named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pytest

from hyplearn.config.typecheck import checked
from hyplearn.errors import ConfigError


@dataclass(frozen=True)
class Interval:
    """As annotated-types writes one."""

    gt: float | None = None
    ge: float | None = None
    lt: float | None = None


Positive = Annotated[float, Interval(gt=0)]


class Part:
    """What a user may write."""

    def __init__(
        self,
        *,
        share: Annotated[float, "in (0, 1]"] = 0.5,
        tau: Positive = 0.1,
        limit: Annotated[float | None, Interval(ge=1, lt=10)] = None,
        count: Annotated[int, Interval(ge=2)] | None = 3,
        free: float = 1.0,
    ) -> None:
        pass


def check(**keys: object) -> dict[str, object]:
    return checked({"_target_": f"{__name__}.Part", **keys}, object, "loss", supplied={})


def test_values_in_range_pass_and_numbers_get_their_types() -> None:
    found = check(share=1, tau=0.2, limit=None, count=2, free=-5)
    assert (found["share"], found["limit"], found["count"]) == (1.0, None, 2)
    assert check(limit=9)["limit"] == 9.0


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"share": float("nan")}, r"loss\.share=nan must be a finite number, in \(0, 1\]\."),
        ({"tau": float("inf")}, r"loss\.tau=inf must be a finite number, greater than 0\."),
        ({"tau": 0}, r"loss\.tau=0\.0 must be a finite number, greater than 0\."),
        ({"limit": 10.0}, r"loss\.limit=10\.0 must be a finite number, at least 1 and less than 10\."),
        ({"count": 1}, r"loss\.count=1 must be a finite number, at least 2\."),
        ({"share": "much"}, r"loss\.share=much: expected a number, got a text\."),
        ({"limit": "much"}, r"loss\.limit=much: expected a number or null, got a text\."),
    ],
)
def test_values_out_of_range_are_told_with_it(keys: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}$"):
        check(**keys)


def test_a_number_without_a_range_is_left_to_the_check_of_all_numbers() -> None:
    assert check(free=float("inf"))["free"] == float("inf")

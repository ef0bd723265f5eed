from __future__ import annotations

import pytest

from hyplearn.optim.options import AT_LEAST_0, BELOW_1, check_options


def test_options_in_range_pass() -> None:
    check_options({"lr": 0.0, "betas": [0.0, 0.999]}, lr=AT_LEAST_0, betas=BELOW_1)


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({"lr": -1e-9}, r"lr=-1e-09 must be >= 0\.0"),
        ({"lr": float("nan")}, "lr=nan must be"),
        ({"lr": -1.0, "name": "manifold"}, "lr=-1.0 of parameter group 'manifold' must be"),
    ],
)
def test_an_option_out_of_range_is_named(group: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_options(group, lr=AT_LEAST_0)


@pytest.mark.parametrize("betas", [(0.9, 1.0), [1.0, 0.9], (-0.1, 0.9)])
def test_every_value_of_a_pair_is_checked(betas: object) -> None:
    with pytest.raises(ValueError, match=r"betas=.* must be in \[0\.0, 1\.0\)"):
        check_options({"betas": betas}, betas=BELOW_1)

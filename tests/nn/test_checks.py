"""Messages of wrong constructor arguments."""

from __future__ import annotations

import pytest

from hyplearn.nn.checks import one_of, positive


def test_a_wrong_choice_names_argument_value_choices_and_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"boost='ful' must be one of 'full', 'axis'; did you mean 'full'\?"):
        one_of("boost", "ful", ("full", "axis"))
    with pytest.raises(ValueError, match=r"boost=3 must be one of 'full', 'axis'$"):
        one_of("boost", 3, ("full", "axis"))
    one_of("boost", "axis", ("full", "axis"))


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "3"])
def test_a_size_is_an_integer_from_one_on(value: object) -> None:
    with pytest.raises(ValueError, match=r"width=.* must be an integer >= 1"):
        positive("width", value)
    positive("width", 1)

"""Messages of wrong choices."""

from __future__ import annotations

from typing import Literal

import pytest

from hyplearn.errors import one_of

Boost = Literal["full", "axis"]


def test_a_wrong_choice_names_argument_value_choices_and_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"boost='ful' must be one of 'full', 'axis'\. Did you mean full\?"):
        one_of("boost", "ful", Boost)
    with pytest.raises(ValueError, match=r"boost=3 must be one of 'full', 'axis'\.$"):
        one_of("boost", 3, Boost)
    one_of("boost", "axis", Boost)

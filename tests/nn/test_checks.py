"""Messages of wrong constructor arguments."""

from __future__ import annotations

import pytest

from hyplearn.nn.checks import positive


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "3"])
def test_a_size_is_an_integer_from_one_on(value: object) -> None:
    with pytest.raises(ValueError, match=r"width=.* must be an integer >= 1"):
        positive("width", value)
    positive("width", 1)

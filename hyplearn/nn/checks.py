"""Checks of constructor arguments."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def one_of(name: str, value: object, choices: Sequence[str]) -> None:
    """Raise a ValueError that names the argument, the value, the choices and the nearest of them."""
    if value not in choices:
        near = difflib.get_close_matches(str(value), choices, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{name}={value!r} must be one of {', '.join(map(repr, choices))}{hint}")


def positive(name: str, value: int) -> None:
    """Raise a ValueError unless value is an integer >= 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}={value!r} must be an integer >= 1")

"""Checks of constructor arguments."""

from __future__ import annotations


def positive(name: str, value: int) -> None:
    """Raise a ValueError unless value is an integer >= 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}={value!r} must be an integer >= 1")

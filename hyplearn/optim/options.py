"""Ranges of the options of a parameter group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Range(NamedTuple):
    """Numbers from `low` on, below `high`."""

    low: float
    high: float = float("inf")

    def __str__(self) -> str:
        return f">= {self.low}" if self.high == float("inf") else f"in [{self.low}, {self.high})"


AT_LEAST_0 = Range(0.0)
BELOW_1 = Range(0.0, 1.0)


def check_options(group: Mapping[str, Any], **ranges: Range) -> None:
    """Raise a ValueError for an option of the group out of its range; options with several values have one for all."""
    for name, allowed in ranges.items():
        values = group[name] if isinstance(group[name], (tuple, list)) else [group[name]]
        if not all(allowed.low <= value < allowed.high for value in values):
            where = f" of parameter group {group['name']!r}" if "name" in group else ""
            raise ValueError(f"{name}={group[name]}{where} must be {allowed}")

"""The row of the benchmark's table that says how two subjects compare. What is measured: `hyplearn.inference.costs`.

Every round times each subject of a row once, one after the other, so that a change of the machine's speed meets all of
them; a ratio is the median over the rounds of (subject / reference) within a round.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from hyplearn.inference import costs

HEADER = "| measure | time ratio | target | bytes ratio | target | images/s | |\n|---|---|---|---|---|---|---|"


@dataclass
class Row:
    """One comparison: `subject` against `reference`, the targets it is held to, and what was measured.

    seconds, saved: of the reference first. at_least: the time ratio is to reach its target, not to stay below it.
    """

    name: str
    time_target: float
    bytes_target: float | None
    seconds: dict[str, list[float]] = field(default_factory=dict)
    saved: dict[str, int] = field(default_factory=dict)
    images: int = 0
    at_least: bool = False

    @property
    def time_ratio(self) -> float:
        reference, subject = self.seconds.values()
        return statistics.median(s / r for s, r in zip(subject, reference, strict=True))

    @property
    def bytes_ratio(self) -> float | None:
        if not self.saved:
            return None
        reference, subject = self.saved.values()
        return subject / reference

    @property
    def met(self) -> bool:
        """Whether every target is."""
        in_time = self.time_ratio >= self.time_target if self.at_least else self.time_ratio <= self.time_target
        return in_time and (self.bytes_ratio or 0) <= (self.bytes_target or float("inf"))

    def line(self) -> str:
        """One line of the table: ratios, targets, and images a second of reference and subject."""
        target = f"at least {self.time_target:.0f}" if self.at_least else f"{self.time_target:.2f}"
        cells = [self.name, f"{self.time_ratio:.2f}", target]
        memory = self.bytes_ratio
        cells.append("" if memory is None else f"{memory:.2f}")
        cells.append("" if self.bytes_target is None else f"{self.bytes_target:.2f}")
        rates = [self.images / statistics.median(s) for s in self.seconds.values()] if self.images else []
        cells.append(" / ".join(f"{rate:.0f}" for rate in rates))
        return "| " + " | ".join([*cells, "met" if self.met else "missed"]) + " |"


def interleave(row: Row, steps: Mapping[str, Callable[[], object]], *, repeats: int, warmup: int, device: str) -> Row:
    """Time every step once a round."""
    row.seconds = costs.interleave(steps, repeats=repeats, warmup=warmup, device=device)
    return row

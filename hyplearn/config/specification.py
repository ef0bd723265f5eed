"""The parts of a run by one call, which imports torch and Lightning only then: what `compose` finds is told at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hyplearn.config.compose import Composed

if TYPE_CHECKING:
    from hyplearn.training.fit import TrainSpec


def checked_specification(composed: Composed, *, restores: bool = False) -> TrainSpec:
    """Make and check the parts of a run, see `hyplearn.config.compatibility.checked_specification`."""
    from hyplearn.config import compatibility

    return compatibility.checked_specification(composed, restores=restores)

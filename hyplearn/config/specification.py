"""From a composed configuration to the parts of a run that were found to work together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hyplearn.config.compose import Composed

if TYPE_CHECKING:
    from hyplearn.training.fit import TrainSpec


def checked_specification(composed: Composed, *, restores: bool = False) -> TrainSpec:
    """The parts of a run, found to work together. Raises ConfigError. restores: see `build.specification`.

    Imports torch and Lightning only now: the mistakes that `compose` finds are told at once.
    """
    from hyplearn.config.build import specification
    from hyplearn.config.compatibility import check

    spec = specification(composed.config, restores=restores)
    check(composed, spec)
    return spec

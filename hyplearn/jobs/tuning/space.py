"""The grammar of `hyplearn tune --space`: which keys are searched, and through what."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hyplearn.config.compose import parse
from hyplearn.errors import ConfigError, listing, nearest

if TYPE_CHECKING:
    from optuna import Trial

KINDS = ("choice", "log", "uniform", "int")
FORMS = "choice(a,b,c), log(low,high), uniform(low,high) or int(low,high)"
# What would change the question that all trials answer, and not the answer; and what the command sets itself.
FIXED = {
    "seed": "a seed that happens to do well is no setting",
    "scale": "it says what the data are",
    "protocol": "compare protocols with --compare",
    "output_dir": "every trial has a directory of its own",
    "resume": "an interrupted trial is continued by itself",
    "dataset": "the trials would be measured on different images",
    "dataset.source": "the trials would be measured on different images",
    "dataset.limit_train": "the trials would learn from different images",
    "dataset.val_fraction": "the trials would be measured on different images",
    "dataset.split_seed": "the trials would be measured on different images",
    "dataset.select_on_test": "test images choose nothing",
    "evaluation": "the trials would be measured in different ways",
    "callbacks.monitor": "--metric names what chooses",
}
WITH_KEYS = ("dataset.source", "evaluation")  # those whose keys are fixed with them


@dataclass(frozen=True)
class Dimension:
    """One key and its values, each as it would be typed.

    values: of a choice, else empty. low, high: ends of the others, both included. scope: the value of --compare that
    alone has this dimension, None for all. text: as typed.
    """

    key: str
    kind: str
    text: str
    values: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    scope: str | None = None

    def ends(self) -> tuple[str, ...]:
        """All values of a choice, the two ends of a range."""
        return self.values or (self._written(self.low), self._written(self.high))

    def points(self) -> tuple[str, ...]:
        """All values, for a grid. Raises ConfigError for a range that has infinitely many."""
        if self.kind == "int":
            return tuple(str(value) for value in range(int(self.low), int(self.high) + 1))
        if self.kind != "choice":
            raise ConfigError(
                f"--space {self.text}: a grid needs single values. Use choice(a,b,c) or int(low,high), or another "
                "--sampler."
            )
        return self.values

    def suggest(self, trial: Trial) -> str:
        """The value of this trial."""
        if self.kind == "choice":
            return str(trial.suggest_categorical(self.key, self.values))
        if self.kind == "int":
            return str(trial.suggest_int(self.key, int(self.low), int(self.high)))
        return repr(trial.suggest_float(self.key, self.low, self.high, log=self.kind == "log"))

    def parameter(self, text: str) -> str | int:
        """A value of `points` in the form in which Optuna keeps it."""
        return int(text) if self.kind == "int" else text

    def _written(self, value: float) -> str:
        return str(int(value)) if self.kind == "int" else repr(value)


def read(text: str) -> Dimension:
    """One argument of --space: `[scope:]key=kind(...)`. Raises ConfigError that names what is wrong with it."""
    head, sign, body = text.partition("=")
    scope, colon, key = head.rpartition(":")
    found = re.fullmatch(r"\s*(\w+)\s*\((.*)\)\s*", body)
    if not sign or not key.strip() or found is None:
        raise ConfigError(f"--space {text!r} must be key=values with values such as {FORMS}.")
    kind, inner = found[1], found[2]
    if kind not in KINDS:
        raise ConfigError(f"--space {text}: unknown {kind}(...).{nearest(kind, KINDS)} Use {FORMS}.")
    key = key.strip()
    why = fixed(key)
    if why is not None:
        raise ConfigError(f"--space {text}: {key} cannot be searched: {why}.")
    limits = {"values": _choices(key, inner, text)} if kind == "choice" else _range(kind, inner, text)
    return Dimension(key=key, kind=kind, text=text, scope=scope.strip() if colon else None, **limits)


def fixed(key: str) -> str | None:
    """Why a key has to stay as it is in all trials, None if it need not."""
    inside = (name for name in WITH_KEYS if key.startswith(f"{name}."))
    return FIXED.get(next(inside, key))


def _choices(key: str, inner: str, text: str) -> tuple[str, ...]:
    try:
        values = tuple(parse(f"{key}=choice({inner})").sweep_string_iterator())
    except ConfigError as error:
        raise ConfigError(f"--space {text}: cannot read the values of choice({inner}).") from error
    if len(values) < 2:
        raise ConfigError(f"--space {text}: a choice needs two values or more. Set a single one with {key}={inner}.")
    if len(set(values)) < len(values):
        raise ConfigError(f"--space {text}: the same value stands there twice.")
    return values


def _range(kind: str, inner: str, text: str) -> dict[str, float]:
    number: Callable[[str], float] = int if kind == "int" else float
    try:
        low, high = (number(part) for part in inner.split(","))
    except ValueError as error:
        wanted = "whole numbers" if kind == "int" else "numbers"
        raise ConfigError(f"--space {text}: {kind}(low,high) needs two {wanted}.") from error
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(f"--space {text}: {kind}(low,high) needs low < high, both finite.")
    if kind == "log" and low <= 0:
        raise ConfigError(f"--space {text}: log(low,high) needs low > 0. Use uniform({inner}) for a range with 0.")
    return {"low": low, "high": high}


def check(dimensions: Sequence[Dimension], scopes: Iterable[str]) -> None:
    """Raise ConfigError for a scope that nothing is compared by, or a key that is searched twice."""
    known = list(scopes)
    seen: list[Dimension] = []
    for dimension in dimensions:
        if dimension.scope is not None and dimension.scope not in known:
            raise ConfigError(
                f"--space {dimension.text}: {dimension.scope!r} is none of what is compared ({listing(known)})."
                f"{nearest(dimension.scope, known)}"
            )
        if any(dimension.key == other.key and _meet(dimension, other) for other in seen):
            raise ConfigError(f"--space {dimension.text}: {dimension.key} is searched twice.")
        seen.append(dimension)


def _meet(one: Dimension, other: Dimension) -> bool:
    return None in (one.scope, other.scope) or one.scope == other.scope


def product(values: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    """Every combination of one value for each key, the last key varying fastest."""
    return [dict(zip(values, combination, strict=True)) for combination in itertools.product(*values.values())]

"""The jobs that a multirun's command line describes: every combination, composed and checked before one starts."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from hyplearn.config.compose import Composed, composed
from hyplearn.config.explain import explained, of_command_line
from hyplearn.config.resolvers import sweep_subdir
from hyplearn.config.specification import checked_specification
from hyplearn.errors import ConfigError
from hyplearn.runs.identity import run_id

PLACE = "output_dir"  # typed for a multirun, it names the directory of all jobs

# Composes the overrides of a job, Hydra's own node included.
Load = Callable[[Sequence[str]], DictConfig]


class Combination(NamedTuple):
    """One combination of the typed values: all its overrides, and those of them that vary, by key."""

    overrides: tuple[str, ...]
    varied: Mapping[str, str]

    def folder_name(self, number: int, count: int) -> str:
        """`03_manifold.c-0.5_seed-2`: sorts by number, needs no quoting in a shell or in Hydra's grammar."""
        differences = ",".join(f"{key}={value}" for key, value in self.varied.items())
        return sweep_subdir(number, differences, digits=len(str(count - 1)))


class Checked(NamedTuple):
    """A combination with what Hydra composed of it, or what is wrong with it.

    overrides: those of the combination, with the signs that Hydra needs. same_as: number of an earlier combination
    that is the same run.
    """

    combination: Combination
    overrides: tuple[str, ...]
    composed: Composed | None
    mistake: str | None
    same_as: int | None = None


def expand(overrides: Sequence[Override]) -> list[Combination]:
    """Every combination of the values; the last key varies fastest. Raises ConfigError for what names no jobs."""
    keys = [_element(override) for override in overrides]
    for override, key in zip(overrides, keys, strict=True):
        if override.is_sweep_override() and keys.count(key) > 1:  # of single values the last one counts
            raise ConfigError(f"{key} is typed twice: all values of a key stand in one place, {key}=a,b.")
    values = [_values(override) for override in overrides]
    varying = {key for key, options in zip(keys, values, strict=True) if len(options) > 1}
    found = []
    for combination in itertools.product(*values):
        pairs = list(zip(keys, combination, strict=True))
        varied = {key.lstrip("+"): value.partition("=")[2] for key, value in pairs if key in varying}
        found.append(Combination(tuple(text for _, text in pairs), varied))
    return found


def _element(override: Override) -> str:
    """The key as typed, its sign and package included."""
    return f"~{override.key_or_group}" if override.is_delete() else str(override.get_key_element())


def _values(override: Override) -> list[str]:
    """The override with each of its values, as it would be typed for one job."""
    text, key = override.input_line, override.key_or_group
    if key == "resume":
        raise ConfigError(f"{text}: resume continues one run: name the directory of a job, without -m.")
    if not override.is_sweep_override():
        return [str(text)]
    if key == PLACE:
        raise ConfigError(f"{text}: a multirun has one directory, with one below it for each job.")
    if not override.is_discrete_sweep():
        raise ConfigError(f"{text}: a multirun needs single values: a,b,c or range(...) or choice(...).")
    values = list(override.sweep_string_iterator())
    if not values:
        raise ConfigError(f"{text} matches no choice of {key}.")
    return [f"{override.get_key_element()}={value}" for value in values]


def composed_all(combinations: Sequence[Combination], load: Load, extra: Sequence[Path] = ()) -> list[Checked]:
    """Compose all, check every key and type, and note which are the same run as an earlier one.

    extra: the further folders of configurations that `load` searches, for messages.
    """
    found: list[Checked] = []
    first: dict[str, int] = {}  # the number of the job that is each run
    for number, combination in enumerate(combinations):
        one = _checked(combination, load, extra)
        if one.composed is not None:
            name = _name(one.composed.config)
            one = one._replace(same_as=first.get(name))
            first.setdefault(name, number)
        found.append(one)
    return found


def checked_all(found: Sequence[Checked]) -> list[Checked]:
    """Build the parts of every run, and note where they do not go together; no run begins before all is known."""
    checked: list[Checked] = []
    for one in found:
        if one.same_as is not None:
            one = one._replace(mistake=checked[one.same_as].mistake)
        elif one.composed is not None:
            one = _compatible(one)
        checked.append(one)
    return checked


def _checked(combination: Combination, load: Load, extra: Sequence[Path]) -> Checked:
    overrides: Sequence[str] = combination.overrides
    while True:
        try:
            config = load(overrides)
            return Checked(combination, tuple(overrides), composed(config, config.hydra), None)
        except ConfigError as error:  # noqa: PERF203 - the others are checked all the same
            return Checked(combination, tuple(overrides), None, str(error))
        except Exception as error:
            if not of_command_line(error):
                raise
            try:
                overrides = explained(error, overrides, load, extra)
            except ConfigError as mistake:
                return Checked(combination, tuple(overrides), None, str(mistake))


def _compatible(one: Checked) -> Checked:
    """Build the parts of a run, without their pretrained weights, and note whether they go together."""
    assert one.composed is not None
    try:
        checked_specification(one.composed, restores=True)
    except ConfigError as error:
        return one._replace(mistake=str(error))
    return one


def _name(config: Mapping[str, Any]) -> str:
    """What is the same run, computed and watched in the same way, has the same name.

    The run id knows what of a manifold decides: a grid over c meets a model on the sphere once.
    """
    rest = {key: value for key, value in config.items() if key not in ("manifold", PLACE)}
    return f"{run_id(config)} {json.dumps(rest, sort_keys=True, default=str)}"


def mistakes_of(found: Sequence[Checked]) -> str:
    """All mistakes, each with the combinations that have it."""
    lines = []
    for mistake in dict.fromkeys(one.mistake for one in found if one.mistake is not None):
        who = [_shown(one.combination) for one in found if one.mistake == mistake]
        lines.append(f"  {', '.join(who)}: {mistake}")
    return "\n".join(lines)


def _shown(combination: Combination) -> str:
    return " ".join(f"{key}={value}" for key, value in combination.varied.items())

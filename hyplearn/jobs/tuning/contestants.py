"""What `hyplearn tune` compares: each with the part of the search space that it has, checked before anything runs."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hyplearn.config.compose import compose, parse
from hyplearn.config.folders import config_folders, groups
from hyplearn.errors import ConfigError, listing, nearest
from hyplearn.jobs.choices import values
from hyplearn.jobs.tuning import space as search_space
from hyplearn.jobs.tuning.space import Dimension
from hyplearn.runs.identity import cell_id, run_id
from hyplearn.runs.keys import PLACE
from hyplearn.training.settings import MONITORS, RETRIEVAL_MONITORS


@dataclass(frozen=True)
class Contender:
    """One of what is compared, or the only one.

    label: names its folder. scope: its value of --compare, None without one. overrides: all but what is searched.
    inert: keys of the space that decide nothing for it and are not searched. run: the id of the run of the
    overrides as they are.
    """

    label: str
    scope: str | None
    overrides: tuple[str, ...]
    dimensions: tuple[Dimension, ...]
    inert: tuple[str, ...]
    run: str

    def line(self, settings: Mapping[str, str]) -> list[str]:
        """The overrides of one trial."""
        return [*self.overrides, *(f"{key}={value}" for key, value in settings.items())]

    def grid(self) -> list[dict[str, str]]:
        """All combinations. Raises ConfigError for a range that has infinitely many."""
        return search_space.product({dimension.key: dimension.points() for dimension in self.dimensions})


def contenders(
    overrides: Sequence[str], space: Sequence[Dimension], compared: str | None, *, extra: Sequence[Path] = ()
) -> list[Contender]:
    """One for each value in `compared`, or the only one. Raises ConfigError for what cannot be searched.

    Composes every choice and both ends of every range, so that an unknown key or a wrong type is told now.
    """
    _check_typed(overrides, space, compared)
    named = [None] if compared is None else _compared(compared, extra)
    scopes = [value.partition("=")[2] for value in named if value is not None]
    search_space.check(space, scopes)
    found = [_contender(overrides, space, value, extra) for value in named]
    _check_distinct(found, compared)
    _check_inert(found, space)
    return found


def _check_typed(overrides: Sequence[str], space: Sequence[Dimension], compared: str | None) -> None:
    searched = {dimension.key for dimension in space}
    for text in (*overrides, *([compared] if compared else [])):
        parsed = parse(text)
        key = parsed.key_or_group
        if key in PLACE:
            raise ConfigError(f"{text}: every trial has a directory of its own and is continued by itself. Use --name.")
        if key in searched:
            raise ConfigError(f"{text}: {key} is searched by --space, and set as well. Leave one of them out.")
        if text != compared and parsed.is_sweep_override():
            raise ConfigError(
                f"{text} names several values: search them, --space '{key}=choice(...)', or compare them, each with a "
                f"study of its own: --compare {text}."
            )


def _compared(text: str, extra: Sequence[Path]) -> list[str | None]:
    override = parse(text)
    key = override.key_or_group
    why = None if key == "protocol" else search_space.fixed(key)
    if why is not None:
        raise ConfigError(f"--compare {text}: {key} cannot be compared: {why}.")
    found: list[str | None] = [f"{key}={value}" for value in values(override, extra)]
    if len(found) < 2:
        raise ConfigError(f"--compare {text} needs two values or more: --compare {key}=a,b.")
    if len(set(found)) < len(found):
        raise ConfigError(f"--compare {text}: the same value stands there twice.")
    return found


def _contender(
    overrides: Sequence[str], space: Sequence[Dimension], value: str | None, extra: Sequence[Path]
) -> Contender:
    line = (*overrides, *([value] if value is not None else []))
    composed = compose(line, extra=extra)
    scope = None if value is None else value.partition("=")[2]
    mine = [dimension for dimension in space if dimension.scope in (None, scope)]
    deciding = [dimension.key for dimension in mine if _decides(dimension, mine, line, extra)]
    label = str(composed.choices["model"]) if value is None else _label(value)
    return Contender(
        label=label,
        scope=scope,
        overrides=line,
        dimensions=tuple(dimension for dimension in mine if dimension.key in deciding),
        inert=tuple(dimension.key for dimension in mine if dimension.key not in deciding),
        run=run_id(composed.config),
    )


def _decides(dimension: Dimension, mine: Sequence[Dimension], line: Sequence[str], extra: Sequence[Path]) -> bool:
    """Whether two values of a key give two runs, with any of the choices of groups that are searched beside it."""
    decides = False
    for beside in _choices_beside(dimension, mine, extra):
        cells = set()
        for value in dimension.ends():
            cells.add(_cell([*line, *beside], dimension, value, extra))
        decides |= len(cells) > 1
    return decides


def _cell(line: Sequence[str], dimension: Dimension, value: str, extra: Sequence[Path]) -> str:
    try:
        return cell_id(compose([*line, f"{dimension.key}={value}"], extra=extra).config)
    except ConfigError as error:
        raise ConfigError(f"--space {dimension.text} with {' '.join(line) or 'the defaults'}: {error}") from error


def _choices_beside(dimension: Dimension, mine: Sequence[Dimension], extra: Sequence[Path]) -> Iterator[list[str]]:
    """Every combination of the choices of other groups: another model has other keys."""
    known = groups(config_folders(extra))
    others = [other for other in mine if other.key in known and other is not dimension]
    for combination in itertools.product(*(other.ends() for other in others)):
        yield [f"{other.key}={value}" for other, value in zip(others, combination, strict=True)]


def _label(value: str) -> str:
    """`hyp_vit_s` of model=hyp_vit_s, `manifold.c-0.1` of manifold.c=0.1."""
    key, _, chosen = value.partition("=")
    text = chosen if "." not in key and key != "protocol" else f"{key}-{chosen}"
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", text)[:80].strip("_.") or "value"


def _check_distinct(found: Sequence[Contender], compared: str | None) -> None:
    labels = [contender.label for contender in found]
    if len(set(labels)) < len(labels):
        raise ConfigError(f"--compare {compared}: these values give folders of the same name ({listing(set(labels))}).")


def _check_inert(found: Sequence[Contender], space: Sequence[Dimension]) -> None:
    """Some contender has each key, and each contender has some key."""
    for dimension in space:
        if not any(dimension in contender.dimensions for contender in found):
            raise ConfigError(f"--space {dimension.text}: {dimension.key} decides nothing for what is trained here.")
    for contender in found:
        if not contender.dimensions:
            raise ConfigError(
                f"{contender.label} has nothing to search: the keys of --space decide nothing for it "
                f"({listing(contender.inert)})."
            )


def objective(asked: str | None, overrides: Sequence[str], found: Sequence[Contender], extra: Sequence[Path]) -> str:
    """The validation metric that chooses: the one asked for, or that of the task. Raises ConfigError for any other."""
    names = []
    for contender in found:
        config = compose(contender.line(_first(contender)), extra=extra).config
        _check_validates(config, contender)
        names.append(_metric(asked, config, overrides))
    if len(set(names)) > 1:
        raise ConfigError(f"these have different metrics ({listing(set(names))}): compare models of one task.")
    return names[0]


def _first(contender: Contender) -> dict[str, str]:
    return {dimension.key: dimension.ends()[0] for dimension in contender.dimensions}


def _check_validates(config: Mapping[str, Any], contender: Contender) -> None:
    """There are validation data, and they are not the test data."""
    data = config["dataset"]
    if data.get("select_on_test"):
        raise ConfigError(
            "dataset.select_on_test=true takes the test classes for validation, and a search would choose by the "
            "test: set dataset.select_on_test=false dataset.val_fraction=0.2."
        )
    if not data["val_fraction"]:
        raise ConfigError(
            f"{contender.label}: dataset.val_fraction={data['val_fraction']:g} leaves no validation data to choose by: "
            "add dataset.val_fraction=0.2."
        )
    for key, way_out in (("limit_val_batches", "null"), ("max_epochs", "a number from 1 on")):
        if config["trainer"][key] == 0:
            raise ConfigError(f"trainer.{key}=0 validates nothing, so that nothing can be chosen: set {way_out}.")


def _metric(asked: str | None, config: Mapping[str, Any], overrides: Sequence[str]) -> str:
    evaluation = config.get("evaluation")
    monitors = MONITORS if evaluation is None else RETRIEVAL_MONITORS
    monitor = config["callbacks"]["monitor"]
    monitor = monitors[0] if monitor == "auto" else monitor
    if asked is None:
        return str(monitor)
    if asked.startswith("test/"):
        raise ConfigError(
            f"--metric {asked} would choose by the test data, and the test value of the best would mean nothing: "
            f"use --metric val/{asked.removeprefix('test/')}."
        )
    known = list(MONITORS) if evaluation is None else [f"val/recall@{k}" for k in evaluation["k"]]
    if evaluation is not None and evaluation["r_measures"]:
        known += ["val/map@r", "val/r_precision"]
    if asked not in known:
        raise ConfigError(f"--metric {asked} is not measured here.{nearest(asked, known)} (Known: {', '.join(known)})")
    typed = any(parse(text).key_or_group == "callbacks.monitor" for text in overrides)
    if typed and asked in monitors and asked != monitor:
        raise ConfigError(
            f"--metric {asked} and callbacks.monitor={monitor} choose differently: leave one of them out."
        )
    return asked


def monitored(found: Sequence[Contender], metric: str, extra: Sequence[Path]) -> list[Contender]:
    """With the epoch of each trial chosen by the metric that chooses the trial, where a run can choose by it."""
    chosen = []
    for contender in found:
        config = compose(contender.line(_first(contender)), extra=extra).config
        monitors = MONITORS if config.get("evaluation") is None else RETRIEVAL_MONITORS
        current = config["callbacks"]["monitor"]
        if metric in monitors and metric != (monitors[0] if current == "auto" else current):
            contender = replace(contender, overrides=(*contender.overrides, f"callbacks.monitor={metric}"))
        chosen.append(contender)
    return chosen

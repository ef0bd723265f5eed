"""From what the user typed to one resolved configuration or one ConfigError. Hydra does the composing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError

from hyplearn.config.explain import (
    as_text,
    explained,
    first_line,
    quoted,
    refuse_choices,
    several_values,
    unknown_choice,
)
from hyplearn.config.folders import BASE, ROOT, at_home, check_choices, config_dir, groups
from hyplearn.config.interpolations import check_interpolations
from hyplearn.config.keys import check_key, paths
from hyplearn.config.schema import SUPPLIED, TrainConfig, validate
from hyplearn.config.stored import check as stored_check
from hyplearn.config.typecheck import arguments, checked
from hyplearn.config.typed_keys import meant_word, with_our_values
from hyplearn.errors import ConfigError

RUNTIME = "runtime"  # the group that chooses Hydra's launcher and sweeper, which are no part of a run


@dataclass(frozen=True)
class Composed:
    """A resolved configuration, the choice taken in each group (None: nothing chosen), and the keys that were typed."""

    config: dict[str, Any]
    choices: dict[str, str | None]
    typed: frozenset[str]


def compose(overrides: Sequence[str], *, extra: Sequence[Path] = ()) -> Composed:
    """Compose the defaults with `overrides`, and check every key and type. `extra` are further folders of configs.

    Raises ConfigError: not an override, an unknown group, choice or key, a missing or mistyped value.
    """
    refuse_sweeps([parse(text) for text in overrides])
    check_choices(extra)
    refuse_choices(overrides, extra)
    config = load(overrides, extra)
    return composed(config, config.hydra)


def composed(config: DictConfig, own: Any) -> Composed:
    """Return what Hydra composed as plain containers, with every key and type checked. own: Hydra's own node."""
    typed = [parse(text) for text in task_overrides(own)]
    task = resolve(OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]))
    chosen = choices(own)
    for group, choice in chosen.items():
        if choice is not None and choice.startswith(f"{BASE}/"):
            raise unknown_choice(group, choice, groups([config_dir()])[group])
    for override in typed:
        _replace_kind(task, override)
    _turn_on_loggers(task, typed)
    return _complete(task, chosen, frozenset(key for override in typed for key in _keys(override)))


def task_overrides(own: Any) -> list[str]:
    """Return the overrides of the configuration, those of Hydra itself left out, as its own node has noted them."""
    typed = OmegaConf.to_container(own.overrides.task, resolve=False)
    assert isinstance(typed, list)
    return [str(text) for text in typed]


def choices(own: Any) -> dict[str, str | None]:
    """Return the choice in each group, as the node of Hydra itself has noted it."""
    found = sorted(own.runtime.choices.items())
    return {group: choice for group, choice in found if "/" not in group and group != RUNTIME}


def defaults(model: str | None = None) -> Composed:
    """What runs when nothing or only `model` is typed, not checked: `--help` must not import what a check imports."""
    config = load([] if model is None else [f"model={model}"], ())
    task = resolve(OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]))
    return Composed(config=task, choices=choices(config.hydra), typed=frozenset())


def change(
    stored: Mapping[str, Any],
    overrides: Sequence[str],
    *,
    allowed: Callable[[str], bool],
    file: Path,
    trust: Sequence[str],
) -> Composed:
    """The configuration of an earlier run with keys changed that are `allowed`; checked as by `compose`.

    This is the only way from a stored configuration to one that parts are made of. file: where it is stored. trust:
    packages beside hyplearn whose parts it may name, see `hyplearn.config.stored`. Where the precision changes, the
    limit of the manifold stays that of the run's own.
    """
    stored_check(stored, file, trust=trust)
    parsed = [parse(text) for text in overrides]
    refuse_sweeps(parsed)
    config = OmegaConf.create({key: value for key, value in stored.items() if key != "choices"})
    if any(override.key_or_group == "trainer.precision" for override in parsed):
        _keep_limit(config)
    for override in parsed:
        if not allowed(override.key_or_group):
            raise ConfigError(f"{override.input_line}: {override.key_or_group} of a stored run stays as it is.")
        if override.is_delete():
            raise ConfigError(f"{override.input_line}: no key of a stored run can be removed.")
        check_key(override.key_or_group, config)
        OmegaConf.update(config, override.key_or_group, override.value(), merge=False, force_add=True)
    return _complete(resolve(config), stored["choices"], frozenset(override.key_or_group for override in parsed))


def _keep_limit(config: DictConfig) -> None:
    """Write down the limit x_t_max that the precision of a stored run has given its manifold."""
    from hyplearn.manifolds.precision import x_t_max_trained_in

    known = arguments(config.manifold, None, "manifold") or {}
    if "x_t_max" in known and config.manifold.get("x_t_max") is None:
        config.manifold.x_t_max = x_t_max_trained_in(config.trainer.precision)


def parse(text: str) -> Override:
    """One override in Hydra's grammar."""
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException as error:  # OverrideParseException, and its base for brackets left open
        raise ConfigError(
            f"{text!r} is no override: {first_line(error)}. Write key=value or group=choice."
            f"{meant_word(text)}{as_text(text)}"
        ) from error


def resolve(config: DictConfig) -> dict[str, Any]:
    """`config` as plain containers, every interpolation resolved."""
    check_interpolations(cast(dict[str, Any], OmegaConf.to_container(config, resolve=False)))
    try:
        return cast(dict[str, Any], OmegaConf.to_container(config, resolve=True, throw_on_missing=True))
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key} is missing: give it a value, {error.full_key}=...") from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key or 'configuration'}: {first_line(error)}") from error


def refuse_sweeps(overrides: Sequence[Override]) -> None:
    """Raise ConfigError for an override that names several values."""
    for override in overrides:
        if override.is_sweep_override():
            raise ConfigError(f"{override.input_line} {several_values(override.input_line or '')}")


def load(overrides: Sequence[str], extra: Sequence[Path]) -> DictConfig:
    """Return what Hydra composes, unchecked, with its own node `hydra`. Raises ConfigError where it refuses."""
    while True:
        try:
            return _hydra_config(overrides, extra)
        except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:  # noqa: PERF203 - see explained
            overrides = explained(error, overrides, lambda line: _hydra_config(line, extra), extra)


def _hydra_config(overrides: Sequence[str], extra: Sequence[Path]) -> DictConfig:
    with _beside_a_running_hydra(), initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = hydra_compose(ROOT, overrides=[*overrides, *searching(extra)], return_hydra_config=True)
    OmegaConf.set_struct(config, False)
    return config


def searching(extra: Sequence[Path]) -> list[str]:
    """Return the override that makes Hydra search further folders of configurations; none where there are none."""
    folders = ",".join(quoted(f"file://{folder.resolve()}") for folder in extra)
    return [f"hydra.searchpath=[{folders}]"] if extra else []


def _keys(override: Override) -> list[str]:
    """The keys that an override sets: those of a group of keys, which Hydra merges, one by one."""
    value = None if override.is_delete() or override.is_sweep_override() else override.value()
    if not isinstance(value, Mapping):
        return [override.key_or_group]
    return [f"{override.key_or_group}.{path}" for path in paths(value)]


@contextmanager
def _beside_a_running_hydra() -> Iterator[None]:
    """Let another Hydra begin: a search composes its trials inside of the one that runs the command."""
    running = GlobalHydra.instance()
    hydra, running.hydra = running.hydra, None
    try:
        yield
    finally:
        running.hydra = hydra


def _replace_kind(config: dict[str, Any], override: Override) -> None:
    """A typed group of keys that names its kind, as in optim.schedule={name:cosine}, takes the place of the former one.

    Hydra merges the two, and the keys of the former kind would remain.
    """
    value = None if override.is_delete() or override.is_sweep_override() else override.value()
    if not (isinstance(value, Mapping) and "name" in value):
        return
    *path, last = override.key_or_group.split(".")
    node: Any = config
    for part in path:
        node = node[part]
    node[last] = resolve(OmegaConf.create(dict(value)))


def _turn_on_loggers(config: dict[str, Any], typed: Sequence[Override]) -> None:
    """Turn on each of several loggers, logger=[wandb,tensorboard]: what is merged last says no to the others."""
    values = [one.value() for one in typed if one.key_or_group == "logger" and not one.is_delete()]
    single = {one.key_or_group for one in typed}
    names = values[-1] if values and isinstance(values[-1], list) else []
    for name in names:
        if isinstance(config["logger"].get(name), bool) and f"logger.{name}" not in single:
            config["logger"][name] = True


def _complete(config: dict[str, Any], chosen: Mapping[str, str | None], typed: frozenset[str]) -> Composed:
    """Check keys, types and ranges, and note the choices in the configuration itself."""
    config = with_our_values(config)
    config = at_home(checked(config, TrainConfig, supplied=SUPPLIED, targets=False))  # first, as it imports no torch
    validate(config)
    config = checked(config, TrainConfig, supplied=SUPPLIED)
    return Composed(config={**config, "choices": dict(chosen)}, choices=dict(chosen), typed=typed)

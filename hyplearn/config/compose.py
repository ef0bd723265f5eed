"""From what the user typed to one resolved configuration or one ConfigError. Hydra's compose API does the composing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from hyplearn.config.folders import ROOT, config_dir, groups
from hyplearn.config.schema import SUPPLIED, TrainConfig, validate
from hyplearn.config.typecheck import arguments, check_known, checked, join
from hyplearn.errors import ConfigError, listing, nearest


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
    parsed = [parse(text) for text in overrides]
    _refuse_sweeps(parsed)
    choices, values = _split(parsed, groups([config_dir(), *extra]))
    config, chosen = _load(choices, extra)
    for override in values:
        _set(config, override)
    return _complete(resolve(config), chosen, frozenset(override.key_or_group for override in parsed))


def defaults(model: str | None = None) -> Composed:
    """What runs when nothing or only `model` is typed, not checked: `--help` must not import what a check imports."""
    config, chosen = _load([] if model is None else [f"model={model}"], ())
    return Composed(config=resolve(config), choices=chosen, typed=frozenset())


def change(stored: Mapping[str, Any], overrides: Sequence[str], *, allowed: Callable[[str], bool]) -> Composed:
    """The configuration of an earlier run with keys changed that are `allowed`; checked as by `compose`."""
    parsed = [parse(text) for text in overrides]
    _refuse_sweeps(parsed)
    config = OmegaConf.create({key: value for key, value in stored.items() if key != "choices"})
    for override in parsed:
        if not allowed(override.key_or_group):
            raise ConfigError(f"{override.input_line}: {override.key_or_group} of a stored run stays as it is.")
        _set(config, override)
    return _complete(resolve(config), stored["choices"], frozenset(override.key_or_group for override in parsed))


def parse(text: str) -> Override:
    """One override in Hydra's grammar. The signs + and ++ are accepted and mean the same as none."""
    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException as error:  # OverrideParseException, and its base for brackets left open
        raise ConfigError(f"{text!r} is no override: {_first_line(error)}. Write key=value or group=choice.") from error
    key = override.key_or_group
    if override.is_delete():
        raise ConfigError(f"{text}: no key can be removed; set {key}=null where null is allowed.")
    if key == "hydra" or key.startswith(("hydra.", "hydra/")):
        raise ConfigError(
            f"{text}: Hydra composes the configuration and runs nothing; output_dir= names the directory."
        )
    if override.package is not None:
        raise ConfigError(f"{text}: a group has one place; write {key}=... without @{override.package}.")
    return override


def quoted(text: str | Path) -> str:
    """A text in the grammar of overrides."""
    return "'" + str(text).replace("\\", "\\\\").replace("'", "\\'") + "'"


def check_key(key: str, config: DictConfig) -> None:
    """Raise ConfigError if the dotted `key` is neither in `config` nor an argument of what holds it."""
    tree = cast(dict[str, Any], OmegaConf.to_container(config, resolve=False))
    if key in set(_paths(tree)):
        return
    node: Any = tree
    annotation: Any = TrainConfig
    path = ""
    for part in key.split("."):
        known = arguments(node, annotation, path)
        if known is None and isinstance(node, Mapping) and (not node or "_target_" in node):
            return
        valid = set(node if isinstance(node, Mapping) else ()) | set(known or ())
        if part not in valid and part not in SUPPLIED.get(path, ()):
            _suggest_elsewhere(key, part, valid, tree)
        check_known(part, valid, path, supplied=SUPPLIED)
        annotation = known[part].annotation if known and part in known else Any
        node, path = node.get(part) if isinstance(node, Mapping) else None, join(path, part)


def resolve(config: DictConfig) -> dict[str, Any]:
    """`config` as plain containers, every interpolation resolved."""
    try:
        return cast(dict[str, Any], OmegaConf.to_container(config, resolve=True, throw_on_missing=True))
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key} is missing: give it a value, {error.full_key}=...") from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key or 'configuration'}: {_first_line(error)}") from error


def _set(config: DictConfig, override: Override) -> None:
    """Set one typed value. A group of keys, as in schedule={name:cosine}, takes the place of the former one."""
    check_key(override.key_or_group, config)
    OmegaConf.update(config, override.key_or_group, override.value(), merge=False, force_add=True)


def _complete(config: dict[str, Any], choices: Mapping[str, str | None], typed: frozenset[str]) -> Composed:
    """Check keys, types and ranges, and note the choices in the configuration itself."""
    config = checked(config, TrainConfig, supplied=SUPPLIED)
    validate(config)
    return Composed(config={**config, "choices": dict(choices)}, choices=dict(choices), typed=typed)


def _refuse_sweeps(overrides: Sequence[Override]) -> None:
    for override in overrides:
        if override.is_sweep_override():
            raise ConfigError(
                f"{override.input_line} names several values: add -m to run one job for each, "
                f"or write {override.key_or_group}=[...] for a list."
            )


def _split(parsed: Sequence[Override], known: Mapping[str, list[str]]) -> tuple[list[str], list[Override]]:
    """Choices of groups, checked, and the overrides of single values."""
    choices, values = [], []
    for override in parsed:
        group = override.key_or_group
        if group not in known:
            values.append(override)
            continue
        choice = override.value()
        if choice is None and group == "experiment":
            continue
        if not isinstance(choice, str) or choice not in known[group]:
            raise unknown_choice(group, override.get_value_element_as_str(), known[group])
        choices.append(f"{group}={choice}")
    return choices, values


def unknown_choice(group: str, choice: str, valid: Sequence[str]) -> ConfigError:
    """The error for a choice that `group` does not offer."""
    return ConfigError(f"unknown choice {group}={choice}.{nearest(choice, valid)} ({group} offers: {listing(valid)})")


def _load(overrides: Sequence[str], extra: Sequence[Path]) -> tuple[DictConfig, dict[str, str | None]]:
    searchpath = ", ".join(f"'file://{folder.resolve()}'" for folder in extra)
    try:
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            config = hydra_compose(
                ROOT, overrides=[*overrides, f"hydra.searchpath=[{searchpath}]"], return_hydra_config=True
            )
    except MissingConfigException as error:
        group, _, choice = (error.missing_cfg_file or "").partition("/")
        raise unknown_choice(group, choice, list(error.options or ())) from error
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(_first_line(error)) from error
    choices = {group: choice for group, choice in sorted(config.hydra.runtime.choices.items()) if "/" not in group}
    OmegaConf.set_struct(config, False)
    del config["hydra"]
    return config, choices


def _paths(tree: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """The dotted key of every node and leaf."""
    for key, value in tree.items():
        yield join(path, key)
        if isinstance(value, Mapping):
            yield from _paths(value, join(path, key))


def _suggest_elsewhere(key: str, part: str, valid: set[str], tree: Mapping[str, Any]) -> None:
    """Raise with the one place where a key of this name does exist, if nothing near the typed place is close."""
    elsewhere = [path for path in _paths(tree) if path.rpartition(".")[2] == key.rpartition(".")[2]]
    if not nearest(part, valid) and elsewhere:
        raise ConfigError(f"unknown key {key}. Did you mean {listing(elsewhere)}?")


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".")

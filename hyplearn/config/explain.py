"""After Hydra refused a command line: what is wrong with it, with the nearest valid name. Costs nothing otherwise."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from hyplearn.config.folders import ROOT, config_folders, groups, package_folder, roots
from hyplearn.config.keys import check_key, paths
from hyplearn.config.typed_keys import meant_choice, meant_key, meant_word
from hyplearn.errors import ConfigError, nearest, offered

# Composes a command line, or raises what Hydra raises.
Load = Callable[[Sequence[str]], DictConfig]

HELP = "hyplearn train --help"  # lists the groups with their choices
NO_NAME = "Config group override must be"  # how Hydra begins a ValueError about model=null


def of_command_line(error: Exception) -> bool:
    """Whether Hydra raised `error` about what was typed or a file says, and `explained` can tell more about it."""
    if isinstance(error, InstantiationException):  # out of a job: a defect, with its traceback
        return False
    refusals = (HydraException, OmegaConfBaseException, YAMLError)
    return isinstance(error, refusals) or str(error).startswith(NO_NAME)


def explained(error: Exception, overrides: Sequence[str], load: Load, extra: Sequence[Path] = ()) -> list[str]:
    """Return the overrides that were meant, where Hydra asks for a sign that hyplearn's users need not type.

    A key that the configuration files leave out but that is an argument of what they configure gets its `++`; a choice
    of a group that has a default loses its `+`. Raises ConfigError, with the nearest valid name, for everything else.
    load: composes other overrides, to see which keys there are. extra: further folders of configurations.
    """
    if isinstance(error, OverrideParseException):
        raise ConfigError(
            f"{error.override!r} is no override: {first_line(error)}. Write key=value or group=choice."
            f"{meant_word(str(error.override))}{as_text(str(error.override))}"
        )
    extra = [*extra, *searched(overrides)]
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        raise _missing_choice(error, extra) from error
    text = str(error)
    if text.startswith("Ambiguous value"):
        raise _several_values(text) from error
    twice = re.search(r"Multiple values for (\S+?)\. To override", text)
    if twice and f"+{twice[1]}=" in "\n".join(overrides):
        return [text.removeprefix("+") if text.startswith(f"+{twice[1]}=") else text for text in overrides]
    if text.startswith(NO_NAME):
        _refuse_no_name(overrides, extra)
    unknown = re.search(r"Could not override '([^']+)'", text)
    if isinstance(error, ConfigCompositionException) and unknown:
        meant = _with_added(unknown[1], overrides, load, extra)
        if meant != list(overrides):  # a key of a configuration file has no sign to add
            return meant
    cause = f": {first_line(error.__cause__)}" if isinstance(error.__cause__, OmegaConfBaseException) else ""
    raise ConfigError(f"{_plain(text)}{cause}") from error


def searched(overrides: Sequence[str]) -> list[Path]:
    """Return the folders that overrides name as hydra.searchpath=[file://folder,pkg://package]."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    typed = next((one.value() for one in reversed(parsed) if one.key_or_group == "hydra.searchpath"), None) or []
    places = [str(place) for place in (typed if isinstance(typed, list) else [typed])]
    return [_place(place) for place in places]


def _place(place: str) -> Path:
    """Return the folder of an entry of hydra.searchpath."""
    if place.startswith("pkg://"):
        return package_folder(place.removeprefix("pkg://").replace("/", ".").rstrip("."), "hydra.searchpath")
    return Path(place.removeprefix("file://"))


def unknown_choice(group: str, choice: str, valid: Sequence[str]) -> ConfigError:
    """The error for a choice that `group` does not offer."""
    hint = meant_choice(group, choice) or nearest(choice, valid)
    return ConfigError(f"unknown choice {group}={choice}.{hint} ({group} offers: {offered(valid, HELP)})")


def first_line(error: Exception) -> str:
    """The first line of an error's message, without its full stop."""
    return next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")


def _missing_choice(error: MissingConfigException, extra: Sequence[Path]) -> ConfigError:
    name = error.missing_cfg_file or ""
    known = groups(config_folders(extra))
    group, _, choice = name.partition("/")
    if group not in known:
        group, _, choice = name.rpartition("/")
    if not group:
        files = roots(config_folders(extra))
        return ConfigError(
            f"no configuration {name}.yaml.{nearest(name, files)} (--config-name takes: {offered(files, HELP)})"
        )
    return unknown_choice(group, choice, sorted({*(error.options or ()), *known.get(group, ())}))


def refuse_choices(overrides: Sequence[str], extra: Sequence[Path] = ()) -> None:
    """Raise ConfigError for the choice of a group that is neither a name nor keys to merge, as in model=[1].

    Hydra fails on some of them without a word about which. null chooses nothing, where that is allowed.
    """
    known = groups(config_folders(extra))
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        group = override.key_or_group
        if group not in known or override.is_sweep_override() or override.is_delete():
            continue
        value = override.value()
        several = isinstance(value, list) and all(isinstance(name, str) for name in value)
        if not (several or value is None or isinstance(value, (str, dict))):
            raise unknown_choice(group, override.get_value_element_as_str(), known[group])


def _refuse_no_name(overrides: Sequence[str], extra: Sequence[Path]) -> None:
    """Raise ConfigError for null in a group that needs a choice."""
    known = groups(config_folders(extra))
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        if override.key_or_group in known and not override.is_sweep_override() and override.value() is None:
            raise unknown_choice(override.key_or_group, "null", known[override.key_or_group])


def _several_values(text: str) -> ConfigError:
    told = text.splitlines()[0].partition("'")[2].rstrip("'")
    return ConfigError(f"{told} {several_values(told)}")


def several_values(text: str) -> str:
    """What an override that names several values is told."""
    key = text.partition("=")[0]
    return f"names several values: add -m to run one job for each, or write {key}=[...] for a list.{as_text(text, key)}"


def as_text(text: str, key: str | None = None) -> str:
    """` If it is a text or a path: ...` with the override as a shell takes it, whose value Hydra takes as it is.

    Hydra's grammar has a meaning for commas, brackets, `=` and more, and none for letters of other alphabets.
    """
    found, sign, value = text.partition("=")
    if not (sign and value and re.fullmatch(r"[+~]{0,2}[\w./@-]+", found)):
        return ""
    override = f"{key or found}={quoted(value)}"
    typed = shlex.quote(override) if re.search(r'[$`"\\!]', override) else f'"{override}"'
    return f" If the value is a text, such as a path, quote it: {typed}"


def quoted(text: str | Path) -> str:
    """A text in the grammar of overrides, where a backslash is one unless it stands before a quote or the end."""
    escaped = re.sub(r"(\\*)('|\Z)", lambda found: 2 * found[1] + found[2].replace("'", "\\'"), str(text))
    return f"'{escaped}'"


def _with_added(key: str, overrides: Sequence[str], load: Load, extra: Sequence[Path]) -> list[str]:
    """Return the overrides with `++` before a key that no file mentions. Raises ConfigError for an unknown one."""
    known = groups(config_folders(extra))
    chosen = [text for text in overrides if _chooses(text, known) and "," not in text]
    try:
        config = load(chosen)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(f"{_plain(str(error))}.") from error
    if key.split(".")[0] == "hydra":
        own = OmegaConf.to_container(config.hydra, resolve=False)
        assert isinstance(own, dict)
        valid = [f"hydra.{path}" for path in paths({str(name): value for name, value in own.items()})]
        raise ConfigError(f"unknown key {key}.{nearest(key, valid)} (--cfg hydra shows those of Hydra)")
    task = OmegaConf.masked_copy(config, [str(name) for name in config if name != "hydra"])
    if "." not in key and key not in task and not meant_key(key) and nearest(key, known):
        raise ConfigError(f"unknown key {key}.{nearest(key, known)}")
    check_key(key, task)
    return [f"++{text}" if text.partition("=")[0] == key else text for text in overrides]


def _chooses(text: str, known: Collection[str]) -> bool:
    """Whether an override makes a choice in one of the groups, or in one of Hydra's own."""
    group = text.lstrip("+").partition("=")[0]
    return group in known or group.startswith("hydra/")


def _plain(text: str) -> str:
    """Hydra's message in one line."""
    return " ".join(text.partition("full_key:")[0].split()).rstrip(".") or f"Hydra could not compose {ROOT}.yaml"

"""Where the configuration files lie, which groups there are, and which choices each offers. No heavy import."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from yaml import YAMLError

from hyplearn.errors import ConfigError
from hyplearn.runs.bounded import check_yaml, read_text

ROOT = "train"
BASE = "base"  # the folder of a group whose files others build on, and which are no choices themselves
ENTRY_POINTS = "hyplearn.configs"  # by which an installed package names its package of configuration files


PATHS = ("output_dir", "resume", "dataset.root", "dataset.cache_folder", "model.weights")  # keys that name a place


def at_home(config: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration with ~ of its paths replaced by the home directory, in place.

    Raises ConfigError for an empty path, which would be the working directory, unasked.
    """
    for place in PATHS:
        *groups, key = place.split(".")
        node: Any = config
        for group in groups:
            node = node.get(group) if isinstance(node, dict) else None
        value = node.get(key) if isinstance(node, dict) else None
        if not isinstance(value, str):
            continue
        if not value.strip():
            raise ConfigError(f"{place} is empty: name a path, or leave it out ({place}=null).")
        if value.startswith("~"):
            node[key] = str(Path(value).expanduser())
    return config


def config_dir() -> Path:
    """`hyplearn/configs` of an installed package, `configs` beside the package in a source checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / f"{ROOT}.yaml").is_file():
            return folder
    raise FileNotFoundError(f"no {ROOT}.yaml in {package}/configs or {package.parent}/configs: reinstall hyplearn")


def installed() -> Mapping[str, str]:
    """Return the packages of configuration files that other distributions offer, by the name of the entry point."""
    return _installed(tuple(sys.path))


@cache  # reading what is installed takes longer than composing does
def _installed(path: tuple[str, ...]) -> Mapping[str, str]:
    """Return the same; path: where Python looks for what is installed."""
    return {point.name: point.value for point in entry_points(group=ENTRY_POINTS)}


def config_folders(extra: Sequence[Path] = ()) -> list[Path]:
    """Return every folder of configurations once: ours, those of installed packages, and `extra`.

    Raises ConfigError for an installed package that does not have the folder it names.
    """
    packages = [
        package_folder(package, f"entry point {name} of {ENTRY_POINTS}") for name, package in installed().items()
    ]
    return list({folder.resolve(): folder for folder in (config_dir(), *packages, *extra)}.values())


def package_folder(package: str, named_by: str) -> Path:
    """Return the folder of a package of configuration files. Raises ConfigError where there is none."""
    try:
        spec = importlib.util.find_spec(package)
    except ImportError:  # of a package around it
        spec = None
    places = None if spec is None else spec.submodule_search_locations
    if spec is None or spec.origin is None or not places:  # Hydra reads no folder without __init__.py
        raise ConfigError(
            f"{named_by} names {package}, but there is no such package with an __init__.py: install what offers it, or "
            "leave it out."
        )
    return Path(next(iter(places)))


def groups(folders: Sequence[Path]) -> dict[str, list[str]]:
    """Each config group with its choices, of all `folders` together.

    A file in a folder of a group is one choice, named by its path below the group: `experiment/grid/seeds`. Those in
    its folder `base` are none. Raises ConfigError for a choice that two folders offer.
    """
    found: dict[str, set[str]] = {}
    for folder in folders:
        for path in folder.glob("*/**/*.yaml"):
            group, *choice = path.relative_to(folder).with_suffix("").parts
            if choice[0] == BASE:
                continue
            name = "/".join(choice)
            if name in found.setdefault(group, set()):
                raise ConfigError(f"{path}: {group} offers {name} already, and would never use this one: rename it.")
            found[group].add(name)
    return {group: sorted(choices) for group, choices in sorted(found.items())}


def check_choices(extra: Sequence[Path]) -> None:
    """Raise ConfigError for a choice that two folders offer, ours, installed or `extra`: Hydra would never use one."""
    folders = config_folders(extra)
    if len(folders) > 1:
        groups(folders)
        check_files(folders[1:])


def check_files(folders: Sequence[Path]) -> None:
    """Raise ConfigError for a file of configurations that nests or multiplies beyond every use, before Hydra reads it.

    What is no YAML is told where it is chosen.
    """
    for folder in folders:
        for path in sorted(folder.rglob("*.yaml")):
            _check_file(path)


def _check_file(path: Path) -> None:
    try:
        check_yaml(read_text(path))
    except YAMLError:
        return
    except ValueError as error:
        raise ConfigError(f"{path} is no configuration: {error}.") from error


def roots(folders: Sequence[Path]) -> list[str]:
    """The names that --config-name takes: the files that stand in no group."""
    return sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})

"""Where the configuration files lie, which groups there are, and which choices each offers. No heavy import."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hyplearn.errors import ConfigError

ROOT = "train"
BASE = "base"  # the folder of a group whose files others build on, and which are no choices themselves


def config_dir() -> Path:
    """`hyplearn/configs` of an installed package, `configs` beside the package in a source checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / f"{ROOT}.yaml").is_file():
            return folder
    raise FileNotFoundError(f"no {ROOT}.yaml in {package}/configs or {package.parent}/configs: reinstall hyplearn")


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
    """Raise ConfigError for a choice in `extra` that another folder offers already: Hydra would never use it."""
    if extra:
        groups([config_dir(), *extra])


def roots(folders: Sequence[Path]) -> list[str]:
    """The names that --config-name takes: the files that stand in no group."""
    return sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})

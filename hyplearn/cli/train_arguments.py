"""The command line of `hyplearn train`: the flags of Hydra, and the few that are ours, written as Hydra's."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from hyplearn.cli.parser import Parser, folder
from hyplearn.config.compose import quoted
from hyplearn.errors import ConfigError


class Arguments(NamedTuple):
    """What was typed, in the order in which Hydra's parser takes it.

    flags: those of Hydra. overrides: of the configuration. config_dirs: folders of further configurations.
    """

    flags: list[str]
    overrides: list[str]
    config_dirs: list[Path]
    multirun: bool
    print_config: bool


# Flags without and with a value, each with its short form, as Hydra spells them.
SWITCHES = {"--run": "-r", "--multirun": "-m", "--resolve": None, "--shell-completion": "-sc", "--hydra-help": None}
VALUES = {
    "--package": "-p",
    "--config-path": "-cp",
    "--config-name": "-cn",
    "--experimental-rerun": None,
}
ACTIONS = ("--run", "--multirun", "--cfg", "--info", "--shell-completion", "--hydra-help", "--print-config")
SHOWN = ("job", "hydra", "all")  # of --cfg
INFORMATION = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")  # of --info


def read(arguments: Sequence[str]) -> Arguments:
    """Read a command line. Raises ConfigError for a flag that is unknown, or a folder that is not there."""
    options = _parser().parse_intermixed_args(list(arguments))
    _refuse(options)
    folders: list[Path] = options.config_dir
    flags = [flag for flag in SWITCHES if getattr(options, _name(flag))]
    for flag in (*VALUES, "--cfg", "--info"):
        value = getattr(options, _name(flag))
        flags += [] if value is None else [flag, value]
    overrides = [*options.overrides, *_launching(options)]
    if len(folders) == 1:
        flags += ["--config-dir", str(folders[0])]
    elif folders:  # Hydra takes one
        overrides.append(_searchpath(folders, options.overrides))
    return Arguments(flags, overrides, folders, options.multirun, options.print_config)


def _refuse(options: argparse.Namespace) -> None:
    """Raise ConfigError for flags that ask for two things at once, or for nothing."""
    asked = [flag for flag in ACTIONS if getattr(options, _name(flag)) not in (None, False)]
    if len(asked) > 1:
        raise ConfigError(f"{' and '.join(asked)} ask for two things at once: leave one out.")
    if (options.resolve or options.package is not None) and options.cfg is None:
        raise ConfigError("--resolve and --package say how --cfg shows a configuration: add --cfg job.")


def _name(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")


def _parser() -> Parser:
    parser = Parser("train")
    for flag, short in SWITCHES.items():
        parser.add_argument(*filter(None, (flag, short)), action="store_true")
    for flag, short in VALUES.items():
        parser.add_argument(*filter(None, (flag, short)))
    parser.add_argument("--cfg", "-c", choices=SHOWN)
    parser.add_argument("--info", "-i", nargs="?", const="all", choices=INFORMATION)
    parser.add_argument("--config-dir", "-cd", type=folder, action="append", default=[])
    parser.add_argument("--print-config", action="store_true")
    parser.add_argument("--jobs", metavar="N")
    parser.add_argument("--jobs-per-gpu", metavar="N")
    parser.add_argument("overrides", nargs="*")
    return parser


def _launching(options: argparse.Namespace) -> list[str]:
    """--jobs and --jobs-per-gpu as settings of the launcher."""
    typed = {"n_jobs": options.jobs, "jobs_per_gpu": options.jobs_per_gpu}
    given = {name: value for name, value in typed.items() if value is not None}
    if given and not options.multirun:
        raise ConfigError("--jobs and --jobs-per-gpu are for several jobs: add -m.")
    return [f"hydra.launcher.{name}={value}" for name, value in given.items()]


def _searchpath(folders: Sequence[Path], overrides: Sequence[str]) -> str:
    """Several folders as Hydra takes them."""
    if any(text.lstrip("+").startswith("hydra.searchpath=") for text in overrides):
        raise ConfigError(
            "several --config-dir and hydra.searchpath: put all folders into hydra.searchpath=[file://...]."
        )
    return f"hydra.searchpath=[{','.join(quoted(f'file://{folder.resolve()}') for folder in folders)}]"

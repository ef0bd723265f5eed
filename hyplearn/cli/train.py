"""`hyplearn train`, which is `python train.py`: its command line. What it runs stands in `under_hydra`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from hyplearn.cli.parser import Parser, at_least, folder
from hyplearn.config.typed_keys import meant_flag
from hyplearn.errors import OK, ConfigError

# Flags of Hydra without and with a value: the short form, and what they do.
SWITCHES = {
    "--run": ("-r", "run one job, which is the default"),
    "--multirun": ("-m", "run every combination of values: a,b,c  range(1,6)  choice(a,b)  glob(hecnn*)"),
    "--resolve": (None, "with --cfg: interpolations as what they come to"),
    "--shell-completion": ("-sc", "install=bash, fish or zsh: the tab key completes python train.py"),
    "--hydra-help": (None, "the help of Hydra itself"),
}
VALUES = {
    "--package": ("-p", "with --cfg: this part alone"),
    "--config-path": ("-cp", "another folder of configurations, in place of hyplearn's"),
    "--config-name": ("-cn", "another root than train"),
}
ACTIONS = ("--run", "--multirun", "--cfg", "--info", "--shell-completion", "--hydra-help", "--print-config")
SHOWN = ("job", "hydra", "all")  # of --cfg
INFORMATION = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")  # of --info


def train(argv: Sequence[str]) -> int:
    """Run `hyplearn train <argv>`."""
    _refuse_flags(argv)
    options = train_parser().parse_intermixed_args(list(argv))
    if options.help:
        from hyplearn.cli.help import help_text

        print(help_text(options.config_dir))
        return OK
    flags, overrides = arguments(options)
    from hyplearn.cli import under_hydra  # here: Hydra takes its time to import, and mistakes are told before

    if options.print_config:
        return under_hydra.show(overrides, extra=options.config_dir)
    return under_hydra.run(flags, overrides, options.config_dir, trust=options.trust)


def train_parser() -> Parser:
    """Make the parser of `hyplearn train`, whose help is longer than a parser's: it lists groups and keys."""
    parser = Parser("train", "Train, then test once.", add_help=False)
    parser.add_argument("-h", "--help", action="store_true", help="the options, and every group with its choices")
    for flag, (short, about) in SWITCHES.items():
        parser.add_argument(*filter(None, (flag, short)), action="store_true", help=about)
    for flag, (short, about) in VALUES.items():
        parser.add_argument(*filter(None, (flag, short)), help=about)
    parser.add_argument("--cfg", "-c", choices=SHOWN, help="show the composed configuration, run nothing")
    parser.add_argument("--info", "-i", nargs="?", const="all", choices=INFORMATION, help="what Hydra found")
    parser.add_argument(
        "--config-dir", "-cd", type=folder, action="append", default=[], help="further choices for the groups"
    )
    parser.add_trust()
    parser.add_argument("--print-config", action="store_true", help="check and print the configuration, run nothing")
    parser.add_argument("--jobs", type=at_least(1), metavar="N", help="with -m: hydra.launcher.n_jobs=N")
    parser.add_argument("--jobs-per-gpu", type=at_least(1), metavar="N", help="with -m: hydra.launcher.jobs_per_gpu=N")
    parser.add_argument("overrides", nargs="*", complete="words", help="group=choice and group.key=value")
    return parser


def arguments(options: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Return the flags and the overrides as Hydra's parser takes them. Raises ConfigError for what has no meaning."""
    _refuse(options)
    _refuse_words(options)
    _refuse_trust(options)
    folders: list[Path] = options.config_dir
    flags = [flag for flag in SWITCHES if getattr(options, _name(flag))]
    for flag in (*VALUES, "--cfg", "--info"):
        value = getattr(options, _name(flag))
        flags += [] if value is None else [flag, value]
    overrides = [*options.overrides, *_launching(options)]
    if len(folders) == 1:
        flags += ["--config-dir", str(folders[0])]
    elif folders:  # Hydra takes one
        overrides += _searchpath(folders, options.overrides)
    return flags, overrides


def _refuse(options: argparse.Namespace) -> None:
    """Raise ConfigError for flags that ask for two things at once, or for nothing."""
    asked = [flag for flag in ACTIONS if getattr(options, _name(flag)) not in (None, False)]
    if len(asked) > 1:
        raise ConfigError(f"{' and '.join(asked)} ask for two things at once: leave one out.")
    if (options.resolve or options.package is not None) and options.cfg is None:
        raise ConfigError("--resolve and --package say how --cfg shows a configuration: add --cfg job.")


def _refuse_flags(argv: Sequence[str]) -> None:
    """Raise ConfigError for a setting that was typed as a flag, as in --epochs 5, with the way it is written here."""
    known = train_parser()._option_string_actions
    for text, following in zip(argv, [*argv[1:], ""], strict=True):
        flag, sign, value = text.partition("=")
        if not re.fullmatch(r"--?[a-zA-Z][\w-]*", flag) or flag in known:
            continue
        after = following if following and not following.startswith("-") and "=" not in following else None
        answer = meant_flag(flag, value if sign else after)
        if answer:
            raise ConfigError(answer)


def _refuse_words(options: argparse.Namespace) -> None:
    """Raise ConfigError for words that name no key, and for a completion that says nothing to do."""
    for text in options.overrides:
        if text.startswith("="):
            raise ConfigError(f"{text!r} is no override: write key=value or group=choice.")
    asked = ("install=", "uninstall=", "query=")
    if options.shell_completion and not any(text.startswith(asked) for text in options.overrides):
        raise ConfigError("--shell-completion needs a word such as install=bash, uninstall=bash or query=bash.")


def _refuse_trust(options: argparse.Namespace) -> None:
    """Raise ConfigError for --trust where no stored configuration is read: what is typed is free to name any part."""
    if options.trust and (options.multirun or not any(text.startswith("resume=") for text in options.overrides)):
        raise ConfigError(
            f"--trust {options.trust[0]} would be ignored: it allows what a stored run names, and goes with "
            "resume=<run directory> of one job."
        )


def _name(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")


def _launching(options: argparse.Namespace) -> list[str]:
    """--jobs and --jobs-per-gpu as settings of the launcher."""
    typed = {"n_jobs": options.jobs, "jobs_per_gpu": options.jobs_per_gpu}
    given = {name: value for name, value in typed.items() if value is not None}
    if given and not options.multirun:
        raise ConfigError("--jobs and --jobs-per-gpu are for several jobs: add -m.")
    return [f"hydra.launcher.{name}={value}" for name, value in given.items()]


def _searchpath(folders: Sequence[Path], overrides: Sequence[str]) -> list[str]:
    """Several folders as Hydra takes them."""
    from hyplearn.config.compose import searching

    if any(text.lstrip("+").startswith("hydra.searchpath=") for text in overrides):
        raise ConfigError(
            "several --config-dir and hydra.searchpath: put all folders into hydra.searchpath=[file://...]."
        )
    return searching(folders)

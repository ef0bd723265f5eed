"""`hyplearn data verify`: look through the files of a data set."""

from __future__ import annotations

import json
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from hyplearn.cli.parser import WIDTH, Parser, folder
from hyplearn.config.compose import compose, parse
from hyplearn.config.explain import unknown_choice
from hyplearn.config.folders import config_folders, groups
from hyplearn.errors import FAILED, OK, ConfigError, listing

DESCRIPTION = """
Read the lists of a data set and decode every image once; change and download nothing. Says how many
classes and images there are, of how many in the published archive, names every problem with its file
and line (missing and broken images, lines that cannot be read), and where to get the set and what to
place where. A part of a published set can be trained on and counts as clean. Without dataset.root the
folder is $HYPLEARN_DATA, or data/ here."""


def data_parser() -> Parser:
    """Make the parser of the command."""
    names = textwrap.fill(listing(groups(config_folders())["dataset"]), WIDTH - 2, subsequent_indent="  ")
    parser = Parser(
        "data",
        DESCRIPTION,
        examples="""
hyplearn data verify cub
hyplearn data verify inshop dataset.root=/data --json
hyplearn data verify image_folder_retrieval dataset.root=photos dataset.source.test_fraction=0.5""",
        more=f"data sets:\n  {names}\n\nExit status: 0 clean, 1 problems found, 2 a mistake in the command.",
    )
    parser.add_argument("command", nargs="?", metavar="verify", complete="words", help="the one thing to do")
    parser.add_argument("dataset", nargs="?", complete="words", help="a data set of the list below")
    parser.add_argument("overrides", nargs="*", complete="words", help="dataset.root=<folder>, dataset.key=value")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    parser.add_argument(
        "--config-dir",
        type=folder,
        action="append",
        default=[],
        metavar="DIR",
        help="further choices for the groups: DIR/dataset/mine.yaml makes a data set mine",
    )
    return parser


def data(argv: Sequence[str]) -> int:
    """Run `hyplearn data <argv>`; there is one command, verify."""
    options = data_parser().parse_intermixed_args(list(argv))
    if options.command != "verify":
        asked = "a command" if options.command is None else f"another command than {options.command}"
        raise ConfigError(f"hyplearn data needs {asked}: hyplearn data verify <dataset> (see hyplearn data --help)")
    if options.dataset is None or "=" in options.dataset:
        raise ConfigError("hyplearn data verify needs a data set: hyplearn data verify cub (see hyplearn data --help)")
    return verify(options.dataset, options.overrides, as_json=options.json, extra=options.config_dir)


def verify(name: str, overrides: Sequence[str], *, as_json: bool = False, extra: Sequence[Path] = ()) -> int:
    """Print what the data set `name` of configs/dataset holds and what is wrong with it: 0 clean, 1 problems.

    overrides: of the dataset, such as dataset.root=<folder>. as_json: one object instead of text.
    """
    known = groups(config_folders(extra))["dataset"]
    if name not in known:
        raise unknown_choice("dataset", name, known)
    for text in overrides:
        if not parse(text).key_or_group.startswith("dataset."):
            raise ConfigError(f"{text} would be ignored: verify reads keys of the data set, such as dataset.root.")
    composed = compose([f"dataset={name}", *overrides], extra=extra)
    from hyplearn.config.build import make
    from hyplearn.data.datamodule import ImageDataModule
    from hyplearn.data.verify import verify as verify_files

    data = make(composed.config["dataset"], "dataset", seed=composed.config["seed"])
    assert isinstance(data, ImageDataModule)
    try:
        report = verify_files(data.source, data.root, progress=None if as_json else _progress())
    except ValueError as error:
        raise ConfigError(f"dataset={name}: {error}") from error
    print(json.dumps(report.to_dict(), indent=2) if as_json else report.render())
    return OK if report.clean else FAILED


def _progress() -> Callable[[int, int], None] | None:
    """Tells a terminal how far it is, once a second."""
    if not sys.stderr.isatty():
        return None
    told = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told >= 1 or done == total:
            told = time.monotonic()
            print(f"\r{done:,} of {total:,} images", end="\n" if done == total else "", file=sys.stderr, flush=True)

    return tell

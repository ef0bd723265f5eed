"""`hyplearn data verify` and `hyplearn data shard`: look through the files of a data set, or pack them into shards."""

from __future__ import annotations

import json
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hyplearn.cli.parser import WIDTH, Parser, at_least, folder
from hyplearn.config.compose import compose, parse
from hyplearn.config.explain import unknown_choice
from hyplearn.config.folders import config_folders, groups
from hyplearn.errors import FAILED, OK, ConfigError, listing

if TYPE_CHECKING:
    from hyplearn.data.datamodule import ImageDataModule

DESCRIPTION = """
verify: read the lists of a data set and decode every image once; change and download nothing. Says how many
classes and images there are, of how many in the published archive, names every problem with its file
and line (missing and broken images, lines that cannot be read), and where to get the set and what to
place where. A part of a published set can be trained on and counts as clean. Without dataset.root the
folder is $HYPLEARN_DATA, or data/ here. shard: copy the images as they are into tar files, the shards,
of many images each, with an index of where each lies, in a new folder. dataset=shards, or
dataset=shards_retrieval for a retrieval set, with dataset.root=<that folder> trains on them."""


def data_parser() -> Parser:
    """Make the parser of the command."""
    names = textwrap.fill(listing(groups(config_folders())["dataset"]), WIDTH - 2, subsequent_indent="  ")
    parser = Parser(
        "data",
        DESCRIPTION,
        examples="""
hyplearn data verify cub
hyplearn data verify inshop dataset.root=/data --json
hyplearn data verify image_folder_retrieval dataset.root=photos dataset.source.test_fraction=0.5
hyplearn data shard image_folder dataset.root=photos --to shards""",
        more=f"data sets:\n  {names}\n\nExit status: 0 clean, 1 problems found, 2 a mistake in the command.",
    )
    parser.add_argument("command", nargs="?", metavar="verify | shard", complete="words", help="what to do")
    parser.add_argument("dataset", nargs="?", complete="words", help="a data set of the list below")
    parser.add_argument("overrides", nargs="*", complete="words", help="dataset.root=<folder>, dataset.key=value")
    parser.add_argument("--json", action="store_true", help="verify: one JSON object instead of text")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="shard: where to; a new folder")
    parser.add_argument("--shard-mib", type=at_least(1), metavar="N", help="shard: MiB of a shard, default 1024")
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
    """Run `hyplearn data <argv>`."""
    options = data_parser().parse_intermixed_args(list(argv))
    if options.command not in ("verify", "shard"):
        asked = "a command" if options.command is None else f"another command than {options.command}"
        raise ConfigError(
            f"hyplearn data needs {asked}: hyplearn data verify <dataset>, or hyplearn data shard <dataset> --to "
            "<folder> (see hyplearn data --help)"
        )
    if options.dataset is None or "=" in options.dataset:
        raise ConfigError(
            f"hyplearn data {options.command} needs a data set: hyplearn data {options.command} cub (see hyplearn data "
            "--help)"
        )
    if options.command == "verify":
        if options.to is not None or options.shard_mib is not None:
            raise ConfigError("--to and --shard-mib belong to hyplearn data shard: leave them out, or shard")
        return verify(options.dataset, options.overrides, as_json=options.json, extra=options.config_dir)
    if options.to is None or options.json:
        raise ConfigError("hyplearn data shard needs --to <a new folder>, and has no --json")
    return shard(options.dataset, options.overrides, options.to, mib=options.shard_mib, extra=options.config_dir)


def shard(name: str, overrides: Sequence[str], to: Path, *, mib: int | None = None, extra: Sequence[Path] = ()) -> int:
    """Pack the images of the data set `name` of configs/dataset into shards of `mib` MiB in the new folder `to`."""
    data = _data_of(name, overrides, extra, "shard")
    from hyplearn.console.counting import counting
    from hyplearn.data.sources.shard_writing import SHARD_MIB, write_shards

    try:
        data.source.prepare(data.root)
        with counting("images") as tell:
            written = write_shards(data.source, data.root, to, shard_mib=mib or SHARD_MIB, tell=tell)
    except ValueError as error:
        raise ConfigError(f"dataset={name}: {error}") from error
    choice = "shards_retrieval" if hasattr(data.source, "part") else "shards"
    print(f"{', '.join(f'{count:,} {part}' for part, count in written.items())} images in {to}")
    print(f"train on them with dataset={choice} dataset.root={to}")
    return OK


def verify(name: str, overrides: Sequence[str], *, as_json: bool = False, extra: Sequence[Path] = ()) -> int:
    """Print what the data set `name` of configs/dataset holds and what is wrong with it: 0 clean, 1 problems.

    overrides: of the dataset, such as dataset.root=<folder>. as_json: one object instead of text.
    """
    data = _data_of(name, overrides, extra, "verify")
    from hyplearn.data.verify import verify as verify_files

    try:
        report = verify_files(data.source, data.root, progress=None if as_json else _progress())
    except ValueError as error:
        raise ConfigError(f"dataset={name}: {error}") from error
    print(json.dumps(report.to_dict(), indent=2) if as_json else report.render())
    return OK if report.clean else FAILED


def _data_of(name: str, overrides: Sequence[str], extra: Sequence[Path], command: str) -> ImageDataModule:
    """Make the data of configs/dataset. Raises ConfigError that says what is wrong with the command line."""
    known = groups(config_folders(extra))["dataset"]
    if name not in known:
        raise unknown_choice("dataset", name, known)
    for text in overrides:
        if not parse(text).key_or_group.startswith("dataset."):
            raise ConfigError(f"{text} would be ignored: {command} reads keys of the data set, such as dataset.root.")
    composed = compose([f"dataset={name}", *overrides], extra=extra)
    from hyplearn.config.build import make
    from hyplearn.data.datamodule import ImageDataModule

    data = make(composed.config["dataset"], "dataset", seed=composed.config["seed"])
    assert isinstance(data, ImageDataModule)
    return data


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

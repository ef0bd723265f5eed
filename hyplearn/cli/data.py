"""`hyplearn data verify`: look over the files of a data set."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from hyplearn.cli.compose import compose, unknown_choice
from hyplearn.cli.configs import config_dir, groups
from hyplearn.cli.errors import FAILED, OK, ConfigError


def verify(name: str, overrides: Sequence[str], *, as_json: bool = False, extra: Sequence[Path] = ()) -> int:
    """Print what the data set `name` of configs/dataset holds and what is wrong with it: 0 clean, 1 problems.

    overrides: of the dataset, such as dataset.root=<folder>. as_json: one object instead of text.
    """
    known = groups([config_dir(), *extra])["dataset"]
    if name not in known:
        raise unknown_choice("dataset", name, known)
    composed = compose([f"dataset={name}", *overrides], extra=extra)
    from hyplearn.cli.build import make
    from hyplearn.data.datamodule import ImageDataModule
    from hyplearn.data.verify import verify as look

    data = make(composed.config["dataset"], "dataset", seed=composed.config["seed"])
    assert isinstance(data, ImageDataModule)
    try:
        report = look(data.source, data.root, progress=None if as_json else _progress())
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

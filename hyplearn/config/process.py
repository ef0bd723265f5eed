"""The command line and the environment of this process, as they were typed and as Hydra has to see them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

FULL_ERROR = "HYDRA_FULL_ERROR"  # with it Hydra raises what it otherwise prints and hides behind exit status 1

_typed: list[tuple[list[str], str | None]] = []  # the command line and FULL_ERROR, while Hydra sees others


@contextmanager
def read_by_hydra(arguments: Sequence[str]) -> Iterator[None]:
    """Let Hydra, which takes no arguments but those of the process, read `arguments` and raise its errors."""
    _typed.append((sys.argv, os.environ.get(FULL_ERROR)))
    _set([sys.argv[0], *arguments], "1")
    try:
        yield
    finally:
        _set(*_typed.pop())


@contextmanager
def as_typed() -> Iterator[None]:
    """Show what Hydra's callbacks and jobs start the process as it was typed: Lightning starts it once more per GPU."""
    if not _typed:  # the process of another launcher, which Hydra did not read
        yield
        return
    seen = sys.argv, os.environ.get(FULL_ERROR)
    _set(*_typed[-1])
    try:
        yield
    finally:
        _set(*seen)


def _set(argv: list[str], full_error: str | None) -> None:
    sys.argv = argv
    if full_error is None:
        os.environ.pop(FULL_ERROR, None)
    else:
        os.environ[FULL_ERROR] = full_error

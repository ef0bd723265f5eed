"""Folders for what is derived from data, and the lock by which one process makes it while the others wait."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from hyplearn.runs.names import LOCK


def user_cache() -> Path:
    """Return the folder for small files that may be deleted at any time: $HYPLEARN_CACHE, or below ~/.cache."""
    own = os.environ.get("HYPLEARN_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "hyplearn"


@contextmanager
def alone_with(path: Path) -> Iterator[None]:
    """Let one process at a time into the block for `path`; the system frees the lock of one that was killed.

    Raises OSError where the folder of `path` cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}{LOCK}")):
        yield

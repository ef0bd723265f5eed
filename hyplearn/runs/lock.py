"""One process at a time trains in a run directory or writes there; when it ends, however, the system frees the lock."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from hyplearn.errors import ConfigError
from hyplearn.runs.atomic import write_json
from hyplearn.runs.bounded import read_text
from hyplearn.runs.names import CLAIM, HOLDER, LOCK

LOCK_FILES = (LOCK, HOLDER, CLAIM)
TRAINED = "trained"


@contextmanager
def occupied(run_dir: Path, *, doing: str = TRAINED) -> Iterator[None]:
    """Keep `run_dir` for this process inside the block. Raises ConfigError where another process has it.

    doing: what others are told happens to the directory, as in "is being trained by process 123".
    """
    lock = FileLock(run_dir / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        who, what = _holder(run_dir)
        raise ConfigError(f"{run_dir} is being {what} by {who}: wait for it, or stop it.") from error
    try:
        write_json(run_dir / HOLDER, {"host": platform.node(), "pid": os.getpid(), "doing": doing})
        yield
    finally:
        (run_dir / HOLDER).unlink(missing_ok=True)
        lock.release()


def occupant(run_dir: Path) -> str | None:
    """`process 123 on host`, which holds `run_dir` now; None if nobody does, or one that was killed did."""
    if not (run_dir / LOCK).exists():
        return None
    lock = FileLock(run_dir / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return _holder(run_dir)[0]
    lock.release()
    return None


def _holder(run_dir: Path) -> tuple[str, str]:
    """Who holds the directory, and what it does to it."""
    try:
        found = json.loads(read_text(run_dir / HOLDER))
        return f"process {found['pid']} on {found['host']}", str(found.get("doing", TRAINED))
    except (OSError, ValueError, LookupError, TypeError):  # not yet written, or damaged: the lock itself is what counts
        return "another process", TRAINED

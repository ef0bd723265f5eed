"""One process trains in a run directory at a time. When it ends, however it ends, the system gives the lock back."""

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
from hyplearn.runs.names import CLAIM, HOLDER, LOCK

LOCK_FILES = (LOCK, HOLDER, CLAIM)


@contextmanager
def occupied(run_dir: Path) -> Iterator[None]:
    """Keep `run_dir` for this process inside the block. Raises ConfigError where another process has it."""
    lock = FileLock(run_dir / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise ConfigError(f"{run_dir} is being trained by {_holder(run_dir)}: wait for it, or stop it.") from error
    try:
        write_json(run_dir / HOLDER, {"host": platform.node(), "pid": os.getpid()})
        yield
    finally:
        (run_dir / HOLDER).unlink(missing_ok=True)
        lock.release()


def occupant(run_dir: Path) -> str | None:
    """`process 123 on host`, which trains in `run_dir` now; None if nobody does, or one that was killed did."""
    if not (run_dir / LOCK).exists():
        return None
    lock = FileLock(run_dir / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return _holder(run_dir)
    lock.release()
    return None


def _holder(run_dir: Path) -> str:
    try:
        found = json.loads((run_dir / HOLDER).read_text())
        return f"process {found['pid']} on {found['host']}"
    except (OSError, ValueError, LookupError, TypeError):  # not yet written, or damaged: the lock itself is what counts
        return "another process"

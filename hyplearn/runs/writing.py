"""One process at a time writes into a run directory, whatever it writes there, and learns early where it may not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from hyplearn.errors import ConfigError
from hyplearn.runs.lock import occupied
from hyplearn.runs.names import CHECKPOINTS, CONFIG, LOCK, MANIFEST
from hyplearn.runs.rank import first_process

OF_A_RUN = (LOCK, MANIFEST, CHECKPOINTS)  # beside a configuration, which an export has, too


@contextmanager
def writing(path: Path | None) -> Iterator[None]:
    """Let a command write the file or folder `path`, and hold the run directory in which it lies, if it lies in one.

    None is for a command that writes to the terminal. Raises ConfigError, before anything is computed, where another
    process holds the run directory, or where the system lets nobody write.
    """
    if path is None:
        yield
        return
    check_writable(path)
    run_dir = run_around(path) if first_process() else None
    with nullcontext() if run_dir is None else occupied(run_dir, doing="written to"):
        yield


def run_around(path: Path) -> Path | None:
    """Return the run directory in which `path` lies, or would lie. Links are followed. None if there is none."""
    place, here = Path(os.path.realpath(path)), Path(os.path.realpath(Path.cwd()))
    for folder in (place, *place.parents):
        if (folder / CONFIG).is_file() and any((folder / name).exists() for name in OF_A_RUN):
            return folder.relative_to(here) if folder.is_relative_to(here) else folder
    return None


def check_writable(path: Path) -> None:
    """Raise ConfigError where nothing can be written at `path`: the folder that is to hold it takes no new names."""
    above = path.absolute()
    folder = next(place for place in (above, *above.parents) if place.exists())
    if folder == above and not folder.is_dir():
        folder = folder.parent  # the file is replaced as a whole
    if not folder.is_dir():
        raise ConfigError(f"{path} cannot be made: {folder} is a file. Choose another place.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"{path} cannot be written: {folder} gives no right to. Choose another place.")

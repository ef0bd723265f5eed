"""Where a new run writes: a directory that no other run can get."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from hyplearn.errors import ConfigError
from hyplearn.runs.directory import RunDirectory, timestamp
from hyplearn.runs.lock import LOCK_FILES
from hyplearn.runs.rank import first_process
from hyplearn.runs.writing import check_writable

OUTPUTS = Path("outputs")
# Where the first process of a distributed run tells those it starts for the other devices which directory it took.
INHERITED = "HYPLEARN_RUN_DIR"


def run_name(choices: Mapping[str, str | None]) -> str:
    """Name the folder that collects runs of one kind: the experiment, or model and dataset."""
    experiment = choices.get("experiment")
    return experiment.replace("/", "_") if experiment else f"{choices['model']}_{choices['dataset']}"


def new_run(output_dir: str | None, name: str, seed: int) -> RunDirectory:
    """Make the directory of a new run. Raises ConfigError where `output_dir` already holds something."""
    if output_dir:
        return RunDirectory(claim(Path(output_dir)) if first_process() else Path(output_dir))
    if not first_process() and INHERITED in os.environ:
        return RunDirectory(Path(os.environ[INHERITED]))
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("processes started side by side must share a directory: give all the same output_dir=...")
    path = new_directory(OUTPUTS / name, f"seed{seed}")
    os.environ[INHERITED] = str(path.resolve())
    return RunDirectory(path)


def new_directory(parent: Path, label: str) -> Path:
    """Make `<parent>/<date>_<time>_<label>_<4 hex>`; two runs of the same second get two directories."""
    while True:
        path = parent / f"{timestamp()}_{label}_{secrets.token_hex(2)}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        return path


def claim(path: Path) -> Path:
    """Make `path`, or take it if it is there and empty but for the lock of a run that was killed at its start."""
    if path.exists() and (not path.is_dir() or any(entry.name not in LOCK_FILES for entry in path.iterdir())):
        raise ConfigError(f"output_dir={path} is not empty: choose another, or continue its run with resume={path}.")
    return made(path)


def made(path: Path) -> Path:
    """Make a directory that was typed. Raises ConfigError where none can be made, or nothing can be written in it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{path} cannot be made: {error.strerror}. Choose another directory.") from error
    check_writable(path)
    return path

"""Where a run writes: a new directory that no other run can get, or the one it continues."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from hyplearn.errors import ConfigError, listing
from hyplearn.runs.atomic import write_yaml
from hyplearn.runs.directory import CONFIG, Run
from hyplearn.runs.identity import run_id
from hyplearn.runs.lock import LOCK_FILES

OUTPUTS = Path("outputs")
# Where the first process of a distributed run tells those it starts for the other devices which directory it took.
INHERITED = "HYPLEARN_RUN_DIR"
# What may differ between a run and its continuation.
_NOT_THE_RUN = ("output_dir", "resume")


def run_name(choices: Mapping[str, str | None]) -> str:
    """The folder that collects runs of one kind: the experiment, or model and dataset."""
    experiment = choices.get("experiment")
    return experiment.replace("/", "_") if experiment else f"{choices['model']}_{choices['dataset']}"


def run_directory(output_dir: str | None, name: str, seed: int) -> Path:
    """The directory of a new run, made here. Raises ConfigError where `output_dir` already holds something."""
    if output_dir:
        return claim(Path(output_dir)) if first_process() else Path(output_dir)
    if not first_process() and INHERITED in os.environ:
        return Path(os.environ[INHERITED])
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("processes started side by side must share a directory: give all the same output_dir=...")
    path = new_directory(OUTPUTS / name, f"seed{seed}")
    os.environ[INHERITED] = str(path.resolve())
    return path


def new_directory(parent: Path, label: str) -> Path:
    """Make `<parent>/<date>_<time>_<label>_<4 hex>`; two runs of the same second get two directories."""
    while True:
        path = parent / f"{_stamp()}_{label}_{secrets.token_hex(2)}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        return path


def new_evaluation(run_dir: Path) -> Path:
    """The name of a file for the results of one more evaluation of a run."""
    return run_dir / "evaluations" / f"{_stamp()}_{secrets.token_hex(2)}.json"


def claim(path: Path) -> Path:
    """Make `path`, or take it if it is there and empty but for the lock of a run that was killed at its start."""
    if path.exists() and (not path.is_dir() or any(entry.name not in LOCK_FILES for entry in path.iterdir())):
        raise ConfigError(f"output_dir={path} is not empty: choose another, or continue its run with resume={path}.")
    path.mkdir(parents=True, exist_ok=True)
    return path


def locate(path: Path) -> Path:
    """The run directory `path`, or that of the checkpoint `path`. Raises ConfigError if there is none."""
    if not path.exists():
        raise ConfigError(f"{path} does not exist: name a run directory or one of its checkpoints.")
    run_dir = path if path.is_dir() else path.parent.parent
    if not (run_dir / CONFIG).is_file():
        raise ConfigError(f"{run_dir} is no run directory: it has no {CONFIG}.")
    return run_dir


def to_continue(path: Path) -> Path:
    """The checkpoint `path`, or the last one of the run directory `path`. Raises ConfigError if it has none."""
    checkpoint = last_checkpoint(path) if path.is_dir() else path
    if checkpoint is None:
        raise ConfigError(f"{path} has no checkpoint: the run stopped before its first one. Start it anew.")
    return checkpoint


def last_checkpoint(run_dir: Path) -> Path | None:
    """The checkpoint that continues the run, None if there is none yet."""
    path = run_dir / "checkpoints" / "last.ckpt"
    return path if path.is_file() else None


def stored_config(run_dir: Path) -> dict[str, Any]:
    """The resolved configuration that a run left."""
    return Run(run_dir).config


def store_config(run_dir: Path, config: Mapping[str, Any]) -> None:
    """Leave the resolved configuration in the run directory; from there it is evaluated and continued."""
    if first_process():
        write_yaml(run_dir / CONFIG, config)


def unfinished(parent: Path, config: Mapping[str, Any]) -> tuple[Path, Path] | tuple[None, None]:
    """Directory and checkpoint of the newest run below `parent` with this configuration that has not ended."""
    for path in sorted(parent.glob(f"*/{CONFIG}"), reverse=True):
        run_dir, checkpoint = path.parent, last_checkpoint(path.parent)
        if checkpoint and not finished(run_dir) and _essence(stored_config(run_dir)) == _essence(config):
            return run_dir, checkpoint
    return None, None


def reopen(run_dir: Path, config: Mapping[str, Any]) -> tuple[Path, Path | None] | tuple[None, None]:
    """`run_dir` and its checkpoint, if a run of this configuration began there; nothing if none did.

    Where and how it is computed and watched may differ, see `papers.identity`.
    """
    if not (run_dir / CONFIG).is_file():
        return None, None
    stored = _essence(stored_config(run_dir))
    wanted = _essence(config)
    if run_id(stored) != run_id(wanted):
        differing = [key for key in {**stored, **wanted} if stored.get(key) != wanted.get(key)]
        raise ConfigError(
            f"resume=auto: {run_dir} holds a run that differs in {listing(differing)}. Choose another output_dir, or "
            f"continue that run as it is with resume={run_dir}."
        )
    if finished(run_dir):
        raise ConfigError(f"resume=auto: the run in {run_dir} is finished. Choose another output_dir to repeat it.")
    return run_dir, last_checkpoint(run_dir)


def finished(run_dir: Path) -> bool:
    """Whether the run came to its end and left results."""
    results = run_dir / "results.json"
    return results.is_file() and json.loads(results.read_text())["status"] == "finished"


def _essence(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in _NOT_THE_RUN}


def _stamp() -> str:
    return datetime.now().strftime("%Y-%m-%d_%H-%M-%S")


def first_process() -> bool:
    """Whether this process is the only one, or the one of rank 0. Read from what torchrun, SLURM and Lightning set."""
    ranks = (os.environ.get(name, "0") for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))
    return all(rank == "0" for rank in ranks)

"""Run directories as earlier runs may have left them, without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hyplearn.runs.directory import RunDirectory

CONFIG: dict[str, Any] = {"seed": 1, "optim": {"lr": 1e-5}, "output_dir": None, "resume": None}


def left_behind(name: str, *, status: str | None = None, checkpoint: bool = True, seed: int = 1) -> RunDirectory:
    """A run of CONFIG below outputs/kind of the current directory."""
    run = RunDirectory(Path("outputs/kind") / name)
    run.last_file.parent.mkdir(parents=True)
    run.write_config({**CONFIG, "seed": seed, "output_dir": str(run.path)})
    if checkpoint:
        run.last_file.touch()
    if status:
        run.write_results({"status": status})
    return run

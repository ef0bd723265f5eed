"""What the end of a training tells: which pictures to look at, and commands that go on with the run. No torch."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

from hyplearn.runs.directory import RunDirectory

PICTURES = {  # the first two that a run has are named
    True: ("gallery.png", "recall.png", "loss.png"),
    False: ("accuracy.png", "curvature.png", "loss.png"),
}


def next_steps(run_dir: Path, *, retrieval: bool) -> str:
    """Return what to look at and what to type next, as lines for the terminal."""
    record, run = RunDirectory(run_dir), shlex.quote(str(run_dir))
    drawn = [name for name in PICTURES[retrieval] if (record.figures / name).is_file()][:2]
    looks = [f"look at:   {record.figures / name}" for name in drawn]
    commands = [f"plot embeddings {run}", f"predict {run} <folder of pictures>"]
    if not retrieval:
        commands = [f"evaluate {run}", f"predict {run} <folder of pictures> --top 3"]
    words = ["type next:", *[" " * 10] * (len(commands) - 1)]
    return "\n".join([*looks, *(f"{word} {program()} {line}" for word, line in zip(words, commands, strict=True))])


def program() -> str:
    """Return how `hyplearn` is typed here: by its path where the shell does not find it by its name."""
    own = Path(sys.executable).parent / "hyplearn"
    found = shutil.which("hyplearn")
    if found is not None or not own.is_file():
        return "hyplearn"
    here = Path.cwd()
    return shlex.quote(str(own.relative_to(here) if own.is_relative_to(here) else own))

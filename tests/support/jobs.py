"""Jobs that run in this process, or not at all: ways to start a job in place of `processes.Child`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hydra.core.override_parser.types import Override

from hyplearn.config.compose import load, parse
from hyplearn.errors import FAILED, OK
from hyplearn.jobs.grid import composed_all, expand
from hyplearn.jobs.launcher import Job, Launcher, Stopped
from hyplearn.jobs.processes import Process
from hyplearn.jobs.sweep import group_of, job_of, run_sweep
from hyplearn.runs.creation import OUTPUTS, new_directory

# Runs one command line of `hyplearn`; returns its exit status and the reason of a failure.
Runner = Callable[[Sequence[str]], tuple[int, str]]


class Over:
    """A job that is over when it was started."""

    def __init__(self, status: int, reason: str) -> None:
        self.status, self.why = status, reason

    def poll(self) -> int | None:
        return self.status

    def send_signal(self, signum: int) -> None:
        """There is nobody to hear it."""

    def reason(self) -> str:
        return self.why


class InThread(Over):
    """A job that runs in a thread of this process."""

    def __init__(self, run: Runner, arguments: Sequence[str]) -> None:
        super().__init__(0, "")
        self.thread = threading.Thread(target=self._run, args=(run, arguments))
        self.thread.start()

    def _run(self, run: Runner, arguments: Sequence[str]) -> None:
        self.status, self.why = run(arguments)

    def poll(self) -> int | None:
        return None if self.thread.is_alive() else self.status


def at_once(run: Runner) -> Callable[[Job, Mapping[str, str], bool], Process]:
    """Start a job by a call of `run`, which returns when the job is over."""
    return lambda job, variables, shown: Over(*run(job.arguments))


def in_thread(run: Runner) -> Callable[[Job, Mapping[str, str], bool], Process]:
    """Start a job by a call of `run` in a thread."""
    return lambda job, variables, shown: InThread(run, job.arguments)


def parsed(overrides: Sequence[str]) -> list[Override]:
    """What was typed, as the sweeper reads it."""
    return [parse(text) for text in overrides]


def sweep(overrides: Sequence[str], *, launcher: Launcher) -> int:
    """Run a grid as `train -m` does, with another launcher and without building models to check it first."""
    typed = parsed(overrides)
    placed = [str(one.value()) for one in typed if one.key_or_group == "output_dir"]
    combinations = expand([one for one in typed if one.key_or_group != "output_dir"])
    folder = Path(placed[0]) if placed else new_directory(OUTPUTS / "multirun", f"{len(combinations)}jobs")
    found = composed_all(combinations, lambda line: load(line, ()))
    jobs: list[Job] = []
    for number, one in enumerate(found):
        run_dir = folder / one.combination.folder_name(number, len(found))
        group = group_of(one.overrides, folder)
        jobs.append(job_of(number, one.overrides, run_dir, varied=one.combination.varied, parts=group))
        jobs[-1].same_as = None if one.same_as is None else jobs[one.same_as]
    try:
        run_sweep(folder, jobs, launcher)
    except Stopped as stop:
        return stop.exit_status
    return OK if all(job.state.good for job in jobs) else FAILED

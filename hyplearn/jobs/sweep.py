"""The jobs of a multirun: run, taken up again where a sweep was killed, and noted in summary.json and summary.csv."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hyplearn.config.explain import quoted
from hyplearn.errors import OK, ConfigError
from hyplearn.jobs.launcher import Job, JobState, Launcher, signals_raise
from hyplearn.jobs.sweep_summary import in_sweep, print_summary, stored_summary, summary_of
from hyplearn.runs.directory import RunDirectory
from hyplearn.runs.lock import occupant

WAIT = 1.0  # seconds between two looks at a job that an earlier command left running
PATIENCE = 120.0  # seconds that such a job has to write its checkpoint and end


def run_sweep(folder: Path, jobs: Sequence[Job], launcher: Launcher) -> list[Job]:
    """Run the jobs of a sweep that lies in `folder`, print the table, and return them with their states.

    summary.json and summary.csv of the folder are up to date all the time. Where a summary of the same jobs is there
    already, what is finished is not run again, and what was interrupted or failed is continued: with `resume=auto` on
    its command line. A job that comes with a state other than WAITING is not run, one that is the same run as another
    takes over how that one ended.
    Raises ConfigError where the folder holds other jobs. Raises Stopped after a signal, once all is ended and printed.
    """
    take_up(folder, jobs)
    summary = summary_of(folder, jobs)
    try:
        with signals_raise():
            _run_all(summary.write, jobs, launcher)
    finally:
        share(jobs)
        summary.write()
        print_summary(summary)
    return list(jobs)


def job_of(
    number: int, overrides: Sequence[str], run_dir: Path, *, varied: Mapping[str, str], parts: Sequence[str] = ()
) -> Job:
    """A job of a sweep. parts: of its command line, besides the overrides and what places it in its directory."""
    return Job(
        name=str(number),
        arguments=("train", *parts, *overrides, f"output_dir={quoted(run_dir)}"),
        run_dir=run_dir,
        overrides=tuple(overrides),
        varied=varied,
    )


def group_of(overrides: Sequence[str], folder: Path) -> list[str]:
    """The override that groups the jobs of a sweep at W&B by its folder, none where a group was typed."""
    if any(text.lstrip("+").startswith("logger.group=") for text in overrides):
        return []
    return [f"logger.group={quoted(folder.name)}"]


def _run_all(save: Callable[[], None], jobs: Sequence[Job], launcher: Launcher) -> None:
    """Run the jobs that are left, and keep the summary up to date."""
    save()
    for job in launcher.launch(_waiting(jobs), save):
        print(f"[job {job.name}] {in_sweep(job)} in {job.seconds:.0f} s", flush=True)
        save()


def _waiting(jobs: Sequence[Job]) -> Iterator[Job]:
    """The jobs to start, announced as they are taken."""
    for job in jobs:
        same = "" if job.same_as is None else f": the same run as job {job.same_as.name}"
        earlier = ": finished before" if job.state is JobState.EARLIER else ""
        print(f"[job {job.name}] {' '.join(job.overrides)}{same}{earlier}", flush=True)
        if job.state is JobState.FAILED:
            print(f"error: {job.reason}", file=sys.stderr)
        elif job.state is JobState.WAITING and job.same_as is None:
            yield job


def share(jobs: Sequence[Job]) -> None:
    """Give the jobs that are the same run as another how that one ended."""
    for job in jobs:
        if job.same_as is not None:
            other = job.same_as
            job.state, job.status, job.reason, job.run_dir = other.state, other.status, other.reason, other.run_dir


def take_up(folder: Path, jobs: Sequence[Job]) -> None:
    """Note what an earlier command of the same sweep left."""
    stored = stored_summary(folder)
    if not stored:
        return
    if [_identity(row) for row in stored] != [_wanted(row, job) for row, job in itertools.zip_longest(stored, jobs)]:
        raise ConfigError(f"{folder} holds a sweep of other jobs: choose another folder for this one.")
    for row, job in zip(stored, jobs, strict=True):
        if job.same_as is None and job.state is JobState.WAITING:
            _continue(row, job)


def _identity(row: Mapping[str, Any] | None) -> tuple[str, Any]:
    """What tells a stored job from others. Summaries of before have no overrides."""
    return ("", None) if row is None else (str(row["job"]), row.get("overrides", row["varied"]))


def _wanted(row: Mapping[str, Any] | None, job: Job | None) -> tuple[str, Any]:
    if row is None or job is None:
        return ("missing", None)
    return job.name, list(job.overrides) if "overrides" in row else dict(job.varied)


def _continue(row: Mapping[str, Any], job: Job) -> None:
    _outwait(job)
    if row["exit_status"] == OK or RunDirectory(job.run_dir).finished:
        job.state, job.status, job.seconds = JobState.EARLIER, OK, row["seconds"]
    elif job.run_dir.is_dir():
        placed = any(text.startswith("output_dir=") for text in job.arguments)
        place = () if placed else (f"output_dir={quoted(job.run_dir)}",)
        job.arguments = (*job.arguments, *place, "resume=auto")


def _outwait(job: Job) -> None:
    """Wait for the end of a job whose command was killed: it writes its checkpoint now."""
    until = time.monotonic() + PATIENCE
    told = False
    while (holder := occupant(job.run_dir)) is not None:
        if time.monotonic() > until:
            raise ConfigError(f"job {job.name} is still being trained by {holder}: wait for it, or stop it.")
        if not told:
            print(f"[job {job.name}] waiting for {holder}", flush=True)
            told = True
        time.sleep(WAIT)

"""The jobs of a multirun: run, taken up again where a sweep was killed, and noted in summary.json and summary.csv."""

from __future__ import annotations

import itertools
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hyplearn.config.compose import compose, parse, quoted
from hyplearn.errors import CONFIG, FAILED, OK, ConfigError
from hyplearn.jobs.choices import values
from hyplearn.jobs.launcher import Job, JobState, Launcher, Stopped, signals_raise
from hyplearn.jobs.ledger import stored_jobs
from hyplearn.jobs.processes import Local
from hyplearn.jobs.sweep_summary import SUMMARY, in_sweep, print_summary, summary_of
from hyplearn.runs.directory import Run
from hyplearn.runs.lock import occupant
from hyplearn.runs.places import OUTPUTS, claim, new_directory

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
    _take_up(folder, jobs)
    summary = summary_of(folder, jobs)
    try:
        with signals_raise():
            _run_all(summary.write, jobs, launcher)
    finally:
        _share(jobs)
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


def _share(jobs: Sequence[Job]) -> None:
    """Give the jobs that are the same run as another how that one ended."""
    for job in jobs:
        if job.same_as is not None:
            other = job.same_as
            job.state, job.status, job.reason, job.run_dir = other.state, other.status, other.reason, other.run_dir


def _take_up(folder: Path, jobs: Sequence[Job]) -> None:
    """Note what an earlier command of the same sweep left."""
    stored = stored_jobs(folder, SUMMARY, "jobs")
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
    if row["exit_status"] == OK or Run(job.run_dir).finished:
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


class Combination(NamedTuple):
    """One combination of the typed values: all its overrides, and those of them that vary, by key."""

    overrides: tuple[str, ...]
    varied: Mapping[str, str]


def sweep(overrides: Sequence[str], *, extra: Sequence[Path] = (), launcher: Launcher | None = None) -> int:
    """Run all combinations in `overrides`; 0 if every job succeeded, 1 if one failed, 130 or 143 if stopped.

    launcher: runs the jobs, by default one after the other.
    Raises ConfigError if no combination can be composed; one that cannot beside others that can is a failed job.
    """
    output_dir, combinations = expand(overrides, extra=extra)
    composed = [_compose(combination, extra) for combination in combinations]
    mistakes = [found if isinstance(found, ConfigError) else None for found in composed]
    if all(mistakes):
        raise ConfigError("\n".join(dict.fromkeys(map(str, mistakes))))
    folder = _folder(output_dir, len(combinations))
    jobs = [_job(number, combinations, folder, extra) for number in range(len(combinations))]
    for number, job in enumerate(jobs):
        equal = _first_equal(composed, number)
        job.same_as = None if equal is None else jobs[equal]
        if mistakes[number] is not None:
            job.state, job.status, job.reason = JobState.FAILED, CONFIG, str(mistakes[number])
    try:
        run_sweep(folder, jobs, launcher or Local())
    except Stopped as stop:
        return stop.exit_status
    return OK if all(job.state.good for job in jobs) else FAILED


def _job(number: int, combinations: Sequence[Combination], folder: Path, extra: Sequence[Path]) -> Job:
    combination = combinations[number]
    parts = [part for path in extra for part in ("--config-dir", str(path))]
    return job_of(
        number,
        combination.overrides,
        folder / _folder_name(number, len(combinations), combination),
        varied=combination.varied,
        parts=[*parts, *group_of(combination.overrides, folder)],
    )


def expand(overrides: Sequence[str], *, extra: Sequence[Path] = ()) -> tuple[str | None, list[Combination]]:
    """The directory typed for the sweep, if any, and every combination; the last key varies fastest."""
    parsed = [parse(text) for text in overrides]
    typed = {override.key_or_group: override for override in parsed}
    if "resume" in typed:
        raise ConfigError("resume continues one run: name the directory of a job, without -m.")
    output_dir = typed.get("output_dir")
    if output_dir is not None and output_dir.is_sweep_override():
        raise ConfigError(f"{output_dir.input_line}: a multirun has one directory, with one below it for each job.")
    axes = [override for override in parsed if override is not output_dir]
    keys = [override.key_or_group for override in axes]
    named = [values(override, extra) for override in axes]
    varying = {key for key, options in zip(keys, named, strict=True) if len(options) > 1}
    combinations = []
    for combination in itertools.product(*named):
        pairs = list(zip(keys, combination, strict=True))
        varied = {key: value for key, value in pairs if key in varying}
        combinations.append(Combination(tuple(f"{key}={value}" for key, value in pairs), varied))
    return (None if output_dir is None else str(output_dir.value())), combinations


def _folder(output_dir: str | None, count: int) -> Path:
    """A new folder, or the one that was typed: with nothing in it, or with a sweep to go on with."""
    if output_dir is None:
        return new_directory(OUTPUTS / "multirun", f"{count}jobs")
    folder = Path(output_dir)
    return folder if stored_jobs(folder, SUMMARY, "jobs") else claim(folder)


def _compose(combination: Combination, extra: Sequence[Path]) -> dict[str, Any] | ConfigError:
    """What decides a job's result, or what is wrong with its configuration as far as composing it tells.

    A manifold without curvature reads nothing but its kind: a grid over c meets a model on the sphere once.
    """
    try:
        config = compose(combination.overrides, extra=extra).config
    except ConfigError as error:
        return error
    if config["manifold"].get("kind") in ("sphere", "euclidean"):
        config["manifold"] = {"kind": config["manifold"]["kind"]}
    return config


def _first_equal(composed: Sequence[dict[str, Any] | ConfigError], number: int) -> int | None:
    """The first job before `number` that is the same run, None if there is none."""
    if isinstance(composed[number], ConfigError):
        return None
    return next((other for other in range(number) if composed[other] == composed[number]), None)


def _folder_name(number: int, count: int, combination: Combination) -> str:
    """`03_manifold.c-0.5_seed-2`: sorts by number, needs no quoting in a shell or in Hydra's grammar."""
    summary = "_".join(f"{key}-{value}" for key, value in combination.varied.items())
    return f"{number:0{len(str(count - 1))}d}_{re.sub(r'[^A-Za-z0-9.+-]+', '_', summary)[:80]}".rstrip("_.")

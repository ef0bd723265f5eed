"""Multirun: every combination of the typed values, each in its own process and directory."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Glob, Override

from hyplearn.config.compose import compose, parse, quoted
from hyplearn.config.folders import config_dir, groups
from hyplearn.errors import CONFIG, FAILED, OK, ConfigError
from hyplearn.jobs.launcher import Launcher, Local, Runner, Stopped, Task, signals_raise
from hyplearn.jobs.sweep_summary import Outcome, print_summary, write_summary
from hyplearn.runs.creation import OUTPUTS, claim, new_directory
from hyplearn.runs.directory import RunDirectory


@dataclass(frozen=True)
class Job:
    """One combination: all its overrides, and those of them that vary, by key."""

    overrides: tuple[str, ...]
    varied: Mapping[str, str]


def sweep(
    overrides: Sequence[str],
    *,
    extra: Sequence[Path] = (),
    launcher: Launcher | None = None,
    run: Runner | None = None,
) -> int:
    """Run all combinations in `overrides`; 0 if every job succeeded, 1 if one failed, 130 or 143 if stopped.

    launcher: runs the jobs, by default one after the other. run: runs one of them in place of a process, for tests.
    Keeps summary.json and summary.csv in the directory of the sweep up to date, and prints the table at the end.
    Raises ConfigError if no combination can be composed; one that cannot beside others that can is a failed job.
    """
    output_dir, jobs = expand(overrides, extra=extra)
    composed = [_compose(job, extra) for job in jobs]
    mistakes = [found if isinstance(found, ConfigError) else None for found in composed]
    if all(mistakes):
        raise ConfigError("\n".join(dict.fromkeys(map(str, mistakes))))
    folder = claim(Path(output_dir)) if output_dir else new_directory(OUTPUTS / "multirun", f"{len(jobs)}jobs")
    outcomes = [
        Outcome(
            number,
            job.varied,
            folder / _folder_name(number, len(jobs), job),
            reason=None if mistakes[number] is None else str(mistakes[number]),
            same_as=_first_equal(composed, number),
        )
        for number, job in enumerate(jobs)
    ]
    try:
        with signals_raise():
            _run_all(folder, jobs, outcomes, launcher or Local(run=run), extra)
        status = OK if all(outcome.status == OK for outcome in outcomes) else FAILED
    except Stopped as stop:
        for outcome in outcomes:
            if outcome.running:
                outcome.status, outcome.reason = 128 + stop.signum, str(stop)
        write_summary(folder, outcomes)
        status = 128 + stop.signum
    print_summary(folder, outcomes)
    return status


def expand(overrides: Sequence[str], *, extra: Sequence[Path] = ()) -> tuple[str | None, list[Job]]:
    """The directory typed for the sweep, if any, and every combination; the last key varies fastest."""
    known = groups([config_dir(), *extra])
    parsed = [parse(text) for text in overrides]
    typed = {override.key_or_group: override for override in parsed}
    if "resume" in typed:
        raise ConfigError("resume continues one run: name the directory of a job, without -m.")
    output_dir = typed.get("output_dir")
    if output_dir is not None and output_dir.is_sweep_override():
        raise ConfigError(f"{output_dir.input_line}: a multirun has one directory, with one below it for each job.")
    axes = [override for override in parsed if override is not output_dir]
    keys = [override.key_or_group for override in axes]
    values = [_values(override, known) for override in axes]
    varying = {key for key, options in zip(keys, values, strict=True) if len(options) > 1}
    jobs = []
    for combination in itertools.product(*values):
        pairs = list(zip(keys, combination, strict=True))
        varied = {key: value for key, value in pairs if key in varying}
        jobs.append(Job(tuple(f"{key}={value}" for key, value in pairs), varied))
    return (None if output_dir is None else str(output_dir.value())), jobs


def _values(override: Override, known: Mapping[str, list[str]]) -> list[str]:
    """The values of one override, each as it would be typed alone."""
    key, value = override.key_or_group, override.value()
    if isinstance(value, Glob):
        values = value.filter(known.get(key, []))
        if not values:
            raise ConfigError(f"{override.input_line} matches no choice of {key}.")
        return values
    if not override.is_sweep_override():
        return [override.get_value_element_as_str()]
    if not override.is_discrete_sweep():
        raise ConfigError(f"{override.input_line}: a multirun needs single values: a,b,c or range(...) or choice(...).")
    return list(override.sweep_string_iterator())


def _compose(job: Job, extra: Sequence[Path]) -> dict[str, Any] | ConfigError:
    """What decides a job's result, or what is wrong with its configuration as far as composing it tells.

    A manifold without curvature reads nothing but its kind: a grid over c meets a model on the sphere once.
    """
    try:
        config = compose(job.overrides, extra=extra).config
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


def _folder_name(number: int, count: int, job: Job) -> str:
    """`03_manifold.c-0.5_seed-2`: sorts by number, needs no quoting in a shell or in Hydra's grammar."""
    summary = "_".join(f"{key}-{value}" for key, value in job.varied.items())
    return f"{number:0{len(str(count - 1))}d}_{re.sub(r'[^A-Za-z0-9.+-]+', '_', summary)[:80]}".rstrip("_.")


def _run_all(
    folder: Path, jobs: Sequence[Job], outcomes: Sequence[Outcome], launcher: Launcher, extra: Sequence[Path]
) -> None:
    """Run the jobs that are no repetitions, note how each ended, and keep the summary up to date."""
    write_summary(folder, outcomes)
    for task, ended in launcher.launch(_tasks(jobs, outcomes, extra=extra, group=folder.name)):
        outcome = outcomes[int(task.name)]
        outcome.running = False
        outcome.status, outcome.reason, outcome.seconds = ended
        outcome.results = RunDirectory(outcome.run_dir).results
        print(f"[job {outcome.number}] {outcome.state} in {outcome.seconds:.0f} s", flush=True)
        write_summary(folder, outcomes)
    for outcome in outcomes:
        if outcome.same_as is not None:
            outcome.copy(outcomes[outcome.same_as])
    write_summary(folder, outcomes)


def _tasks(jobs: Sequence[Job], outcomes: Sequence[Outcome], *, extra: Sequence[Path], group: str) -> Iterator[Task]:
    """The jobs to start, announced as they are taken. One with a known mistake is not started."""
    for job, outcome in zip(jobs, outcomes, strict=True):
        same = "" if outcome.same_as is None else f": the same run as job {outcome.same_as}"
        print(f"[job {outcome.number}] {' '.join(job.overrides)}{same}", flush=True)
        if outcome.same_as is not None:
            continue
        if outcome.reason is not None:
            outcome.status = CONFIG
            print(f"error: {outcome.reason}", file=sys.stderr)
            continue
        outcome.running = True
        yield Task(str(outcome.number), tuple(_command_line(job, outcome, extra=extra, group=group)))


def _command_line(job: Job, outcome: Outcome, *, extra: Sequence[Path], group: str) -> list[str]:
    own_group = any(text.startswith("logger.group=") for text in job.overrides)
    folders = itertools.chain(*(("--config-dir", str(folder)) for folder in extra))
    grouped = [] if own_group else [f"logger.group={group}"]
    return ["train", *folders, *job.overrides, f"output_dir={quoted(outcome.run_dir)}", *grouped]

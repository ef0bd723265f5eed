"""Multirun: every combination of the typed values, one job after another, each in its own process and directory.

A process per job, so that nothing one job does (a crash, memory the system took back, a seed) reaches another.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.core.override_parser.types import Glob, Override

import hyplearn
from hyplearn.cli.compose import compose, parse
from hyplearn.cli.configs import config_dir, groups
from hyplearn.cli.errors import CONFIG, FAILED, OK, ConfigError
from hyplearn.cli.rundir import OUTPUTS, claim, new_directory
from hyplearn.cli.summary import Outcome, print_summary, write_summary

KEPT_LINES = 40  # of what a job writes to stderr, to find the reason of a failure in


@dataclass(frozen=True)
class Job:
    """One combination: all its overrides, and those of them that vary, by key."""

    overrides: tuple[str, ...]
    varied: Mapping[str, str]


# Runs one command line of `hyplearn`; returns its exit status and the reason of a failure.
Runner = Callable[[Sequence[str]], tuple[int, str]]


class _Stopped(BaseException):
    """A signal asked the sweep to end. No `Exception`, as KeyboardInterrupt is none."""

    def __init__(self, signum: int) -> None:
        self.signum = signum
        super().__init__(f"stopped by {signal.Signals(signum).name}")


def sweep(overrides: Sequence[str], *, extra: Sequence[Path] = (), run: Runner | None = None) -> int:
    """Run all combinations in `overrides`; 0 if every job succeeded, 1 if one failed, 130 or 143 if stopped.

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
        with _signals_raise():
            for job, outcome in zip(jobs, outcomes, strict=True):
                if outcome.same_as is None:
                    _run(job, outcome, run or run_process, extra=extra, group=folder.name)
                else:
                    outcome.copy(outcomes[outcome.same_as])
                    print(f"[job {outcome.number}] {' '.join(job.overrides)}: the same run as job {outcome.same_as}")
                write_summary(folder, outcomes)
        status = OK if all(outcome.status == OK for outcome in outcomes) else FAILED
    except _Stopped as stop:
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


def run_process(arguments: Sequence[str]) -> tuple[int, str]:
    """Run `hyplearn <arguments>` in a process of its own, its stderr shown and its last lines searched for a reason.

    A signal to this process is passed on once; the job then writes its checkpoint, and the sweep ends.
    """
    source = str(Path(hyplearn.__file__).parents[1])  # a checkout need not be installed
    search = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    last: deque[str] = deque(maxlen=KEPT_LINES)
    with subprocess.Popen(
        [sys.executable, "-m", "hyplearn", *arguments],
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": search},
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C reaches the job through this process alone, hence once
    ) as process:
        assert process.stderr is not None
        try:
            _show(process.stderr, last)
        except _Stopped as stop:
            process.send_signal(stop.signum)
            _show(process.stderr, last)
            raise
    return process.returncode, failure_reason(process.returncode, last)


def failure_reason(status: int, lines: Iterable[str]) -> str:
    """What the last lines of a failed job say: its error message, or the last line of a traceback."""
    if status == OK:
        return ""
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    text = "".join(lines).strip()
    message = re.split(r"^error: ", text, flags=re.MULTILINE)
    return " ".join(message[-1].split()) if len(message) > 1 else (text.splitlines() or ["no message"])[-1]


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


def _run(job: Job, outcome: Outcome, run: Runner, *, extra: Sequence[Path], group: str) -> None:
    """Run one job and note how it ended. A job with a known mistake is not started."""
    print(f"[job {outcome.number}] {' '.join(job.overrides)}", flush=True)
    if outcome.reason is not None:
        outcome.status = CONFIG
        print(f"error: {outcome.reason}", file=sys.stderr)
        return
    own_group = any(text.startswith("logger.group=") for text in job.overrides)
    arguments = ["train", *itertools.chain(*(("--config-dir", str(folder)) for folder in extra)), *job.overrides]
    arguments += [f"output_dir={_quoted(outcome.run_dir)}", *([] if own_group else [f"logger.group={group}"])]
    started = time.monotonic()
    try:
        outcome.status, outcome.reason = run(arguments)
    except _Stopped as stop:
        outcome.status, outcome.reason = 128 + stop.signum, str(stop)
        raise
    finally:
        outcome.seconds = time.monotonic() - started
    results = outcome.run_dir / "results.json"
    outcome.results = json.loads(results.read_text()) if results.is_file() else {}


def _quoted(path: Path) -> str:
    """`path` as a text in Hydra's grammar."""
    return "'" + str(path).replace("\\", "\\\\").replace("'", "\\'") + "'"


def _show(stream: Iterable[str], last: deque[str]) -> None:
    for line in stream:
        sys.stderr.write(line)
        last.append(line)


@contextmanager
def _signals_raise() -> Iterator[None]:
    """SIGINT and SIGTERM raise _Stopped inside the block."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise _Stopped(signum)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

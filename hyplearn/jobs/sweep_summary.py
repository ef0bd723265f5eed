"""How the jobs of a multirun ended: columns of summary.json and summary.csv, and the tables at the end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from hyplearn.console.tables import show, table_of
from hyplearn.jobs.launcher import Job
from hyplearn.jobs.ledger import Ledger, Shown, in_words, stored_jobs
from hyplearn.papers.statistics import Spread, spread
from hyplearn.runs.directory import RunDirectory

SUMMARY = "summary"
# What a later command reads of a job in it, and the types that it may have.
_READ: Mapping[str, Any] = {
    "job": (str, int),
    "state": str,
    "exit_status": (int, type(None)),
    "seconds": (int, float, type(None)),
}
SHOWN = {
    "test/top1": "test top-1",
    "val/top1": "val top-1",
    "test/recall@1": "test R@1",
    "test/map@r": "test MAP@R",
    "test/backbone/recall@1": "backbone R@1",
    "val/recall@1": "val R@1",
}  # in percent


def summary_of(folder: Path, jobs: Sequence[Job]) -> Ledger[Job]:
    """The ledger of a sweep, which lies in its folder."""
    ended = {
        "state": in_sweep,
        "exit_status": lambda job: job.status,
        "reason": lambda job: job.reason,
        "seconds": lambda job: round(job.seconds, 1),
        "run_dir": lambda job: str(job.run_dir),
    }
    varied = {"varied": lambda job: dict(job.varied)}
    return Ledger(
        folder,
        SUMMARY,
        jobs,
        columns={"job": _number, **ended, **varied, "results": results, "overrides": lambda job: list(job.overrides)},
        lines={"job": _number, **varied, **ended, "results": _metrics},
        listed="jobs",
        head=lambda: {"sweep": folder.name, "over_seeds": [group.row() for group in over_seeds(jobs)]},
    )


def in_sweep(job: Job) -> str:
    """`ok`, `failed`, `not run`; and of which job it is the repetition."""
    state = in_words(job, FINISHED="ok", EARLIER="ok")
    return state if job.same_as is None else f"{state}, as job {job.same_as.name}"


def results(job: Job) -> dict[str, Any]:
    """What the run came to; empty before its end."""
    return {} if job.status is None else RunDirectory(job.run_dir).results_if_sound


def _number(job: Job) -> int | str:
    return int(job.name) if job.name.isdecimal() else job.name


def _metrics(job: Job) -> dict[str, Any]:
    """The rule that chose the epoch, and the metrics, each a column of the CSV file."""
    found = results(job)
    selection = found.get("selection") or {}
    chosen = {"selection": selection["rule"]} if "rule" in selection else {}
    return {**chosen, **found.get("metrics", {})}


class OverSeeds(NamedTuple):
    """Jobs that differ in their seed alone: what tells them from the others, and each metric over their seeds."""

    varied: Mapping[str, str]
    seeds: Sequence[str]
    metrics: Mapping[str, Spread]

    def row(self) -> dict[str, Any]:
        """What summary.json says of them."""
        metrics = {name: {"mean": found.mean, "std": found.std} for name, found in self.metrics.items()}
        return {"varied": dict(self.varied), "seeds": list(self.seeds), "metrics": metrics}


def over_seeds(jobs: Sequence[Job]) -> list[OverSeeds]:
    """Mean and spread over the seeds that are finished, where the seed is among what varies."""
    grouped: dict[tuple[tuple[str, str], ...], list[Job]] = defaultdict(list)
    for job in jobs:
        if "seed" in job.varied and job.state.good:
            grouped[tuple((key, value) for key, value in job.varied.items() if key != "seed")].append(job)
    return [OverSeeds(dict(key), [job.varied["seed"] for job in same], _spread(same)) for key, same in grouped.items()]


def _spread(jobs: Sequence[Job]) -> dict[str, Spread]:
    found = [results(job).get("metrics", {}) for job in jobs]
    spreads = {name: spread([metrics[name] for metrics in found if name in metrics]) for name in SHOWN}
    return {name: value for name, value in spreads.items() if value is not None}


def print_summary(summary: Ledger[Job]) -> None:
    """The table of all jobs, mean and spread over seeds, and why those that failed did."""
    jobs = summary.jobs
    shown = [name for name in SHOWN if any(name in results(job).get("metrics", {}) for job in jobs)]
    print(f"multirun {summary.folder}")
    summary.print(list(_columns(jobs, shown)))
    _print_seeds(over_seeds(jobs), shown)
    not_ok = [job for job in jobs if not job.state.good]
    for job in not_ok:
        print(f"job {job.name} {in_sweep(job)}: {job.reason or 'the sweep was stopped before'}")
    print(f"{len(jobs) - len(not_ok)} of {len(jobs)} jobs ok; see {summary.table}")


def _columns(jobs: Sequence[Job], shown: Sequence[str]) -> Iterator[Shown]:
    yield Shown("job", lambda job: job.name)
    for key in dict.fromkeys(key for job in jobs for key in job.varied):
        yield Shown(key, partial(_varied, key))
    yield Shown("state", in_sweep)
    for name in shown:
        yield Shown(SHOWN[name], partial(_percent, name), True)
    yield Shown("time", lambda job: f"{job.seconds:.0f} s", True)


def _varied(key: str, job: Job) -> str:
    return job.varied.get(key, "")


def _percent(name: str, job: Job) -> str:
    metrics = results(job).get("metrics", {})
    return f"{metrics[name]:.2f}" if name in metrics else ""


def _print_seeds(groups: Sequence[OverSeeds], shown: Sequence[str]) -> None:
    """Print mean ± standard deviation, where two seeds or more are finished."""
    if not shown or not any(len(group.seeds) > 1 for group in groups):
        return
    keys = list(groups[0].varied)
    table = table_of(*keys, right=("seeds", *(SHOWN[name] for name in shown)))
    for group in groups:
        numbers = [_mean(group.metrics.get(name)) for name in shown]
        table.add_row(*group.varied.values(), str(len(group.seeds)), *numbers)
    print("mean and standard deviation over the seeds")
    show(table)


def _mean(found: Spread | None) -> str:
    if found is None:
        return ""
    return f"{found.mean:.2f}" if found.std is None else f"{found.mean:.2f} ± {found.std:.2f}"


def stored_summary(folder: Path) -> list[dict[str, Any]]:
    """What an earlier command of the sweep in `folder` noted of its jobs; nothing where there was none.

    Raises ConfigError, which names the file, for a damaged one.
    """
    return stored_jobs(folder, SUMMARY, "jobs", _READ)

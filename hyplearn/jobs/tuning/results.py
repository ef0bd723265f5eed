"""What a search found: trials.csv, summary.json, the table at the end, and the best settings as experiments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from hyplearn.config.compose import compose, parse
from hyplearn.config.folders import config_folders, groups
from hyplearn.console.tables import duration, show
from hyplearn.errors import ConfigError
from hyplearn.jobs.launcher import JobState
from hyplearn.jobs.ledger import Ledger, in_words
from hyplearn.jobs.tuning.contestants import Contender
from hyplearn.jobs.tuning.study import (
    COUNTED,
    EPOCHS,
    REASON,
    REPEATS,
    RUN_DIR,
    RUN_ID,
    SECONDS,
    Study,
    TrialJob,
    in_study,
)
from hyplearn.runs.atomic import write_json, write_text, write_yaml
from hyplearn.runs.directory import RunDirectory
from hyplearn.runs.identity import run_id

ENDS = (JobState.FINISHED, JobState.PRUNED, JobState.DIVERGED, JobState.FAILED, JobState.INTERRUPTED)
BEST = "best"  # a folder of configurations, for --config-dir


@dataclass(frozen=True)
class Result:
    """What one contender came to. counts: its trials by how they ended. test: of the best one, None without one."""

    label: str
    counts: Mapping[JobState, int]
    seconds: float
    best: TrialJob | None
    test: float | None
    experiment: str | None
    inert: tuple[str, ...]
    lost: int  # failed trials that no later one took up
    stopped: int  # interrupted trials that no later one took up

    @property
    def good(self) -> bool:
        """Whether there are best settings and no failure is left."""
        return self.best is not None and not self.lost


def results(studies: Sequence[Study], folder: Path, metric: str, extra: Sequence[Path]) -> list[Result]:
    """Of every contender, with its best settings written to an experiment below `folder`/best."""
    found = []
    for study in studies:
        jobs, best = study.jobs(), study.best()
        states = [job.state for job in jobs]
        run = None if best is None else RunDirectory(best.run_dir)
        found.append(
            Result(
                label=study.contender.label,
                counts={state: states.count(state) for state in ENDS},
                seconds=sum(job.seconds for job in jobs),
                best=best,
                test=None if run is None else run.results_if_sound.get("metrics", {}).get(tested(metric)),
                experiment=None if best is None else write_best(study.contender, best, folder, metric, extra),
                inert=study.contender.inert,
                lost=len(study.lost(JobState.FAILED)),
                stopped=len(study.lost(JobState.INTERRUPTED)),
            )
        )
    return found


def tested(metric: str) -> str:
    """`test/recall@1` of `val/recall@1`."""
    return f"test/{metric.removeprefix('val/')}"


def trials_of(studies: Sequence[Study], folder: Path, metric: str) -> Ledger[TrialJob]:
    """The ledger of a search: each trial that began, with its settings and what it came to by validation."""
    noted = {key: partial(_noted, key) for key in (EPOCHS, SECONDS, RUN_ID, RUN_DIR, REPEATS, REASON)}
    return Ledger(
        folder,
        "trials",
        [job for study in studies for job in study.jobs() if job.state is not JobState.WAITING],
        columns={
            "contender": lambda job: job.contender,
            "trial": lambda job: job.number,
            "state": lambda job: in_words(job, FINISHED=in_study(JobState.FINISHED)),
            metric: lambda job: "" if job.value is None else job.value,
            **noted,
            "settings": lambda job: dict(job.varied),
        },
        listed="trials",
        head=lambda: {"study": folder.name, "metric": metric},
    )


def _noted(key: str, job: TrialJob) -> Any:
    return job.notes.get(key, "")


def write_summary(found: Sequence[Result], folder: Path, definition: Mapping[str, Any]) -> None:
    """summary.json: the table at the end."""
    rows = [
        {
            "contender": result.label,
            "overrides": definition["overrides"][result.label],
            "trials": {in_study(state): count for state, count in result.counts.items()},
            "seconds": round(result.seconds, 1),
            "best": None if result.best is None else _best(result, result.best),
            "not_searched": list(result.inert),
        }
        for result in found
    ]
    searched = {key: definition[key] for key in ("metric", "space", "sampler", "pruner")}
    write_json(folder / "summary.json", {"study": folder.name, **searched, "contenders": rows})


def _best(result: Result, best: TrialJob) -> dict[str, Any]:
    return {
        "trial": best.number,
        "settings": dict(best.varied),
        "validation": best.value,
        "test": result.test,
        "run_id": best.notes[RUN_ID],
        "run_dir": best.notes[RUN_DIR],
        "experiment": result.experiment,
    }


def print_results(found: Sequence[Result], folder: Path, metric: str, extra: Sequence[Path]) -> None:
    """The best of each contender by validation beside its test value, and how to run it again."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("", overflow="fold")
    for column in ("trials", *map(in_study, ENDS[:-1]), "time"):
        table.add_column(column, justify="right")
    table.add_column("best settings", overflow="fold")
    for column in (metric, tested(metric)):
        table.add_column(column, justify="right")
    for result in found:
        counts = [str(result.counts[state]) for state in ENDS[:-1]]
        begun = str(sum(result.counts[state] for state in COUNTED) + result.lost + result.stopped)
        table.add_row(result.label, begun, *counts, duration(result.seconds), *_cells(result))
    print(f"\nstudy {folder}: chosen by {metric}, in percent" if not metric.endswith("loss") else f"\nstudy {folder}")
    show(table)
    for result in found:
        _print_notes(result, folder, extra)
    print(f"see {folder / 'trials.csv'}")


def _cells(result: Result) -> tuple[str, str, str]:
    if result.best is None:
        return "none", "", ""
    settings = "  ".join(f"{key}={short(value)}" for key, value in result.best.varied.items())
    return settings, f"{result.best.value:.2f}", "" if result.test is None else f"{result.test:.2f}"


def _print_notes(result: Result, folder: Path, extra: Sequence[Path]) -> None:
    if result.inert:
        print(f"{result.label}: {', '.join(result.inert)} decides nothing here and was not searched")
    if result.stopped:
        trials = f"{result.stopped} trial{' was' if result.stopped == 1 else 's were'}"
        print(f"{result.label}: {trials} stopped; the same command goes on from there")
    if result.best is None:
        return
    if result.experiment is None:
        print(f"{result.label}: the best settings replace a group of keys and fit no experiment; see trials.csv")
        return
    folders = " ".join(f"--config-dir {path}" for path in (*extra, folder / BEST))
    print(
        f"{result.label} again, with other seeds: hyplearn train -m {folders} experiment={result.experiment} seed=2,3,4"
    )


def short(text: str) -> str:
    """A number to four digits, any other value as it is."""
    try:
        return f"{float(text):.4g}"
    except ValueError:
        return text


def write_best(contender: Contender, best: TrialJob, folder: Path, metric: str, extra: Sequence[Path]) -> str | None:
    """Write the settings to `folder`/best/experiment/best_<label>.yaml and return the name of the experiment.

    None, and no file, where they fit no experiment: a file merges a group of keys that an override replaces.
    """
    name = f"{BEST}_{contender.label}"
    path = folder / BEST / "experiment" / f"{name}.yaml"
    line = contender.line(best.varied)
    write_yaml(path, _content(line, extra))
    comment = (
        f"# {metric} {best.value:.2f}: the best trial of {contender.label} in {folder.name}, {best.notes[RUN_ID]}."
    )
    write_text(path, f"# @package _global_\n{comment}\n{path.read_text()}")
    try:
        same = run_id(compose([f"experiment={name}"], extra=[*extra, folder / BEST]).config) == best.notes[RUN_ID]
    except ConfigError:
        same = False
    if not same:
        path.unlink()
        return None
    return name


def _content(line: Sequence[str], extra: Sequence[Path]) -> dict[str, Any]:
    """Choices of groups as a defaults list, single values as a tree."""
    known = groups(config_folders(extra))
    defaults: list[Any] = []
    tree: dict[str, Any] = {}
    for override in map(parse, line):
        key, value = override.key_or_group, override.value()
        if key == "experiment":
            defaults.insert(0, value)
        elif key in known:
            defaults.append({f"override /{key}": value})
        else:
            _put(tree, key.split("."), value)
    return {"defaults": defaults, **tree} if defaults else tree


def _put(tree: dict[str, Any], path: Sequence[str], value: Any) -> None:
    *parents, last = path
    for name in parents:
        tree = tree.setdefault(name, {})
    tree[last] = value

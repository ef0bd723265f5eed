"""What `hyplearn reproduce` is to run: from names of tables and experiments to runs, each once, and their state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from hyplearn.config.compose import compose
from hyplearn.config.folders import config_folders, groups
from hyplearn.errors import ConfigError
from hyplearn.jobs.estimate import UNKNOWN, Estimate, estimate
from hyplearn.jobs.launcher import Job, JobState
from hyplearn.jobs.smoke import stand_in
from hyplearn.papers import cells
from hyplearn.runs.creation import OUTPUTS
from hyplearn.runs.directory import RunDirectory
from hyplearn.runs.finding import by_id, runs_below
from hyplearn.runs.identity import run_id
from hyplearn.runs.lock import occupant

FOLDERS = {"full": OUTPUTS / "reproduce", "smoke": OUTPUTS / "smoke"}


@dataclass(eq=False, kw_only=True)
class Planned(Job):
    """One run of the plan; its name is the run's id.

    experiments: all that come to it; the first gives the command line. begun: whether it has a checkpoint to continue
    from. elsewhere: who trains it now.
    """

    seed: int
    experiments: tuple[str, ...]
    tables: tuple[str, ...]
    config: Mapping[str, Any]
    begun: bool = False
    elsewhere: str | None = None
    estimate: Estimate = field(default=UNKNOWN)

    @property
    def outlook(self) -> str:
        """What is to be done with it."""
        if self.state.good:
            return "finished"
        if self.elsewhere is not None:
            return "running elsewhere"
        return "to continue" if self.begun else "to run"


@dataclass(frozen=True)
class Chosen:
    """Experiments in the order asked for, each with the tables it stands in, and the rows that have none and why."""

    experiments: Mapping[str, tuple[str, ...]]
    absent: Mapping[str, str]


def choose(patterns: Sequence[str]) -> Chosen:
    """The experiments that tables, names and globs mean; `*` stays inside one folder, as in a shell.

    Raises ConfigError with the nearest names for a pattern that nothing fits, or only rows without an experiment.
    """
    known = groups(config_folders())["experiment"]
    found: dict[str, None] = {}
    absent: dict[str, str] = {}
    for pattern in patterns:
        names, without = _fitting(pattern, known)
        if not names:
            raise ConfigError(f"{pattern}: nothing of it can be run. {_because(without)}")
        found |= dict.fromkeys(names)
        absent |= without
    return Chosen({name: _tables(name) for name in found}, absent)


def _fitting(pattern: str, known: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    if pattern not in cells.tables():
        names = [name for name in known if fnmatchcase(name, pattern) and name.count("/") == pattern.count("/")]
        if names:
            return names, {}
    try:
        selected = cells.select(pattern)
    except ValueError as error:
        raise ConfigError(f"{error}{_folder(pattern, known)}.") from error
    names = [cell.experiment for cell in selected if cell.experiment]
    return names, {cell.name: cell.absent for cell in selected if cell.absent}


def _folder(pattern: str, known: Sequence[str]) -> str:
    inside = [name for name in known if name.startswith(f"{pattern.rstrip('/')}/")]
    return f" (for the {len(inside)} experiments of this folder write '{pattern.rstrip('/')}/*')" if inside else ""


def _because(absent: Mapping[str, str]) -> str:
    return "; ".join(sorted({f"{name}: {why}" for name, why in absent.items()})[:3])


def _tables(experiment: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(cell.table for cell in cells.cells() if cell.experiment == experiment))


def plan(
    experiments: Mapping[str, tuple[str, ...]],
    *,
    seeds: Sequence[int],
    scale: str,
    protocol: str,
    overrides: Sequence[str] = (),
) -> list[Planned]:
    """The runs, seed by seed within an experiment; experiments that come to the same run share it. Reads no results."""
    planned: dict[str, Planned] = {}
    for experiment, tables in experiments.items():
        line = [f"experiment={experiment}", f"protocol={protocol}"]
        try:
            if scale == "smoke":
                line += stand_in(compose(line).config)
            config = compose([*line, *overrides]).config
        except ConfigError as error:
            raise ConfigError(f"experiment={experiment}: {error}") from error
        for seed in seeds:
            _add(
                planned,
                Planned(
                    name=run_id({**config, "seed": seed}),
                    arguments=(),  # told when it starts: its directory may turn out to be another
                    run_dir=FOLDERS[scale] / experiment,
                    overrides=(*line, *overrides, f"seed={seed}"),
                    seed=seed,
                    experiments=(experiment,),
                    tables=tables,
                    config={**config, "seed": seed},
                ),
            )
    return list(planned.values())


def _add(planned: dict[str, Planned], run: Planned) -> None:
    if run.name not in planned:
        run.run_dir /= run.name
        planned[run.name] = run
        return
    first = planned[run.name]
    first.experiments += run.experiments
    first.tables = tuple(dict.fromkeys((*first.tables, *run.tables)))


def note_earlier_runs(planned: Sequence[Planned], folder: Path = OUTPUTS) -> None:
    """Note what became of the runs so far, wherever below `folder` they lie, and what the others may take."""
    runs = runs_below([folder])
    known = by_id(runs)
    finished = [run for run in runs if run.finished]
    for run in planned:
        run.estimate = estimate(run.config, finished)
        _locate(run, known.get(run.name, []))
        refresh(run)


def _locate(run: Planned, found: Iterable[RunDirectory]) -> None:
    """Take over the directory of a run that is finished or can be continued."""
    for candidate in found:
        if candidate.finished or candidate.last_checkpoint:
            run.run_dir = candidate.path
            return


def refresh(run: Planned) -> None:
    """Read from its directory whether a run was finished elsewhere, is running, or can be continued."""
    run.elsewhere = occupant(run.run_dir)
    found = RunDirectory(run.run_dir)
    run.begun = found.last_checkpoint is not None
    if found.finished:
        run.state, run.elsewhere = JobState.EARLIER, None

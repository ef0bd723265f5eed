"""A search of settings from its description to its results, for `hyplearn tune` and for a sweeper of Hydra."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from hyplearn.config.compose import compose
from hyplearn.errors import FAILED, OK, ConfigError, listing, nearest
from hyplearn.jobs.launcher import Launcher
from hyplearn.jobs.processes import Local
from hyplearn.jobs.tuning.contestants import Contender, contenders, monitored, objective
from hyplearn.jobs.tuning.space import Dimension, read
from hyplearn.jobs.tuning.study import NO_STUDY
from hyplearn.runs.atomic import write_json
from hyplearn.runs.bounded import read_text
from hyplearn.runs.creation import OUTPUTS, made
from hyplearn.runs.lock import occupied

if TYPE_CHECKING:
    from hyplearn.jobs.tuning.scheduler import Search
    from hyplearn.jobs.tuning.study import Study

STUDIES = OUTPUTS / "tune"
TRIALS = 20
DEFINITION = "study.json"
Sampler = Literal["tpe", "random", "grid"]
Pruner = Literal["median", "none"]


@dataclass(frozen=True)
class SearchSettings:
    """What is searched, and how.

    space: keys to search, each as it would be typed after --space. overrides: of all trials. compare: `key=a,b`, each
    value with a study and a budget of its own. n_trials: of each study; None for 20, or for the whole grid.
    metric: None for that of the task. jobs: trials at a time. devices: the GPU of each of these, see
    `processes.devices`. folder: of the study; None for one below outputs/tune/, called `name` or after what is
    searched. extra: further folders of configurations.
    """

    space: Sequence[str]
    overrides: Sequence[str] = ()
    compare: str | None = None
    n_trials: int | None = None
    metric: str | None = None
    sampler: Sampler = "tpe"
    pruner: Pruner = "median"
    jobs: int = 1
    devices: Sequence[str] = ()
    name: str | None = None
    folder: Path | None = None
    extra: Sequence[Path] = ()

    def __post_init__(self) -> None:
        """Raise ConfigError for a name that is unknown, for a number below 1, and where nothing is searched."""
        if not self.space:
            raise ConfigError(
                "hyplearn tune needs a key to search: --space 'loss.tau=log(0.02,1)' (see hyplearn tune --help)."
            )
        for key, known in (("sampler", get_args(Sampler)), ("pruner", get_args(Pruner))):
            given = getattr(self, key)
            if given not in known:
                raise ConfigError(f"{key}={given}: expected one of {', '.join(known)}.{nearest(str(given), known)}")
        for key in ("n_trials", "jobs"):
            given = getattr(self, key)
            if given is not None and given < 1:
                raise ConfigError(f"{key}={given}: expected a whole number from 1 on.")


class _Plan(NamedTuple):
    """A search that is about to run. budget: trials of each contender, by label. path: the folder of the study."""

    settings: SearchSettings
    found: Sequence[Contender]
    metric: str
    budget: Mapping[str, int]
    path: Path
    definition: Mapping[str, Any]


def search(settings: SearchSettings, launcher: Launcher | None = None) -> int:
    """Search, write and print the best settings. Return 0 when done, 1 after failures, 129, 130 or 143 if stopped.

    A folder that holds this study already is gone on with. launcher: runs the trials, by default on this machine.
    Raises ConfigError before anything runs for settings that cannot be searched.
    """
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError("hyplearn tune needs optuna: pip install 'hyplearn[tune]'")
    plan = _planned(settings)
    _check_definition(plan.path, plan.definition)
    with occupied(made(plan.path)):
        write_json(plan.path / DEFINITION, plan.definition)
        return _run(plan, launcher or Local(settings.jobs, settings.devices))


def _planned(settings: SearchSettings) -> _Plan:
    """What the settings come to. Raises ConfigError for those that do not go together."""
    space = [read(text) for text in settings.space]
    found = contenders(settings.overrides, space, settings.compare, extra=settings.extra)
    metric = objective(settings.metric, settings.overrides, found, settings.extra)
    found = monitored(found, metric, settings.extra)
    budget = _budget(settings, found)
    _check_runs(found, settings.extra)
    definition = _definition(settings, found, space, metric)
    path = settings.folder or STUDIES / (settings.name or _default_name(found, settings.compare, definition))
    return _Plan(settings, found, metric, budget, path, definition)


def _budget(settings: SearchSettings, found: Sequence[Contender]) -> dict[str, int]:
    """Trials of each contender. A grid is run as a whole."""
    if settings.sampler != "grid":
        return {contender.label: settings.n_trials or TRIALS for contender in found}
    sizes = {contender.label: len(contender.grid()) for contender in found}
    if settings.n_trials is not None and settings.n_trials < max(sizes.values()):
        raise ConfigError(
            f"--trials {settings.n_trials}: the grid has {max(sizes.values())} combinations, and a part of it favours "
            "the first ones. Leave --trials out, or use --sampler random."
        )
    return sizes


def _check_runs(found: Sequence[Contender], extra: Sequence[Path]) -> None:
    """The parts of the first and the last run that could come up work together. Imports torch."""
    from hyplearn.config.build import specification
    from hyplearn.config.compatibility import check

    for contender in found:
        for end in (0, -1):
            line = contender.line({dimension.key: dimension.ends()[end] for dimension in contender.dimensions})
            try:
                composed = compose(line, extra=extra)
                check(composed, specification(composed.config, restores=True))
            except ConfigError as error:
                raise ConfigError(f"{' '.join(line)}: {error}") from error


def _definition(
    settings: SearchSettings, found: Sequence[Contender], space: Sequence[Dimension], metric: str
) -> dict[str, Any]:
    """What may not change while a study grows."""
    return {
        "metric": metric,
        "space": sorted(dimension.text.replace(" ", "") for dimension in space),
        "sampler": settings.sampler,
        "pruner": settings.pruner,
        "contenders": {contender.label: contender.run for contender in found},
        "overrides": {contender.label: list(contender.overrides) for contender in found},
    }


def _default_name(found: Sequence[Contender], compared: str | None, definition: Mapping[str, Any]) -> str:
    """Readable, and another one for another search."""
    essential = {key: value for key, value in definition.items() if key != "overrides"}
    digest = hashlib.sha256(json.dumps(essential, sort_keys=True).encode()).hexdigest()[:6]
    label = found[0].label if compared is None else f"{compared.partition('=')[0]}s"
    return f"{label}_{digest}"


def _check_definition(path: Path, definition: Mapping[str, Any]) -> None:
    """A study of this name is this study."""
    file = path / DEFINITION
    if not file.exists():
        return
    try:
        stored = json.loads(read_text(file))
        if not isinstance(stored, dict):
            raise ValueError(f"it holds a {type(stored).__name__}")
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file} is damaged ({error}). {NO_STUDY}") from error
    differing = [key for key in definition if key != "overrides" and stored.get(key) != definition[key]]
    if differing:
        raise ConfigError(
            f"--name {path.name}: {path} holds a study that differs in {listing(differing)}. Choose another name, or "
            "leave --name out."
        )


def _run(plan: _Plan, launcher: Launcher) -> int:
    """Run what is left of the budget, and write and print what was found. Imports Optuna."""
    from hyplearn.console.board import Board
    from hyplearn.jobs.tuning.results import trials_of
    from hyplearn.jobs.tuning.scheduler import Search
    from hyplearn.jobs.tuning.study import Study, storage

    settings = plan.settings
    with storage(plan.path / "study.db") as opened:
        studies = [
            Study(contender, opened, metric=plan.metric, sampler=settings.sampler, pruner=settings.pruner)
            for contender in plan.found
        ]
        again = sum(study.recover() for study in studies)
        with Board() as board:
            work = Search(
                studies,
                metric=plan.metric,
                folder=plan.path,
                budget=plan.budget,
                board=board,
                launcher=launcher,
                extra=settings.extra,
                saved=lambda: trials_of(studies, plan.path, plan.metric).write(),
            )
            _announce(work, again)
            status = work.run()
        return _finish(plan, studies, status)


def _announce(work: Search, again: int) -> None:
    done = sum(study.counted() for study in work.studies)
    earlier = f", {done} finished before" if done else ""
    taken_up = f", {again} of them taken up again" if again else ""
    shared = ", ".join(f"{work.budget[study.contender.label]} of {study.contender.label}" for study in work.studies)
    work.board.say(f"study {work.folder}: {work.metric} of {shared}{earlier}; {work.total} trials to run{taken_up}")


def _finish(plan: _Plan, studies: Sequence[Study], status: int) -> int:
    """Write the files, print the table, and return the exit status."""
    from hyplearn.jobs.tuning import results

    extra = plan.settings.extra
    found = results.results(studies, plan.path, plan.metric, extra)
    results.trials_of(studies, plan.path, plan.metric).write()
    results.write_summary(found, plan.path, plan.definition)
    results.print_results(found, plan.path, plan.metric, extra)
    return status or (OK if all(result.good for result in found) else FAILED)

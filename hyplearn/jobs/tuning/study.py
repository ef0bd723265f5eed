"""The trials of one contender, kept by Optuna in a file: which come next, which are over, and what a kill left."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyplearn.errors import ConfigError
from hyplearn.jobs.launcher import Job, JobState
from hyplearn.jobs.tuning.contestants import Contender
from hyplearn.runs.lock import occupant
from hyplearn.runs.regular import check_regular

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial, Trial

NO_STUDY = (
    "Bring it back from a copy, or search anew under another --name: trials that are finished stay where they are."
)
TRIALS_FILE = "trials.json"  # written after every trial
# Of the budget; the others are tried again.
COUNTED = (JobState.FINISHED, JobState.PRUNED, JobState.DIVERGED)
# Names of what is noted with a trial.
RUN_ID, RUN_DIR, SETTINGS, ENDING, REASON, SECONDS, EPOCHS, AGAIN, REPEATS = (
    "run_id",
    "run_dir",
    "settings",
    "ending",
    "reason",
    "seconds",
    "epochs",
    "again",  # number of the trial that this one takes up
    "repeats",  # number of the earlier trial with the same settings, whose value this one took
)


@dataclass(eq=False, kw_only=True)
class TrialJob(Job):
    """A trial: one of the runs of a contender. What varies are its settings.

    value: of the metric that chooses, at the chosen epoch, or the last one if pruned. notes: kept by Optuna with it.
    """

    contender: str
    number: int
    value: float | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)


def in_study(state: JobState) -> str:
    """The word for a state in the file of the studies and in tables: Optuna calls a trial complete."""
    return "complete" if state is JobState.FINISHED else state.value


def from_study(word: str) -> JobState:
    """The state that `in_study` has written."""
    return JobState.FINISHED if word == "complete" else JobState(word)


@contextmanager
def storage(path: Path) -> Iterator[RDBStorage]:
    """The file of all studies, made if it is not there. Raises ConfigError where it is damaged, now or later."""
    import optuna
    import sqlalchemy

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    path.parent.mkdir(parents=True, exist_ok=True)
    _check_file(path)
    try:
        opened = optuna.storages.RDBStorage(f"sqlite:///{path}")
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.OptunaError, RuntimeError, AssertionError) as error:
        raise ConfigError(f"{path} is damaged ({_reason(error)}). {NO_STUDY}") from error
    try:
        yield opened
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise ConfigError(f"{path} cannot be used ({_reason(error)}). {NO_STUDY}") from error
    finally:
        opened.remove_session()
        opened.engine.dispose()


def _check_file(path: Path) -> None:
    """Raise ConfigError for a file of studies that is no file, or that lost what it held."""
    if not path.exists():
        return
    try:
        check_regular(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    if path.stat().st_size == 0 and (path.parent / TRIALS_FILE).exists():
        raise ConfigError(f"{path} is damaged (it is empty, though trials were run). {NO_STUDY}")


def _reason(error: Exception) -> str:
    """What the database says, without the question that it was asked."""
    return str(getattr(error.__cause__ or error, "orig", None) or error).splitlines()[0]


class Study:
    """The study of one contender. What it proposes depends on what its trials came to, not on stops."""

    def __init__(self, contender: Contender, opened: RDBStorage, *, metric: str, sampler: str, pruner: str) -> None:
        import optuna

        self.contender, self.sampler = contender, sampler
        self.smaller = metric.endswith("loss")
        self.optuna = optuna.create_study(
            study_name=contender.label,
            storage=opened,
            load_if_exists=True,
            direction="minimize" if self.smaller else "maximize",
            sampler=optuna.samplers.RandomSampler(0),
            pruner=optuna.pruners.MedianPruner() if pruner == "median" else optuna.pruners.NopPruner(),
        )

        if sampler == "grid":
            self._fill(contender.grid())

    def jobs(self) -> list[TrialJob]:
        """All trials, by number."""
        return [self._job(trial) for trial in self.optuna.get_trials(deepcopy=False)]

    def counted(self) -> int:
        """The trials that are over and have used up their part of the budget."""
        return sum(job.state in COUNTED for job in self.jobs())

    def best(self) -> TrialJob | None:
        """The complete trial with the best value, the earliest of several; None if there is none."""
        found = [job for job in self.jobs() if job.state is JobState.FINISHED and job.value is not None]
        sign = 1 if self.smaller else -1
        return min(found, key=lambda job: (sign * (job.value or 0.0), job.number), default=None)

    def recover(self) -> int:
        """Put the trials that a kill or an error left into the queue again; returns how many.

        Raises ConfigError where one of them still trains.
        """
        from optuna.trial import TrialState

        for job in self.jobs():
            holder = occupant(job.run_dir) if RUN_DIR in job.notes else None
            if job.state is JobState.INTERRUPTED and holder is not None:
                raise ConfigError(
                    f"trial {job.number} of {self.contender.label} is still being trained by {holder}: wait for it, "
                    "or stop it."
                )
        for trial in self.optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self.optuna.tell(trial.number, state=TrialState.FAIL)
        lost = self.lost(JobState.FAILED, JobState.INTERRUPTED)
        for job in lost:
            parameters = self.optuna.get_trials(deepcopy=False)[job.number].params
            kept = {key: job.notes[key] for key in (RUN_DIR,) if key in job.notes}
            self.optuna.enqueue_trial(parameters, user_attrs={AGAIN: job.number, **kept})
        return len(lost)

    def lost(self, *states: JobState) -> list[TrialJob]:
        """The trials in these states that no later one took up again."""
        jobs = self.jobs()
        taken_up = {job.notes[AGAIN] for job in jobs if AGAIN in job.notes}
        return [job for job in jobs if job.state in states and job.number not in taken_up]

    def _fill(self, combinations: Sequence[Mapping[str, str]]) -> None:
        """Put the combinations of a grid that are neither tried nor waiting into the queue."""
        dimensions = {dimension.key: dimension for dimension in self.contender.dimensions}
        known = [_parameters(trial) for trial in self.optuna.get_trials(deepcopy=False)]
        for settings in combinations:
            wanted = {key: dimensions[key].parameter(value) for key, value in settings.items()}
            if wanted not in known:
                self.optuna.enqueue_trial(wanted)

    def ask(self) -> tuple[Trial, dict[str, str]]:
        """The next trial and its settings. One that takes up another leaves the sequence of seeds as it was."""
        trials = self.optuna.get_trials(deepcopy=False)
        self.optuna.sampler = self._seeded(sum(AGAIN not in trial.user_attrs for trial in trials))
        trial = self.optuna.ask()
        settings = {dimension.key: dimension.suggest(trial) for dimension in self.contender.dimensions}
        trial.set_user_attr(SETTINGS, settings)
        return trial, settings

    def tell(self, trial: Trial, state: JobState, value: float | None = None, **notes: Any) -> None:
        """Note how a trial ended. `value` is that of a complete one; a pruned one keeps its last report.

        A diverged one is pruned for Optuna, which learns nothing from failures and would propose the same again.
        """
        from optuna.trial import TrialState

        for key, note in notes.items():
            trial.set_user_attr(key, note)
        trial.set_user_attr(ENDING, in_study(state))
        states = {
            JobState.FINISHED: TrialState.COMPLETE,
            JobState.PRUNED: TrialState.PRUNED,
            JobState.DIVERGED: TrialState.PRUNED,
        }
        kept = value if state is JobState.FINISHED else None
        self.optuna.tell(trial, kept, state=states.get(state, TrialState.FAIL))

    def same(self, run_id: str) -> FrozenTrial | None:
        """An earlier trial of the same run that is complete, was pruned or diverged."""
        from optuna.trial import TrialState

        over = (TrialState.COMPLETE, TrialState.PRUNED)
        trials = self.optuna.get_trials(deepcopy=False, states=over)
        return next((trial for trial in trials if trial.user_attrs.get(RUN_ID) == run_id), None)

    def _seeded(self, number: int) -> BaseSampler:
        """A sampler for one trial. Contenders have the same sequence of seeds."""
        from optuna.samplers import RandomSampler, TPESampler

        seed = int.from_bytes(hashlib.sha256(f"trial {number}".encode()).digest()[:4], "big")
        return TPESampler(seed=seed) if self.sampler == "tpe" else RandomSampler(seed)

    def _job(self, trial: FrozenTrial) -> TrialJob:
        from optuna.trial import TrialState

        notes = dict(trial.user_attrs)
        settings = notes.pop(SETTINGS, {key: str(value) for key, value in _parameters(trial).items()})
        reported = trial.intermediate_values
        value = trial.value if trial.state == TrialState.COMPLETE else reported.get(max(reported, default=0))
        return TrialJob(
            name=f"{self.contender.label} trial {trial.number}",
            arguments=(),
            run_dir=Path(notes.get(RUN_DIR, "")),
            varied=settings,
            state=_state(trial),
            reason=notes.get(REASON, ""),
            seconds=notes.get(SECONDS, 0.0),
            contender=self.contender.label,
            number=trial.number,
            value=value,
            notes=notes,
        )


def _state(trial: FrozenTrial) -> JobState:
    """What became of a trial. How it ended is noted just before it is over: a kill may fall between."""
    from optuna.trial import TrialState

    ending = trial.user_attrs.get(ENDING)
    if trial.state == TrialState.PRUNED:
        return JobState.DIVERGED if ending == in_study(JobState.DIVERGED) else JobState.PRUNED
    if trial.state == TrialState.FAIL:
        return JobState.FAILED if ending == in_study(JobState.FAILED) else JobState.INTERRUPTED
    others = {TrialState.COMPLETE: JobState.FINISHED, TrialState.WAITING: JobState.WAITING}
    return others.get(trial.state, JobState.INTERRUPTED)  # one that runs, for nobody runs it any more


def _parameters(trial: FrozenTrial) -> dict[str, Any]:
    """Of a trial that began, or of one in the queue."""
    return trial.params or dict(trial.system_attrs.get("fixed_params", {}))

"""The trials of one contender, kept by Optuna in a file: which come next, which are over, and what a kill left."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyplearn.errors import ConfigError
from hyplearn.jobs.tuning.contestants import Contender
from hyplearn.runs.lock import occupant

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial, Trial

DONE, PRUNED, DIVERGED, FAILED, INTERRUPTED, WAITING = (
    "complete",
    "pruned",
    "diverged",
    "failed",
    "interrupted",
    "waiting",
)
COUNTED = (DONE, PRUNED, DIVERGED)  # of the budget; the others are tried again
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


@dataclass(frozen=True)
class Record:
    """What is known of a trial. value: of the metric that chooses, at the chosen epoch, or the last one if pruned."""

    contender: str
    number: int
    state: str
    settings: Mapping[str, str]
    value: float | None
    notes: Mapping[str, Any]


@contextmanager
def storage(path: Path) -> Iterator[RDBStorage]:
    """The file of all studies, made if it is not there."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    path.parent.mkdir(parents=True, exist_ok=True)
    opened = optuna.storages.RDBStorage(f"sqlite:///{path}")
    try:
        yield opened
    finally:
        opened.remove_session()
        opened.engine.dispose()


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

    def records(self) -> list[Record]:
        """All trials, by number."""
        return [self._record(trial) for trial in self.optuna.get_trials(deepcopy=False)]

    def counted(self) -> int:
        """The trials that are over and have used up their part of the budget."""
        return sum(record.state in COUNTED for record in self.records())

    def best(self) -> Record | None:
        """The complete trial with the best value, the earliest of several; None if there is none."""
        found = [record for record in self.records() if record.state == DONE and record.value is not None]
        sign = 1 if self.smaller else -1
        return min(found, key=lambda record: (sign * (record.value or 0.0), record.number), default=None)

    def recover(self) -> int:
        """Put the trials that a kill or an error left into the queue again; returns how many.

        Raises ConfigError where one of them still trains.
        """
        from optuna.trial import TrialState

        for record in self.records():
            holder = occupant(Path(record.notes[RUN_DIR])) if RUN_DIR in record.notes else None
            if record.state == INTERRUPTED and holder is not None:
                raise ConfigError(
                    f"trial {record.number} of {self.contender.label} is still being trained by {holder}: wait for it, "
                    "or stop it."
                )
        for trial in self.optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self.optuna.tell(trial.number, state=TrialState.FAIL)
        lost = self.lost(FAILED, INTERRUPTED)
        for record in lost:
            parameters = self.optuna.get_trials(deepcopy=False)[record.number].params
            kept = {key: record.notes[key] for key in (RUN_DIR,) if key in record.notes}
            self.optuna.enqueue_trial(parameters, user_attrs={AGAIN: record.number, **kept})
        return len(lost)

    def lost(self, *states: str) -> list[Record]:
        """The trials in these states that no later one took up again."""
        records = self.records()
        taken_up = {record.notes[AGAIN] for record in records if AGAIN in record.notes}
        return [record for record in records if record.state in states and record.number not in taken_up]

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

    def tell(self, trial: Trial, state: str, value: float | None = None, **notes: Any) -> None:
        """Note how a trial ended. `value` is that of a complete one; a pruned one keeps its last report.

        A diverged one is pruned for Optuna, which learns nothing from failures and would propose the same again.
        """
        from optuna.trial import TrialState

        for key, note in notes.items():
            trial.set_user_attr(key, note)
        trial.set_user_attr(ENDING, state)
        states = {DONE: TrialState.COMPLETE, PRUNED: TrialState.PRUNED, DIVERGED: TrialState.PRUNED}
        self.optuna.tell(trial, value if state == DONE else None, state=states.get(state, TrialState.FAIL))

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

    def _record(self, trial: FrozenTrial) -> Record:
        from optuna.trial import TrialState

        ending = trial.user_attrs.get(ENDING)  # noted just before a trial is over: a kill may fall between
        over = {
            TrialState.COMPLETE: DONE,
            TrialState.PRUNED: DIVERGED if ending == DIVERGED else PRUNED,
            TrialState.FAIL: FAILED if ending == FAILED else INTERRUPTED,
            TrialState.RUNNING: INTERRUPTED,
            TrialState.WAITING: WAITING,
        }
        notes = dict(trial.user_attrs)
        settings = notes.pop(SETTINGS, {key: str(value) for key, value in _parameters(trial).items()})
        reported = trial.intermediate_values
        value = trial.value if trial.state == TrialState.COMPLETE else reported.get(max(reported, default=0))
        return Record(self.contender.label, trial.number, over[trial.state], settings, value, notes)


def _parameters(trial: FrozenTrial) -> dict[str, Any]:
    """Of a trial that began, or of one in the queue."""
    return trial.params or dict(trial.system_attrs.get("fixed_params", {}))

"""Runs the trials of `hyplearn tune`: each a process that is watched epoch by epoch, and stopped if it is hopeless."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyplearn.config.compose import compose
from hyplearn.config.explain import quoted
from hyplearn.console.board import Board
from hyplearn.errors import NON_FINITE, OK, ConfigError
from hyplearn.jobs.launcher import Job, JobState, Launcher, Stopped, signals_raise, signals_wait
from hyplearn.jobs.tuning.study import (
    AGAIN,
    COUNTED,
    ENDING,
    EPOCHS,
    REASON,
    REPEATS,
    RUN_DIR,
    RUN_ID,
    SECONDS,
    Study,
    TrialJob,
    from_study,
    in_study,
)
from hyplearn.runs.directory import RunDirectory
from hyplearn.runs.identity import run_id

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, Trial

POLL = 0.5  # seconds between two looks at the trials that run
HOPELESS = 3  # failures without any success after which a study is given up


@dataclass
class _Watched:
    """A trial that runs now. epoch: the last one that was reported. stopping: whether it was found hopeless."""

    study: Study
    trial: Trial
    job: TrialJob
    epoch: int = 0
    stopping: bool = False


@dataclass
class Search:
    """All studies of a command, with the budget that each of them has.

    budget: trials of each study that are to be complete, pruned or diverged in the end. saved: called whenever a trial
    is over.
    """

    studies: Sequence[Study]
    metric: str
    folder: Path
    budget: Mapping[str, int]
    board: Board
    launcher: Launcher
    extra: Sequence[Path] = ()
    saved: Callable[[], None] = lambda: None
    watched: dict[Job, _Watched] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Count what is left: trials that earlier commands finished are part of the budget."""
        self.left = {
            study.contender.label: max(0, self.budget[study.contender.label] - study.counted())
            for study in self.studies
        }
        self.total = sum(self.left.values())
        self.begun = {study.contender.label: 0 for study in self.studies}

    def run(self) -> int:
        """0 when the budget is used up, 129, 130 or 143 if a signal asked for the end."""
        self.board.total(self.total)
        try:
            with signals_raise():
                self._rounds_or_end()
        except Stopped as stop:
            return stop.exit_status
        return OK

    def _rounds_or_end(self) -> None:
        try:
            self._rounds()
        except Stopped as stop:
            self._end(stop)
            raise
        finally:
            if self.launcher.running:  # something else went wrong
                self.launcher.end(signal.SIGTERM)

    def _rounds(self) -> None:
        """Keep all places filled until the budget is used up. What is noted of a trial is noted as a whole."""
        while True:
            with signals_wait():
                while self.launcher.room and (study := self._next()) is not None:
                    self._begin(study)
            if not self.watched:
                return
            time.sleep(POLL)
            with signals_wait():
                self._look()

    def _next(self) -> Study | None:
        """The study that has begun the fewest trials of those with trials left: contenders take turns."""
        open_ = [study for study in self.studies if self.left[study.contender.label] > 0]
        return min(open_, key=lambda study: self.begun[study.contender.label], default=None)

    def _begin(self, study: Study) -> None:
        label = study.contender.label
        self.left[label] -= 1
        self.begun[label] += 1
        trial, settings = study.ask()
        number = f"[{sum(self.begun.values())}/{self.total}] {label} trial {trial.number}"
        self.board.say(f"{number}: {' '.join(f'{key}={value}' for key, value in settings.items())}")
        try:
            config = compose(study.contender.line(settings), extra=self.extra).config
        except ConfigError as error:
            self._over(study, trial, JobState.FAILED, reason=str(error))
            return
        name = run_id(config)
        same = study.same(name)
        trial.set_user_attr(RUN_ID, name)
        if same is not None:
            self._repeat(study, trial, same)
        else:
            line = study.contender.line(settings)
            self._launch(study, trial, line, grouped=bool(config["logger"]["group"]))

    def _launch(self, study: Study, trial: Trial, line: Sequence[str], *, grouped: bool) -> None:
        """Start the run of a trial, or continue it where an earlier command was stopped."""
        name, label = trial.user_attrs[RUN_ID], study.contender.label
        earlier = trial.user_attrs.get(RUN_DIR) if AGAIN in trial.user_attrs else None
        run_dir = Path(earlier) if earlier else self.folder / label / f"{trial.number:04d}_{name}"
        trial.set_user_attr(RUN_DIR, str(run_dir))
        job = TrialJob(
            name=f"{label} trial {trial.number}",
            arguments=tuple(self._arguments(line, run_dir, label, grouped=grouped)),
            run_dir=run_dir,
            overrides=tuple(line),
            log=run_dir.with_name(f"{run_dir.name}.log"),
            contender=label,
            number=trial.number,
        )
        watched = _Watched(study, trial, job)
        if RunDirectory(run_dir).finished:  # the command was killed between the end of the run and its note of it
            self._read(watched)
            self._note(watched, OK)
            return
        self.launcher.start(job)
        self.watched[job] = watched

    def _arguments(self, line: Sequence[str], run_dir: Path, label: str, *, grouped: bool) -> list[str]:
        folders = [part for path in self.extra for part in ("--config-dir", str(path))]
        group = [] if grouped else [f"logger.group={quoted(f'tune/{self.folder.name}/{label}')}"]
        return ["train", *folders, *line, *group, f"output_dir={quoted(run_dir)}", "resume=auto"]

    def _repeat(self, study: Study, trial: Trial, same: FrozenTrial) -> None:
        """The settings came up before: the same run would give the same value."""
        for epoch, value in same.intermediate_values.items():
            trial.report(value, epoch)
        notes = {key: same.user_attrs[key] for key in (RUN_DIR, EPOCHS, REASON) if key in same.user_attrs}
        state = from_study(same.user_attrs[ENDING])
        self._over(study, trial, state, same.value, **{REPEATS: same.number, SECONDS: 0.0, **notes})

    def _look(self) -> None:
        """Read the new epochs of the runs, stop those that are hopeless, and note the ends."""
        over = self.launcher.ended()  # before their files are read: after its end a run adds nothing to them
        for watched in list(self.watched.values()):
            news = self._read(watched)
            if watched.job in over:
                del self.watched[watched.job]
                self._note(watched, watched.job.status)
                continue
            self.board.epoch(watched.job.contender, watched.job.number, watched.epoch)
            if news and not watched.stopping and watched.trial.should_prune():
                watched.stopping = True
                self.launcher.signal(watched.job, signal.SIGTERM)

    def _read(self, watched: _Watched) -> bool:
        """Report the epochs that are new; whether there are any."""
        before = watched.epoch
        for row in RunDirectory(watched.job.run_dir).history:
            epoch, value = int(row["epoch"]), row.get(self.metric)
            if epoch > watched.epoch and value is not None:
                watched.epoch = epoch
                if math.isfinite(value):
                    watched.trial.report(value, epoch)
        return watched.epoch > before

    def _note(self, watched: _Watched, status: int | None) -> None:
        """Say how a trial ended: what the launcher knows of its job, and what its metric says."""
        job, run = watched.job, RunDirectory(watched.job.run_dir)
        notes: dict[str, Any] = {SECONDS: round(job.seconds, 1), EPOCHS: watched.epoch}
        value = run.metrics.get(self.metric) if run.finished else None
        if status == OK and value is not None and math.isfinite(value):
            self._over(watched.study, watched.trial, JobState.FINISHED, value, **notes)
        elif watched.stopping and job.state is JobState.INTERRUPTED:
            self._over(watched.study, watched.trial, JobState.PRUNED, **notes)
        elif status == NON_FINITE or (value is not None and not math.isfinite(value)):
            self._over(watched.study, watched.trial, JobState.DIVERGED, **notes, reason="the loss was not finite")
        else:
            reason = f"{job.reason or f'it ended without {self.metric}'} (see {job.log})"
            self._over(watched.study, watched.trial, JobState.FAILED, **notes, reason=reason)

    def _over(self, study: Study, trial: Trial, state: JobState, value: float | None = None, **notes: Any) -> None:
        study.tell(trial, state, value, **notes)
        job = study.jobs()[trial.number]
        shown = "" if job.value is None else f" {self.metric} {job.value:.4g}"
        after = f" after epoch {job.notes[EPOCHS]}" if job.notes.get(EPOCHS) else ""
        repeated = f", as trial {job.notes[REPEATS]}" if REPEATS in job.notes else ""
        why = f": {job.reason}" if job.reason else ""
        self.board.advance()
        self.board.say(f"    {job.name} {in_study(state)}{after}{shown}{repeated}{why}")
        self._give_up(study)
        self.saved()

    def _give_up(self, study: Study) -> None:
        """Where nothing works, more of the same will not."""
        states = [job.state for job in study.jobs()]
        failed, label = states.count(JobState.FAILED), study.contender.label
        if self.left[label] and failed >= HOPELESS and not set(COUNTED) & set(states):
            self.board.say(f"{label} is given up: {failed} trials failed and none ended well")
            self.left[label] = 0

    def _end(self, stop: Stopped) -> None:
        """Pass the signal on, wait until every run has written its checkpoint, and keep what came to its end."""
        try:
            self.board.say(f"{stop}: waiting for {len(self.watched)} running trials")
        finally:  # after a hang-up nothing can be said
            self.launcher.end(stop.signum)
        for watched in self.watched.values():
            self._read(watched)
            if RunDirectory(watched.job.run_dir).finished:
                self._note(watched, OK)
        self.saved()

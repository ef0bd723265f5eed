"""Runs the trials of `hyplearn tune`: each a process that is watched epoch by epoch, and stopped if it is hopeless."""

from __future__ import annotations

import math
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hyplearn.config.compose import compose, quoted
from hyplearn.console.board import Board
from hyplearn.errors import NON_FINITE, OK, ConfigError
from hyplearn.jobs.launcher import (
    KEPT_LINES,
    VISIBLE,
    Stopped,
    command,
    environment,
    failure_reason,
    signals_raise,
    threads,
)
from hyplearn.jobs.tuning.study import (
    AGAIN,
    DIVERGED,
    DONE,
    ENDING,
    EPOCHS,
    FAILED,
    PRUNED,
    REASON,
    REPEATS,
    RUN_DIR,
    RUN_ID,
    SECONDS,
    Study,
)
from hyplearn.runs.directory import RunDirectory
from hyplearn.runs.identity import run_id

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, Trial

POLL = 0.5  # seconds between two looks at the trials that run
HOPELESS = 3  # failures without any success after which a study is given up
TERMINATED = 128 + signal.SIGTERM


class Process(Protocol):
    """What is needed of a running trial."""

    def poll(self) -> int | None: ...

    def wait(self) -> int: ...

    def send_signal(self, sig: int) -> None: ...


# Starts a command line with variables of its own in its environment, and sends what it prints to a file.
Start = Callable[[Sequence[str], dict[str, str], Path], Process]


def start(arguments: Sequence[str], own: dict[str, str], log: Path) -> Process:
    """Start `hyplearn <arguments>` in a process of its own."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as stream:
        return subprocess.Popen(
            command(arguments),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            env=environment(own),
            start_new_session=True,  # Ctrl-C reaches the trial through this process alone
        )


@dataclass
class Running:
    """A trial that runs now."""

    study: Study
    trial: Trial
    run_dir: Path
    log: Path
    process: Process
    device: str
    began: float
    epoch: int = 0
    stopping: bool = False


@dataclass
class Search:
    """All studies of a command, with the budget that each of them has.

    budget: trials of each study that are to be complete, pruned or diverged in the end. devices: GPUs, one for each of
    `jobs`, or none. saved: called whenever a trial is over.
    """

    studies: Sequence[Study]
    metric: str
    folder: Path
    budget: Mapping[str, int]
    board: Board
    jobs: int = 1
    devices: Sequence[str] = ()
    extra: Sequence[Path] = ()
    start: Start = start
    saved: Callable[[], None] = lambda: None
    running: list[Running] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Count what is left: trials that earlier commands finished are part of the budget."""
        self.free = list(self.devices) or [""] * self.jobs
        self.left = {
            study.contender.label: max(0, self.budget[study.contender.label] - study.counted())
            for study in self.studies
        }
        self.total = sum(self.left.values())
        self.begun = {study.contender.label: 0 for study in self.studies}

    def run(self) -> int:
        """0 when the budget is used up, 130 or 143 if a signal asked for the end."""
        self.board.total(self.total)
        try:
            with signals_raise():
                self._rounds()
        except Stopped as stop:
            self._end(stop)
            return 128 + stop.signum
        return OK

    def _rounds(self) -> None:
        while True:
            while self.free and (study := self._next()) is not None:
                self._begin(study)
            if not self.running:
                return
            time.sleep(POLL)
            for job in list(self.running):
                self._look(job)

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
            self._over(study, trial, FAILED, reason=str(error))
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
        device, began = self.free.pop(0), time.monotonic()
        log = run_dir.with_name(f"{run_dir.name}.log")
        if RunDirectory(run_dir).finished:  # the command was killed between the end of the run and its note of it
            process: Process = Ended()
        else:
            own = threads(self.jobs) | ({VISIBLE: device} if device else {})
            process = self.start(self._arguments(line, run_dir, label, grouped=grouped), own, log)
        self.running.append(Running(study, trial, run_dir, log, process, device, began))

    def _arguments(self, line: Sequence[str], run_dir: Path, label: str, *, grouped: bool) -> list[str]:
        folders = [part for path in self.extra for part in ("--config-dir", str(path))]
        group = [] if grouped else [f"logger.group={quoted(f'tune/{self.folder.name}/{label}')}"]
        return ["train", *folders, *line, *group, f"output_dir={quoted(run_dir)}", "resume=auto"]

    def _repeat(self, study: Study, trial: Trial, same: FrozenTrial) -> None:
        """The settings came up before: the same run would give the same value."""
        for epoch, value in same.intermediate_values.items():
            trial.report(value, epoch)
        notes = {key: same.user_attrs[key] for key in (RUN_DIR, EPOCHS, REASON) if key in same.user_attrs}
        self._over(study, trial, same.user_attrs[ENDING], same.value, **{REPEATS: same.number, SECONDS: 0.0, **notes})

    def _look(self, job: Running) -> None:
        """Read the new epochs of a run, stop it if they are hopeless, and note its end."""
        status = job.process.poll()  # before its files are read: after its end nothing is added to them
        news = self._read(job)
        if status is None:
            self.board.epoch(job.study.contender.label, job.trial.number, job.epoch)
            if news and not job.stopping and job.trial.should_prune():
                job.stopping = True
                job.process.send_signal(signal.SIGTERM)
            return
        self.running.remove(job)
        self.free.append(job.device)
        self._note(job, status)

    def _read(self, job: Running) -> bool:
        """Report the epochs that are new; whether there are any."""
        before = job.epoch
        for row in RunDirectory(job.run_dir).history:
            epoch, value = int(row["epoch"]), row.get(self.metric)
            if epoch > job.epoch and value is not None:
                job.epoch = epoch
                if math.isfinite(value):
                    job.trial.report(value, epoch)
        return job.epoch > before

    def _note(self, job: Running, status: int) -> None:
        run = RunDirectory(job.run_dir)
        notes: dict[str, Any] = {SECONDS: round(time.monotonic() - job.began, 1), EPOCHS: job.epoch}
        value = run.metrics.get(self.metric) if run.finished else None
        if status == OK and value is not None and math.isfinite(value):
            self._over(job.study, job.trial, DONE, value, **notes)
        elif job.stopping and status in (TERMINATED, -signal.SIGTERM):
            self._over(job.study, job.trial, PRUNED, **notes)
        elif status == NON_FINITE or (value is not None and not math.isfinite(value)):
            self._over(job.study, job.trial, DIVERGED, **notes, reason="the loss was not finite")
        else:
            reason = _reason(status, job.log) or f"it ended without {self.metric}"
            self._over(job.study, job.trial, FAILED, **notes, reason=f"{reason} (see {job.log})")

    def _over(self, study: Study, trial: Trial, state: str, value: float | None = None, **notes: Any) -> None:
        study.tell(trial, state, value, **notes)
        record = study.records()[trial.number]
        shown = "" if record.value is None else f" {self.metric} {record.value:.4g}"
        after = f" after epoch {record.notes[EPOCHS]}" if record.notes.get(EPOCHS) else ""
        repeated = f", as trial {record.notes[REPEATS]}" if REPEATS in record.notes else ""
        why = f": {record.notes[REASON]}" if REASON in record.notes else ""
        self.board.advance()
        self.board.say(f"    {study.contender.label} trial {trial.number} {state}{after}{shown}{repeated}{why}")
        self._give_up(study)
        self.saved()

    def _give_up(self, study: Study) -> None:
        """Where nothing works, more of the same will not."""
        states = [record.state for record in study.records()]
        label = study.contender.label
        if self.left[label] and states.count(FAILED) >= HOPELESS and not {DONE, PRUNED, DIVERGED} & set(states):
            self.board.say(f"{label} is given up: {states.count(FAILED)} trials failed and none ended well")
            self.left[label] = 0

    def _end(self, stop: Stopped) -> None:
        """Pass the signal on, wait until every run has written its checkpoint, and keep what came to its end."""
        self.board.say(f"{stop}: waiting for {len(self.running)} running trials")
        for job in self.running:
            job.process.send_signal(stop.signum)
        for job in self.running:
            _outlast(job.process)
            self._read(job)
            if RunDirectory(job.run_dir).finished:
                self._note(job, OK)
        self.saved()


class Ended:
    """In place of a process: its work was done before."""

    def poll(self) -> int:
        return OK

    def wait(self) -> int:
        return OK

    def send_signal(self, sig: int) -> None:
        """There is nobody to hear it."""


def _outlast(process: Process) -> None:
    """Wait for the end of a process; a further signal is passed on, and a second Ctrl-C ends it at once."""
    try:
        with signals_raise():
            process.wait()
    except Stopped as again:
        process.send_signal(again.signum)
        _outlast(process)


def _reason(status: int, log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines(keepends=True) if log.is_file() else []
    return failure_reason(status, lines[-KEPT_LINES:])

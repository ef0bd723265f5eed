"""What a job is, how it ends, and what runs jobs: the protocol of `processes.Local` and `slurm.Submitit`."""

from __future__ import annotations

import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import FrameType
from typing import TypeVar

from hyplearn.errors import OK

# SIGHUP is what a terminal sends when its window is closed; it has no name where there are no terminals.
SIGNALS = tuple(signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if name in signal.Signals.__members__)


class JobState(Enum):
    """Where a job stands."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"
    EARLIER = "finished before"  # by an earlier command, or by another process
    FAILED = "failed"
    INTERRUPTED = "interrupted"  # by a signal to this command; the same command continues it
    PRUNED = "pruned"  # stopped by a search, as hopeless
    DIVERGED = "diverged"  # a search met a loss that is not finite, which is a result

    @property
    def good(self) -> bool:
        """Whether there is nothing left to do and nothing failed."""
        return self in (JobState.FINISHED, JobState.EARLIER)


@dataclass(eq=False)
class Job:
    """One run to be executed, and how far it is. Launchers keep its state.

    name: what messages and files call it. arguments: the command line of `hyplearn`, as in `train seed=2`.
    overrides: those of the arguments that say what is run. varied: what tells it from the others of its command, by
    key. log: the file that takes what it prints, None to show it where it runs alone. status: its exit status, None
    before its end. reason: of a failure. seconds: that it ran. same_as: an earlier job of the command that is the same
    run, and gives this one its results.
    """

    name: str
    arguments: tuple[str, ...]
    run_dir: Path
    overrides: tuple[str, ...] = ()
    varied: Mapping[str, str] = field(default_factory=dict)
    log: Path | None = None
    state: JobState = JobState.WAITING
    status: int | None = None
    reason: str = ""
    seconds: float = 0.0
    same_as: Job | None = None

    def begin(self) -> None:
        """Note its start; how it ended before is forgotten."""
        self.state, self.status, self.reason, self.seconds = JobState.RUNNING, None, "", 0.0

    def end(self, status: int, reason: str, seconds: float, *, stopped: int | None = None) -> None:
        """Note its end. stopped: the signal that its launcher had sent it, which need not be what ended it."""
        self.status, self.reason, self.seconds = status, reason, seconds
        if status == OK:
            self.state = JobState.FINISHED
        elif stopped is not None and status in (-stopped, 128 + stopped):
            self.state, self.status = JobState.INTERRUPTED, 128 + stopped
            self.reason = f"stopped by {signal.Signals(stopped).name}"
        else:
            self.state = JobState.FAILED


J = TypeVar("J", bound=Job)


class Launcher(ABC):
    """Runs jobs, up to `jobs` of them at a time, each a command line of `hyplearn` in a process of its own.

    So nothing that one job does (a crash, memory that the system took back, a seed) reaches another. `start`, `ended`
    and `signal` serve a command that watches its jobs while they run; `launch` one that only waits for their ends.
    """

    jobs: int
    pause: float  # seconds between two looks at the jobs that run

    @property
    @abstractmethod
    def running(self) -> Collection[Job]:
        """The jobs that were started and have not been found ended."""

    @abstractmethod
    def start(self, job: Job) -> None:
        """Start a job. There must be room for it."""

    @abstractmethod
    def ended(self) -> list[Job]:
        """Look at the jobs that run, note the end of those that are over, and return these."""

    @abstractmethod
    def signal(self, job: Job, signum: int) -> None:
        """Ask a running job to stop: a run that trains writes its checkpoint first."""

    @property
    def room(self) -> bool:
        """Whether one more job may be started."""
        return len(self.running) < self.jobs

    def launch(self, waiting: Iterator[J], began: Callable[[], None] = lambda: None) -> Iterator[J]:
        """Run jobs and yield each as it ends, in any order. One is taken from the iterator when there is room for it.

        began: called when one has been started.
        Raises Stopped once the jobs that ran have ended, if a signal asked for the end; their states say how.
        """
        started: dict[int, J] = {}
        try:
            while self._fill(waiting, started, began):
                over = self.ended()
                yield from (started.pop(id(job)) for job in over)
                if not over:
                    time.sleep(self.pause)
        except Stopped as stop:
            self.end(stop.signum)
            raise
        finally:
            if self.running:  # the caller met an error or a signal of its own, and left
                self.end(signal.SIGTERM)

    def end(self, signum: int) -> None:
        """Ask all jobs that run to stop, and wait until they have. A further signal is passed on."""
        try:
            for job in list(self.running):
                self.signal(job, signum)
            while self.running:
                if not self.ended():
                    time.sleep(self.pause)
        except Stopped as again:
            self.end(again.signum)

    def _fill(self, waiting: Iterator[J], started: dict[int, J], began: Callable[[], None]) -> bool:
        """Start jobs while there is room. False once nothing runs and nothing is left."""
        while self.room:
            job = next(waiting, None)
            if job is None:
                break
            started[id(job)] = job
            with signals_wait():
                self.start(job)
            began()
        return bool(self.running)


class Stopped(BaseException):
    """A signal asked the jobs to end. No `Exception`, as KeyboardInterrupt is none."""

    def __init__(self, signum: int) -> None:
        self.signum = signum
        super().__init__(f"stopped by {signal.Signals(signum).name}")

    @property
    def exit_status(self) -> int:
        """What a shell reports for this signal: 130 after Ctrl-C, 143 after SIGTERM, 129 after a hang-up."""
        return 128 + self.signum


@dataclass
class _Signals:
    """What the handlers know. waiting: a block of `signals_wait` runs. arrived: the first signal since it began."""

    waiting: bool = False
    arrived: int | None = None


_SIGNALS = _Signals()  # of this process, as its handlers are


@contextmanager
def signals_raise() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP raise Stopped inside the block. A hang-up that `nohup` ignores stays ignored."""

    def stop(signum: int, frame: FrameType | None) -> None:
        if not _SIGNALS.waiting:
            raise Stopped(signum)
        _SIGNALS.arrived = _SIGNALS.arrived or signum

    ignored = {number for number in SIGNALS[2:] if signal.getsignal(number) == signal.SIG_IGN}
    before = {number: signal.signal(number, stop) for number in SIGNALS if number not in ignored}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def signals_wait() -> Iterator[None]:
    """A signal that comes inside the block raises Stopped at its end: no job is started that nobody knows of."""
    before, _SIGNALS.waiting = _SIGNALS.waiting, True
    try:
        yield
    finally:
        _SIGNALS.waiting = before
        if not before and _SIGNALS.arrived is not None:
            signum, _SIGNALS.arrived = _SIGNALS.arrived, None
            raise Stopped(signum)

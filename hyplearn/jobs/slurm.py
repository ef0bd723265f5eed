"""Jobs handed to SLURM, or to its stand-in on this machine, through submitit."""

from __future__ import annotations

import signal
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hyplearn.errors import ConfigError
from hyplearn.jobs.launcher import Job, Launcher
from hyplearn.jobs.processes import Child

GRACE = 120.0  # seconds that a cancelled job of a queue has to write its checkpoint


class _Queued:
    """A job of the queue, since when."""

    def __init__(self, submitted: Any) -> None:
        self.submitted, self.began = submitted, time.monotonic()
        self.cancelled = False


@dataclass
class Submitit(Launcher):
    """Jobs handed to SLURM, or to its stand-in on this machine, through submitit.

    cluster: slurm or local. parameters: what the queue is asked for, in the names of `submitit.AutoExecutor`.
    folder: of submitit's scripts and logs. jobs: how many may be in the queue at once.
    """

    cluster: str
    folder: Path
    parameters: Mapping[str, Any] = field(default_factory=dict)
    jobs: int = 1
    pause = 1.0

    def __post_init__(self) -> None:
        """Ask for nothing yet: the queue is opened with the first job."""
        self._executor: Any = None
        self._queue: dict[Job, _Queued] = {}

    @property
    def running(self) -> Collection[Job]:
        return self._queue.keys()

    def start(self, job: Job) -> None:
        if self._executor is None:
            self._executor = self._opened()
        job.begin()
        self._queue[job] = _Queued(self._executor.submit(Remote(), job.arguments, job.log))

    def ended(self) -> list[Job]:
        over = []
        for job, queued in list(self._queue.items()):
            if not queued.submitted.done():
                continue
            status, reason = _outcome(queued.submitted)
            over.append(job)
            self._note(job, queued, status, reason)
        return over

    def _note(self, job: Job, queued: _Queued, status: int, reason: str) -> None:
        told = signal.SIGTERM if queued.cancelled else None
        if told is not None and status != 0:  # a queue reports a cancelled job in words of its own
            status = 128 + told
        job.end(status, reason, time.monotonic() - queued.began, stopped=told)
        del self._queue[job]

    def signal(self, job: Job, signum: int) -> None:
        """Cancel a job: the queue sends signals of its own."""
        queued = self._queue[job]
        queued.cancelled = True
        queued.submitted.cancel()

    def end(self, signum: int) -> None:
        """Cancel all jobs and wait for their ends, though not for a queue that says nothing more."""
        until = time.monotonic() + GRACE
        for job in list(self._queue):
            self.signal(job, signum)
        while self._queue and time.monotonic() < until:
            if not self.ended():
                time.sleep(self.pause)
        for job, queued in list(self._queue.items()):
            self._note(job, queued, 1, "")

    def _opened(self) -> Any:
        submitit = _submitit()
        try:
            executor = submitit.AutoExecutor(folder=self.folder, cluster=self.cluster)
            executor.update_parameters(name="hyplearn", **self.parameters)
        except (NameError, TypeError, ValueError, RuntimeError) as error:
            raise ConfigError(f"--launcher submitit: {error}") from error
        return executor


class Remote:
    """What runs inside a job of the queue: the command line, once more after a preemption or at the end of its time."""

    def __init__(self) -> None:
        self._child: Child | None = None

    def __call__(self, arguments: tuple[str, ...], log: Path | None) -> tuple[int, str]:
        """Run the command line; return its exit status and the reason of a failure."""
        job = Job("queued", tuple(arguments), Path(), log=log)
        self._child = Child(job, {}, True)
        try:
            status = self._child.wait()
        except KeyboardInterrupt:  # how submitit-local cancels a job
            status = self._stop()
        return status, self._child.reason()

    def checkpoint(self, arguments: tuple[str, ...], log: Path | None) -> Any:
        """Called by submitit before a job is taken away: the run writes its checkpoint, the job is queued again."""
        self._stop()
        return _submitit().helpers.DelayedSubmission(Remote(), arguments, log)

    def _stop(self) -> int:
        assert self._child is not None
        self._child.send_signal(signal.SIGTERM)
        return self._child.wait()

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._child = None


def _submitit() -> Any:
    try:
        import submitit
    except ModuleNotFoundError as error:
        raise ConfigError("--launcher submitit needs submitit: pip install 'hyplearn[slurm]'") from error
    return submitit


def _outcome(submitted: Any) -> tuple[int, str]:
    """Of a job that ended. One that the queue lost has no result."""
    error = submitted.exception()
    if error is not None:
        return 1, f"the queue: {(str(error).strip().splitlines() or [type(error).__name__])[-1]}"
    status, reason = submitted.result()
    return int(status), str(reason)

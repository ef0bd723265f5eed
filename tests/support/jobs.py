"""Jobs that run in this process, or not at all: ways to start a job in place of `processes.Child`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

from hyplearn.jobs.launcher import Job
from hyplearn.jobs.processes import Process

# Runs one command line of `hyplearn`; returns its exit status and the reason of a failure.
Runner = Callable[[Sequence[str]], tuple[int, str]]


class Over:
    """A job that is over when it was started."""

    def __init__(self, status: int, reason: str) -> None:
        self.status, self.why = status, reason

    def poll(self) -> int | None:
        return self.status

    def send_signal(self, signum: int) -> None:
        """There is nobody to hear it."""

    def reason(self) -> str:
        return self.why


class InThread(Over):
    """A job that runs in a thread of this process."""

    def __init__(self, run: Runner, arguments: Sequence[str]) -> None:
        super().__init__(0, "")
        self.thread = threading.Thread(target=self._run, args=(run, arguments))
        self.thread.start()

    def _run(self, run: Runner, arguments: Sequence[str]) -> None:
        self.status, self.why = run(arguments)

    def poll(self) -> int | None:
        return None if self.thread.is_alive() else self.status


def at_once(run: Runner) -> Callable[[Job, Mapping[str, str], bool], Process]:
    """Start a job by a call of `run`, which returns when the job is over."""
    return lambda job, variables, shown: Over(*run(job.arguments))


def in_thread(run: Runner) -> Callable[[Job, Mapping[str, str], bool], Process]:
    """Start a job by a call of `run` in a thread."""
    return lambda job, variables, shown: InThread(run, job.arguments)

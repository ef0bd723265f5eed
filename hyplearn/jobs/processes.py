"""Jobs as processes side by side on this machine, each with a GPU of its own where there are several."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import hyplearn
from hyplearn.errors import OK, ConfigError
from hyplearn.jobs.launcher import Job, Launcher, Stopped, signals_raise
from hyplearn.jobs.parent import PARENT

__all__ = ["Local", "Stopped", "devices", "signals_raise"]

KEPT_LINES = 40  # of what a job writes to stderr, to find the reason of a failure in
DRAIN = 2.0  # seconds that are left for the last lines of a job that ended: a process of its own may hold the pipe
VISIBLE = "CUDA_VISIBLE_DEVICES"


class Process(Protocol):
    """A job that was started: what its launcher needs of it."""

    def poll(self) -> int | None:
        """Return its exit status, None while it runs."""

    def send_signal(self, signum: int) -> None:
        """Signal it, if it still runs."""

    def reason(self) -> str:
        """Return why it failed, empty if it did not. Asked after its end."""


# Starts a job with variables of its own in its environment; the last argument says whether it shows what it prints.
Start = Callable[[Job, Mapping[str, str], bool], Process]


class Child:
    """A job in a process of its own: shown, silent, or with a file for what it prints."""

    def __init__(self, job: Job, variables: Mapping[str, str], shown: bool) -> None:
        self._log, self._shown = job.log, shown
        self._last: deque[str] = deque(maxlen=KEPT_LINES)
        self._status: int | None = None
        self._process = self._start(job, variables)
        # A thread waits, so that `poll` is free of locks: submitit calls it in a handler of signals.
        threading.Thread(target=self._watch, daemon=True).start()

    def _start(self, job: Job, variables: Mapping[str, str]) -> subprocess.Popen[str]:
        to_file = None if job.log is None else _opened(job.log)
        try:
            return subprocess.Popen(
                command(job.arguments),
                stdin=subprocess.DEVNULL,
                stdout=to_file or (None if self._shown else subprocess.DEVNULL),
                stderr=to_file or subprocess.PIPE,
                env=environment(variables),
                text=True,
                errors="replace",
                start_new_session=True,  # Ctrl-C reaches the job through this process alone, hence once
            )
        finally:
            if to_file is not None:
                os.close(to_file)

    def _watch(self) -> None:
        reader = threading.Thread(target=self._read, daemon=True)
        reader.start()
        status = self._process.wait()
        reader.join(DRAIN)
        self._status = status

    def _read(self) -> None:
        if self._process.stderr is None:  # it goes to a file
            return
        with self._process.stderr as lines:
            for line in lines:
                self._last.append(line)
                self._show(line)

    def _show(self, line: str) -> None:
        if not self._shown:
            return
        try:
            sys.stderr.write(line)
        except OSError:  # the terminal is gone; the job must not wait for somebody to read on
            self._shown = False

    def poll(self) -> int | None:
        return self._status

    def wait(self) -> int:
        """Wait for its end and return its exit status."""
        while self._status is None:
            time.sleep(Local.pause)
        return self._status

    def send_signal(self, signum: int) -> None:
        self._process.send_signal(signum)

    def reason(self) -> str:
        lines = list(self._last) if self._log is None else _tail(self._log)
        return failure_reason(self.wait(), lines)


class _Place(NamedTuple):
    """Where a job runs, since when."""

    process: Process
    device: str
    began: float


@dataclass
class Local(Launcher):
    """Up to `jobs` at a time on this machine; a job alone shows what it prints, several at once stay silent.

    devices: one entry for each job that may run at the same time, the GPU that it alone sees; empty to let a job see
    all there are. start_process: another way to start a job, for tests.
    """

    jobs: int = 1
    devices: Sequence[str] = ()
    start_process: Start = Child
    pause = 0.05

    def __post_init__(self) -> None:
        """Make room for the jobs; a text without a meaning stands for a device where there are none to share out."""
        self._free = list(self.devices) or [""] * self.jobs
        self._places: dict[Job, _Place] = {}
        self._told: dict[Job, int] = {}  # the last signal that each was sent

    @property
    def running(self) -> Collection[Job]:
        return self._places.keys()

    def start(self, job: Job) -> None:
        device = self._free.pop(0)
        job.begin()
        # A job that is shown alone runs as if it had been typed; what a search runs, also one at a time, has its share.
        shared = threads(self.jobs) if self.jobs > 1 or job.log is not None else {}
        on_device = {VISIBLE: device} if device else {}
        process = self.start_process(job, {**shared, **on_device}, self.jobs == 1)
        self._places[job] = _Place(process, device, time.monotonic())

    def ended(self) -> list[Job]:
        over = []
        for job, place in list(self._places.items()):
            status = place.process.poll()
            if status is None:
                continue
            job.end(status, place.process.reason(), time.monotonic() - place.began, stopped=self._told.get(job))
            over.append(job)
            del self._places[job]
            self._told.pop(job, None)
            self._free.append(place.device)
        return over

    def signal(self, job: Job, signum: int) -> None:
        """Pass a signal on; a hang-up as SIGTERM, which a run answers with a checkpoint."""
        self._told[job] = signum if signum in (signal.SIGINT, signal.SIGTERM) else signal.SIGTERM
        self._places[job].process.send_signal(self._told[job])


def command(arguments: Sequence[str]) -> list[str]:
    """What starts `hyplearn <arguments>` with this Python."""
    return [sys.executable, "-m", "hyplearn", *arguments]


def environment(own: Mapping[str, str]) -> dict[str, str]:
    """That of this process and `own`; in it the package is found even where a checkout is not installed."""
    source = str(Path(hyplearn.__file__).parents[1])
    search = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": search, PARENT: str(os.getpid()), **own}


def threads(jobs: int) -> dict[str, str]:
    """The share of the CPU that one of `jobs` jobs has, as a variable of its environment, unless it is set already."""
    return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))}


def failure_reason(status: int, lines: Iterable[str]) -> str:
    """What the last lines of a failed job say: its error message, or the last line of a traceback."""
    if status == OK:
        return ""
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    text = "".join(lines).strip()
    message = re.split(r"^error: ", text, flags=re.MULTILINE)
    return " ".join(message[-1].split()) if len(message) > 1 else (text.splitlines() or ["no message"])[-1]


def _opened(log: Path) -> int:
    """A descriptor at the end of a file, made with its folder where it is not there."""
    log.parent.mkdir(parents=True, exist_ok=True)
    return os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)


def _tail(log: Path) -> list[str]:
    return log.read_text(errors="replace").splitlines(keepends=True)[-KEPT_LINES:] if log.is_file() else []


def devices(jobs: int, per_gpu: int) -> list[str]:
    """The GPU of each job that may run at the same time, `per_gpu` of them on one; none where there is no GPU.

    A single job sees what there is. Raises ConfigError for more jobs than there are places.
    """
    found = visible_gpus()
    if jobs == 1 or not found:
        return []
    places = [gpu for _ in range(per_gpu) for gpu in found]
    if jobs > len(places):
        raise ConfigError(
            f"--jobs {jobs}: {len(found)} GPUs have room for {len(places)} jobs. Use --jobs {len(places)}, or let "
            f"several share one: --jobs-per-gpu {-(-jobs // len(found))}."
        )
    return places[:jobs]


def visible_gpus() -> list[str]:
    """The GPUs this process may use, as CUDA_VISIBLE_DEVICES names them. Starts no CUDA."""
    if VISIBLE in os.environ:
        return [name for name in os.environ[VISIBLE].split(",") if name not in ("", "-1", "NoDevFiles")]
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    listed = subprocess.run([program, "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True)
    return listed.stdout.split() if listed.returncode == 0 else []

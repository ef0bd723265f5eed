"""Where the jobs of a sweep or a table run: one after the other, several at once, or handed to SLURM.

A job is one command line of `hyplearn` in a process of its own, so that nothing one job does (a crash, memory the
system took back, a seed) reaches another.
"""

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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from types import FrameType
from typing import Any, NamedTuple, Protocol

import hyplearn
from hyplearn.errors import OK, ConfigError

KEPT_LINES = 40  # of what a job writes to stderr, to find the reason of a failure in
POLL = 1.0  # seconds between two looks at the jobs of a queue
GRACE = 120.0  # seconds that a cancelled job of a queue has to write its checkpoint
VISIBLE = "CUDA_VISIBLE_DEVICES"

# Runs one command line of `hyplearn`; returns its exit status and the reason of a failure.
Runner = Callable[[Sequence[str]], tuple[int, str]]


class Task(NamedTuple):
    """A job to run: what it is called, and its command line."""

    name: str
    arguments: tuple[str, ...]


class Ended(NamedTuple):
    """How a job ended: its exit status, the reason of a failure, the time it took."""

    status: int
    reason: str
    seconds: float


class Launcher(Protocol):
    """Runs tasks and yields each as it ends, in any order.

    A task is taken from the iterator when there is room for it. Raises Stopped once the jobs that run have ended, if a
    signal asked for the end.
    """

    def launch(self, tasks: Iterator[Task]) -> Iterator[tuple[Task, Ended]]: ...


class Stopped(BaseException):
    """A signal asked the jobs to end. No `Exception`, as KeyboardInterrupt is none."""

    def __init__(self, signum: int) -> None:
        self.signum = signum
        super().__init__(f"stopped by {signal.Signals(signum).name}")


@contextmanager
def signals_raise() -> Iterator[None]:
    """SIGINT and SIGTERM raise Stopped inside the block."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise Stopped(signum)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Processes:
    """The processes of the jobs that run now, to pass a signal on to all of them."""

    def __init__(self) -> None:
        self._lock, self._running = threading.RLock(), set[subprocess.Popen[str]]()
        self._signum: int | None = None

    @contextmanager
    def holding(self, process: subprocess.Popen[str]) -> Iterator[None]:
        """Count `process` in while the block runs."""
        with self._lock:
            self._running.add(process)
            if self._signum is not None:
                process.send_signal(self._signum)
        try:
            yield
        finally:
            with self._lock:
                self._running.discard(process)

    def send(self, signum: int) -> None:
        """Signal all of them, and those that a thread is just about to start."""
        with self._lock:
            self._signum = signum
            for process in self._running:
                process.send_signal(signum)

    def end(self) -> None:
        """Ask all of them to stop, and wait until they have."""
        self.send(signal.SIGTERM)
        for process in list(self._running):
            process.wait()


@dataclass
class Local:
    """Up to `jobs` at a time on this machine; a job alone shows what it prints, several at once stay silent.

    devices: one entry for each job that may run at the same time, the GPU that it alone sees; empty to let a job see
    all there are. run: another way to run a command line, for tests.
    """

    jobs: int = 1
    devices: Sequence[str] = ()
    run: Runner | None = None
    processes: Processes = field(default_factory=Processes)

    def launch(self, tasks: Iterator[Task]) -> Iterator[tuple[Task, Ended]]:
        if self.jobs == 1:
            for task in tasks:
                yield task, _timed(self.run or run_process, task)
            return
        slots = self._slots()
        with ThreadPoolExecutor(self.jobs) as pool:
            running: dict[Future[Ended], Task] = {}
            try:
                while _fill(running, tasks, self.jobs, lambda task: pool.submit(self._one, task, slots)):
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        yield running.pop(future), future.result()
            except Stopped as stop:
                self._end(running, stop)
                raise

    def _end(self, running: Iterable[Future[Ended]], stop: Stopped) -> None:
        """Pass signals on until every job has ended."""
        while True:
            self.processes.send(stop.signum)
            try:
                wait(running)
                return
            except Stopped as again:
                stop = again

    def _slots(self) -> SimpleQueue[str]:
        """A GPU for each job that may run; texts without a meaning where there are none to share out."""
        slots: SimpleQueue[str] = SimpleQueue()
        for device in self.devices or [""] * self.jobs:
            slots.put(device)
        return slots

    def _one(self, task: Task, slots: SimpleQueue[str]) -> Ended:
        device = slots.get()
        try:
            return _timed(self.run or (lambda arguments: self._process(arguments, device)), task)
        finally:
            slots.put(device)

    def _process(self, arguments: Sequence[str], device: str) -> tuple[int, str]:
        own = threads(self.jobs) | ({VISIBLE: device} if device else {})
        with _process(arguments, own, silent=True) as process:
            last: deque[str] = deque(maxlen=KEPT_LINES)
            with self.processes.holding(process):
                last.extend(process.stderr or ())
        return process.returncode, failure_reason(process.returncode, last)


@dataclass
class Joblib(Local):
    """As Local, with the threads that wait for the jobs from joblib."""

    def launch(self, tasks: Iterator[Task]) -> Iterator[tuple[Task, Ended]]:
        try:
            from joblib import Parallel, delayed  # type: ignore[import-untyped]
        except ModuleNotFoundError as error:
            raise ConfigError("--launcher joblib needs joblib: pip install 'hyplearn[joblib]'") from error
        slots = self._slots()
        pool = Parallel(self.jobs, backend="threading", return_as="generator_unordered", pre_dispatch="n_jobs")
        try:
            yield from pool(delayed(lambda task: (task, self._one(task, slots)))(task) for task in tasks)
        except Stopped as stop:
            self.processes.send(stop.signum)
            raise


@dataclass
class Submitit:
    """Jobs handed to SLURM, or to its stand-in on this machine, through submitit.

    cluster: slurm or local. parameters: what the queue is asked for, in the names of `submitit.AutoExecutor`.
    folder: of submitit's scripts and logs. jobs: how many may be in the queue at once.
    """

    cluster: str
    folder: Path
    parameters: Mapping[str, Any] = field(default_factory=dict)
    jobs: int = 1

    def launch(self, tasks: Iterator[Task]) -> Iterator[tuple[Task, Ended]]:
        executor = self._executor()
        running: dict[Any, Task] = {}
        started: dict[Any, float] = {}

        def submit(task: Task) -> Any:
            job = executor.submit(Remote(), task.arguments)
            started[job] = time.monotonic()
            return job

        try:
            while _fill(running, tasks, self.jobs, submit):
                for job in [job for job in running if job.done()]:
                    status, reason = _outcome(job)
                    yield running.pop(job), Ended(status, reason, time.monotonic() - started[job])
                time.sleep(POLL)
        except Stopped:
            for job in running:
                job.cancel()
            _await(running)
            raise

    def _executor(self) -> Any:
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
        self.processes = Processes()

    def __call__(self, arguments: Sequence[str]) -> tuple[int, str]:
        last: deque[str] = deque(maxlen=KEPT_LINES)
        with _process(arguments, {}) as process, self.processes.holding(process):
            try:
                _show(process.stderr or (), last)
            except KeyboardInterrupt:  # how submitit-local cancels a job
                self.processes.end()
        return process.returncode, failure_reason(process.returncode, last)

    def checkpoint(self, arguments: Sequence[str]) -> Any:
        """Called by submitit before a job is taken away: the run writes its checkpoint, the job is queued again."""
        self.processes.end()
        return _submitit().helpers.DelayedSubmission(Remote(), arguments)

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.processes = Processes()


def _submitit() -> Any:
    try:
        import submitit
    except ModuleNotFoundError as error:
        raise ConfigError("--launcher submitit needs submitit: pip install 'hyplearn[slurm]'") from error
    return submitit


def _outcome(job: Any) -> tuple[int, str]:
    """Of a job that ended. One that the queue lost has no result."""
    error = job.exception()
    if error is not None:
        return 1, f"the queue: {(str(error).strip().splitlines() or [type(error).__name__])[-1]}"
    status, reason = job.result()
    return int(status), str(reason)


def _await(jobs: Iterable[Any]) -> None:
    end = time.monotonic() + GRACE
    while time.monotonic() < end and not all(job.done() for job in jobs):
        time.sleep(POLL)


def _fill(running: dict[Any, Task], tasks: Iterator[Task], limit: int, start: Callable[[Task], Any]) -> bool:
    """Start tasks while there is room. False once nothing runs and nothing is left."""
    while len(running) < limit:
        task = next(tasks, None)
        if task is None:
            break
        running[start(task)] = task
    return bool(running)


def _timed(run: Runner, task: Task) -> Ended:
    started = time.monotonic()
    status, reason = run(task.arguments)
    return Ended(status, reason, time.monotonic() - started)


def run_process(arguments: Sequence[str]) -> tuple[int, str]:
    """Run `hyplearn <arguments>` in a process of its own, its stderr shown and its last lines searched for a reason.

    A signal to this process is passed on once; the job then writes its checkpoint, and Stopped is raised.
    """
    last: deque[str] = deque(maxlen=KEPT_LINES)
    with _process(arguments, {}) as process:
        assert process.stderr is not None
        try:
            _show(process.stderr, last)
        except Stopped as stop:
            process.send_signal(stop.signum)
            _show(process.stderr, last)
            raise
    return process.returncode, failure_reason(process.returncode, last)


def _process(arguments: Sequence[str], own: Mapping[str, str], *, silent: bool = False) -> subprocess.Popen[str]:
    """Start `hyplearn <arguments>` with variables of its own in its environment."""
    return subprocess.Popen(
        command(arguments),
        stdout=subprocess.DEVNULL if silent else None,
        stderr=subprocess.PIPE,
        env=environment(own),
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C reaches the job through this process alone, hence once
    )


def command(arguments: Sequence[str]) -> list[str]:
    """What starts `hyplearn <arguments>` with this Python."""
    return [sys.executable, "-m", "hyplearn", *arguments]


def environment(own: Mapping[str, str]) -> dict[str, str]:
    """That of this process and `own`; in it the package is found even where a checkout is not installed."""
    source = str(Path(hyplearn.__file__).parents[1])
    search = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": search, **own}


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


def _show(stream: Iterable[str], last: deque[str]) -> None:
    for line in stream:
        sys.stderr.write(line)
        last.append(line)


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

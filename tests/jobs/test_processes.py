from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from hyplearn.cli.main import main
from hyplearn.errors import ConfigError
from hyplearn.jobs import processes
from hyplearn.jobs.launcher import Job, JobState, Stopped, signals_raise, signals_wait
from hyplearn.jobs.processes import Child, Local, Process, devices, failure_reason, visible_gpus
from tests.support.jobs import InThread, at_once, in_thread


def job(*arguments: str, log: Path | None = None) -> Job:
    return Job(name=arguments[0], arguments=arguments, run_dir=Path(), log=log)


def jobs(count: int) -> Iterator[Job]:
    return iter([job(str(number)) for number in range(count)])


@pytest.fixture
def sleeping(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every job is a process that sleeps so many seconds."""
    monkeypatch.setattr(processes, "command", lambda arguments: ["sleep", *arguments])


class Counted:
    """Notes how many run at the same time."""

    def __init__(self) -> None:
        self.lock, self.now, self.most = threading.Lock(), 0, 0

    def __call__(self, arguments: Sequence[str]) -> tuple[int, str]:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.05)
        with self.lock:
            self.now -= 1
        return int(arguments[0]) % 2, f"reason {arguments[0]}"


@pytest.mark.parametrize("count", [1, 3])
def test_so_many_run_at_a_time_and_each_ends_once(count: int) -> None:
    run = Counted()
    ended = {job.name: job for job in Local(count, start_process=in_thread(run)).launch(jobs(7))}
    assert run.most == count
    assert sorted(ended) == [str(number) for number in range(7)]
    assert all(job.status == int(name) % 2 and job.reason == f"reason {name}" for name, job in ended.items())
    assert ended["0"].state is JobState.FINISHED
    assert ended["1"].state is JobState.FAILED


def test_a_job_is_taken_when_there_is_room_for_it() -> None:
    taken = []

    def source() -> Iterator[Job]:
        for job in jobs(5):
            taken.append(job.name)
            yield job

    launched = Local(2, start_process=at_once(lambda arguments: (0, ""))).launch(source())
    next(launched)
    assert len(taken) == 2
    assert len(list(launched)) == 4


def test_jobs_share_out_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four jobs, two at a time: no two see the same device at once, and each has its share of the processor."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-ab")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    lock, in_use, seen = threading.Lock(), list[str](), list[str]()

    def start(job: Job, variables: Mapping[str, str], shown: bool) -> Process:
        assert not shown
        assert variables["OMP_NUM_THREADS"] == str(max(1, (os.cpu_count() or 1) // 2))

        def run(arguments: Sequence[str]) -> tuple[int, str]:
            with lock:
                assert variables["CUDA_VISIBLE_DEVICES"] not in in_use
                in_use.append(variables["CUDA_VISIBLE_DEVICES"])
                seen.append(variables["CUDA_VISIBLE_DEVICES"])
            time.sleep(0.05)
            with lock:
                in_use.remove(variables["CUDA_VISIBLE_DEVICES"])
            return 0, ""

        return InThread(run, job.arguments)

    assert len(list(Local(2, devices(2, 1), start).launch(jobs(4)))) == 4
    assert set(seen) == {"4", "GPU-ab"}
    assert len(seen) == 4


def test_a_job_that_is_shown_alone_has_the_environment_of_one_that_was_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    given = []

    def start(job: Job, variables: Mapping[str, str], shown: bool) -> Process:
        given.append((dict(variables), shown))
        return InThread(lambda arguments: (0, ""), job.arguments)

    list(Local(start_process=start).launch(iter([job("typed"), job("searched", log=Path("a.log"))])))
    assert given == [({}, True), ({"OMP_NUM_THREADS": str(os.cpu_count())}, True)]


@pytest.mark.parametrize(
    ("visible", "gpus"), [("0,2", ["0", "2"]), ("", []), ("-1", []), ("GPU-1f,GPU-2a", ["GPU-1f", "GPU-2a"])]
)
def test_gpus_that_may_be_used(monkeypatch: pytest.MonkeyPatch, visible: str, gpus: list[str]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert visible_gpus() == gpus


def test_two_jobs_on_one_gpu_only_if_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert devices(1, 1) == []  # it sees both
    assert devices(2, 1) == ["0", "1"]
    assert devices(4, 2) == ["0", "1", "0", "1"]
    with pytest.raises(ConfigError, match=r"2 GPUs have room for 2 jobs. Use --jobs 2, or .* --jobs-per-gpu 2"):
        devices(3, 1)


@pytest.mark.parametrize(
    ("sent", "received"),
    [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGINT), (signal.SIGHUP, signal.SIGTERM)],
)
def test_a_signal_reaches_every_job_that_runs(sleeping: None, sent: signal.Signals, received: signal.Signals) -> None:
    """A hang-up as SIGTERM, which a run answers with a checkpoint."""
    waiting = [job("60") for _ in range(5)]
    timer = threading.Timer(0.2, os.kill, (os.getpid(), sent))
    with signals_raise(), pytest.raises(Stopped) as caught:  # noqa: PT012
        timer.start()
        list(Local(2).launch(iter(waiting)))
    assert caught.value.exit_status == 128 + sent
    assert [job.state for job in waiting] == [JobState.INTERRUPTED] * 2 + [JobState.WAITING] * 3
    assert [(job.status, job.reason) for job in waiting[:2]] == [(128 + received, f"stopped by {received.name}")] * 2


def test_a_hang_up_that_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals_raise():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_while_a_job_starts_comes_when_it_has_started() -> None:
    steps = []
    with signals_raise(), pytest.raises(Stopped), signals_wait():  # noqa: PT012
        os.kill(os.getpid(), signal.SIGTERM)
        steps.append("started")
    assert steps == ["started"]


def test_no_job_outlives_an_error_of_the_command(sleeping: None) -> None:
    waiting = [job("60"), job("0")]
    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        for _ in Local(2).launch(iter(waiting)):
            1 / 0  # noqa: B018
    assert waiting[0].state is JobState.INTERRUPTED


def test_a_job_can_be_stopped_while_others_run(sleeping: None) -> None:
    launcher = Local(2)
    hopeless, other = job("60"), job("0.3")
    launcher.start(hopeless)
    launcher.start(other)
    assert not launcher.room
    launcher.signal(hopeless, signal.SIGTERM)
    over = list[Job]()
    while launcher.running:
        over += launcher.ended()
        time.sleep(0.01)
    assert over == [hopeless, other]
    assert [job.state for job in over] == [JobState.INTERRUPTED, JobState.FINISHED]
    assert launcher.room


def test_a_process_of_its_own_for_each_job(capfd: pytest.CaptureFixture[str]) -> None:
    good, bad = Local().launch(iter([job("--version"), job("train", "model=hecn_r18")]))
    assert (good.status, good.reason) == (0, "")
    assert bad.status == 2
    assert bad.reason.startswith("unknown choice model=hecn_r18. Did you mean hecnn_r18?")
    shown = capfd.readouterr()
    assert shown.out.startswith("hyplearn ")
    assert "error: unknown choice model=hecn_r18" in shown.err


def test_several_at_once_are_silent_and_a_log_takes_what_one_prints(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "new" / "bad.log"
    waiting = [job("--version"), job("train", "model=hecn_r18", log=log)]
    _, bad = sorted(Local(2).launch(iter(waiting)), key=waiting.index)
    assert capfd.readouterr() == ("", "")
    assert log.read_text().startswith("error: unknown choice model=hecn_r18")
    assert bad.reason.startswith("unknown choice model=hecn_r18. Did you mean hecnn_r18?")


def test_a_process_that_keeps_the_pipe_open_does_not_keep_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a worker that loads data may, for a moment longer than the run that started it."""
    monkeypatch.setattr(processes, "DRAIN", 0.1)
    script = "import subprocess, sys; print('last', file=sys.stderr); subprocess.Popen(['sleep', '3']); sys.exit(4)"
    monkeypatch.setattr(processes, "command", lambda arguments: [sys.executable, "-c", script])
    began = time.monotonic()
    child = Child(job("any"), {}, False)
    assert (child.wait(), child.reason()) == (4, "last")
    assert time.monotonic() - began < 2.5


@pytest.mark.parametrize(
    ("status", "lines", "reason"),
    [
        (0, ["a warning\n"], ""),
        (-9, ["progress\n"], "killed by SIGKILL"),
        (2, ["a warning\n", "error: first line\n", "second line\n"], "first line second line"),
        (1, ["Traceback\n", "  File x\n", "RuntimeError: broken\n"], "RuntimeError: broken"),
        (1, [], "no message"),
    ],
)
def test_reason_of_a_failure(status: int, lines: list[str], reason: str) -> None:
    assert failure_reason(status, lines) == reason


def test_several_jobs_need_a_multirun(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--jobs", "2"]) == 2
    assert "add -m" in capsys.readouterr().err

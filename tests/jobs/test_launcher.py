from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from hyplearn.cli.main import main
from hyplearn.errors import ConfigError
from hyplearn.jobs import launcher as launch
from hyplearn.jobs.launcher import Joblib, Local, Stopped, Submitit, Task, devices, signals_raise, visible_gpus


def tasks(count: int) -> Iterator[Task]:
    return iter([Task(str(number), (str(number),)) for number in range(count)])


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


@pytest.mark.parametrize("kind", [Local, Joblib])
@pytest.mark.parametrize("jobs", [1, 3])
def test_so_many_run_at_a_time_and_each_ends_once(kind: type[Local], jobs: int) -> None:
    if kind is Joblib:
        pytest.importorskip("joblib")
    run = Counted()
    ended = {task.name: end for task, end in kind(jobs, run=run).launch(tasks(7))}
    assert run.most == jobs
    assert sorted(ended) == [str(number) for number in range(7)]
    assert all(end.status == int(name) % 2 and end.reason == f"reason {name}" for name, end in ended.items())


def test_a_task_is_taken_when_there_is_room_for_it() -> None:
    taken = []

    def source() -> Iterator[Task]:
        for task in tasks(5):
            taken.append(task.name)
            yield task

    launched = Local(2, run=Counted()).launch(source())
    next(launched)
    assert len(taken) == 2
    list(launched)


def test_jobs_share_out_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four jobs in processes of their own, two at a time: no two see the same device at once."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-ab")
    lock, in_use, seen = threading.Lock(), list[str](), list[str]()

    class Process(subprocess.Popen[str]):
        def __init__(self, *args: object, **kwargs: object) -> None:
            device = kwargs["env"]["CUDA_VISIBLE_DEVICES"]  # type: ignore[index]
            with lock:
                assert device not in in_use
                in_use.append(device)
                seen.append(device)
            self.device = device
            super().__init__(["sleep", "0.1"], stderr=subprocess.PIPE, text=True)

        def __exit__(self, *exception: object) -> None:
            with lock:
                in_use.remove(self.device)
            super().__exit__(*exception)  # type: ignore[arg-type]

    monkeypatch.setattr(launch.subprocess, "Popen", Process)
    assert len(list(Local(2, devices(2, 1)).launch(tasks(4)))) == 4
    assert set(seen) == {"4", "GPU-ab"}
    assert len(seen) == 4


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


def test_a_signal_reaches_every_job_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    started = list[subprocess.Popen[str]]()

    def sleep(arguments: Sequence[str], own: object, *, silent: bool = False) -> subprocess.Popen[str]:
        started.append(subprocess.Popen(["sleep", "60"], stderr=subprocess.PIPE, text=True))
        if len(started) == 2:
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
        return started[-1]

    monkeypatch.setattr(launch, "_process", sleep)
    with signals_raise(), pytest.raises(Stopped):
        list(Local(2).launch(tasks(5)))
    assert [process.returncode for process in started] == [-signal.SIGTERM] * 2


def test_several_jobs_need_a_multirun(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--jobs", "2"]) == 2
    assert "add -m" in capsys.readouterr().err


@pytest.mark.slow
def test_submitit_runs_jobs_in_processes_of_this_machine(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    queue = Submitit("local", tmp_path, {"timeout_min": 5}, jobs=2)
    lines = [Task("good", ("--version",)), Task("bad", ("train", "model=hecn_r18"))]
    ended = {task.name: end for task, end in queue.launch(iter(lines))}
    assert (ended["good"].status, ended["good"].reason) == (0, "")
    assert ended["bad"].status == 2
    assert "Did you mean hecnn_r18?" in ended["bad"].reason


def test_an_unknown_wish_of_the_queue_is_named(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    with pytest.raises(ConfigError, match="--launcher submitit"):
        list(Submitit("slurm", tmp_path, {"slurm_colour": "red"}).launch(tasks(1)))

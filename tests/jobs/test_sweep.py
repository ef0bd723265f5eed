from __future__ import annotations

import csv
import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from hyplearn.cli.main import main
from hyplearn.config.compose import compose
from hyplearn.errors import ConfigError
from hyplearn.jobs import sweep as sweep_module
from hyplearn.jobs.launcher import Job, JobState
from hyplearn.jobs.processes import Local, failure_reason
from hyplearn.jobs.sweep import run_sweep
from hyplearn.runs.lock import occupied
from tests.support.jobs import at_once, sweep

SMOKE = ("experiment=smoke", "trainer.max_epochs=1", "trainer.limit_train_batches=1", "trainer.progress=none")

NAMES = ("1_seed-2", "2_seed-3")


@pytest.fixture(autouse=True)
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Recorded:
    """Runs nothing: notes the command lines, and ends each job as told."""

    def __init__(self, *endings: tuple[int, str]) -> None:
        self.endings, self.lines = iter(endings), []

    def __call__(self, arguments: Sequence[str]) -> tuple[int, str]:
        self.lines.append(list(arguments))
        status, reason = next(self.endings)
        if status == 0:
            run_dir = Path(compose(arguments[1:]).config["output_dir"])
            run_dir.mkdir(parents=True, exist_ok=True)
            (run_dir / "results.json").write_text(json.dumps({"metrics": {"test/top1": 97.5}, "status": "finished"}))
        return status, reason


def only_sweep() -> Path:
    (folder,) = Path("outputs/multirun").iterdir()
    return folder


def test_jobs_get_directories_of_their_own_and_one_group() -> None:
    run = Recorded(*[(0, "")] * 4)
    assert sweep(["manifold.c=0.1,1", "seed=1,2"], launcher=Local(start_process=at_once(run))) == 0
    folder = only_sweep()
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == [
        "0_manifold.c-0.1_seed-1",
        "1_manifold.c-0.1_seed-2",
        "2_manifold.c-1_seed-1",
        "3_manifold.c-1_seed-2",
    ]
    assert all(line[0] == "train" and f"logger.group='{folder.name}'" in line for line in run.lines)


def test_a_group_that_was_typed_stays() -> None:
    run = Recorded((0, ""))
    sweep(["logger.group=mine"], launcher=Local(start_process=at_once(run)))
    assert [text for text in run.lines[0] if text.startswith("logger.group=")] == ["logger.group=mine"]


def test_a_failed_job_does_not_hide_and_the_rest_run(capsys: pytest.CaptureFixture[str]) -> None:
    run = Recorded((0, ""), (1, "RuntimeError: out of memory"), (0, ""))
    assert sweep(["seed=1,2,3"], launcher=Local(start_process=at_once(run))) == 1
    folder = only_sweep()
    jobs = json.loads((folder / "summary.json").read_text())["jobs"]
    assert [job["state"] for job in jobs] == ["ok", "failed", "ok"]
    assert (jobs[1]["exit_status"], jobs[1]["reason"]) == (1, "RuntimeError: out of memory")
    rows = list(csv.DictReader((folder / "summary.csv").read_text().splitlines()))
    assert [(row["seed"], row["state"], row["test/top1"]) for row in rows] == [
        ("1", "ok", "97.5"),
        ("2", "failed", ""),
        ("3", "ok", "97.5"),
    ]
    shown = capsys.readouterr().out
    assert "job 1 failed: RuntimeError: out of memory\n" in shown
    assert "2 of 3 jobs ok" in shown


def test_a_signal_ends_the_sweep_and_leaves_its_summary() -> None:
    def stopped(arguments: Sequence[str]) -> tuple[int, str]:
        os.kill(os.getpid(), signal.SIGTERM)
        return 143, ""

    before = signal.getsignal(signal.SIGTERM)
    assert sweep(["seed=1,2"], launcher=Local(start_process=at_once(stopped))) == 143
    assert signal.getsignal(signal.SIGTERM) is before
    jobs = json.loads((only_sweep() / "summary.json").read_text())["jobs"]
    assert [(job["state"], job["exit_status"]) for job in jobs] == [("interrupted", 143), ("not run", None)]


def test_the_same_command_goes_on_with_a_sweep_that_was_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    """What is finished is not run again, what was interrupted continues, the rest begins."""
    line = ["seed=1,2,3", "output_dir=grid"]

    def stopped(arguments: Sequence[str]) -> tuple[int, str]:
        if "seed=1" in arguments:
            return Recorded((0, ""))(arguments)
        (Path("grid") / "1_seed-2" / "checkpoints").mkdir(parents=True)
        os.kill(os.getpid(), signal.SIGTERM)
        return 143, ""

    assert sweep(line, launcher=Local(start_process=at_once(stopped))) == 143
    capsys.readouterr()
    again = Recorded((0, ""), (0, ""))
    assert sweep(line, launcher=Local(start_process=at_once(again))) == 0
    assert [text for line in again.lines for text in line if text.startswith("seed=")] == ["seed=2", "seed=3"]
    assert ["resume=auto" in line for line in again.lines] == [True, False]
    assert all(f"output_dir='grid/{name}'" in line for name, line in zip(NAMES, again.lines, strict=True))
    jobs = json.loads(Path("grid/summary.json").read_text())["jobs"]
    assert [(job["state"], job["exit_status"]) for job in jobs] == [("ok", 0)] * 3
    shown = capsys.readouterr().out
    assert "[job 0] seed=1: finished before\n" in shown
    assert "3 of 3 jobs ok" in shown
    nothing = Recorded()
    assert sweep(line, launcher=Local(start_process=at_once(nothing))) == 0
    assert nothing.lines == []


def test_what_ended_after_its_command_was_killed_is_not_run_again() -> None:
    line = ["seed=1,2", "output_dir=grid"]
    assert sweep(line, launcher=Local(start_process=at_once(Recorded((0, ""), (0, ""))))) == 0
    path = Path("grid/summary.json")
    summary = json.loads(path.read_text())
    for job in summary["jobs"]:  # as SIGKILL leaves it, written by a version that did not note the overrides
        job.update(state="running", exit_status=None, results={})
        del job["overrides"]
    path.write_text(json.dumps(summary))
    nothing = Recorded()
    assert sweep(line, launcher=Local(start_process=at_once(nothing))) == 0
    assert nothing.lines == []
    jobs = json.loads(path.read_text())["jobs"]
    assert [job["results"]["metrics"] for job in jobs] == [{"test/top1": 97.5}] * 2


@pytest.mark.parametrize("other", [["seed=1,3"], ["seed=1,2,3"], ["seed=1,2", "optim.lr=0.5"]])
def test_a_folder_of_other_jobs_is_refused(other: list[str]) -> None:
    assert sweep(["seed=1,2", "output_dir=grid"], launcher=Local(start_process=at_once(Recorded(*[(0, "")] * 2)))) == 0
    with pytest.raises(ConfigError, match="grid holds a sweep of other jobs"):
        sweep([*other, "output_dir=grid"], launcher=Local(start_process=at_once(Recorded())))


def test_a_job_that_still_trains_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["seed=1,2", "output_dir=grid"]
    sweep(line, launcher=Local(start_process=at_once(Recorded((0, ""), (1, "killed")))))
    Path("grid/1_seed-2").mkdir()
    with occupied(Path("grid/1_seed-2")):
        monkeypatch.setattr(sweep_module, "WAIT", 0.01)
        monkeypatch.setattr(sweep_module, "PATIENCE", 0.05)
        with pytest.raises(ConfigError, match=r"job 1 is still being trained by process \d+ on"):
            sweep(line, launcher=Local(start_process=at_once(Recorded())))
    assert "[job 1] waiting for process" in capsys.readouterr().out
    assert sweep(line, launcher=Local(start_process=at_once(Recorded((0, ""))))) == 0


def test_mean_and_spread_over_the_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    def run(arguments: Sequence[str]) -> tuple[int, str]:
        config = compose(arguments[1:]).config
        if config["seed"] == 3 and config["manifold"]["c"] == 1:
            return 1, "out of memory"
        run_dir = Path(config["output_dir"])
        run_dir.mkdir(parents=True)
        metrics = {"test/top1": 90.0 + config["seed"] - config["manifold"]["c"], "val/loss": 1.0}
        (run_dir / "results.json").write_text(json.dumps({"metrics": metrics, "status": "finished"}))
        return 0, ""

    line = ["manifold.c=0.5,1", "seed=1,2,3", "output_dir=grid"]
    assert sweep(line, launcher=Local(start_process=at_once(run))) == 1
    half, one = json.loads(Path("grid/summary.json").read_text())["over_seeds"]
    assert half == {
        "varied": {"manifold.c": "0.5"},
        "seeds": ["1", "2", "3"],
        "metrics": {"test/top1": {"mean": 91.5, "std": 1.0}},
    }
    assert (one["seeds"], one["metrics"]["test/top1"]["mean"]) == (["1", "2"], 90.5)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["0.5", "3", "91.50", "±", "1.00"] in lines
    assert ["1", "2", "90.50", "±", "0.71"] in lines


def test_jobs_of_a_launcher_run_as_they_come(capsys: pytest.CaptureFixture[str]) -> None:
    """What a plugin of Hydra calls: command lines and directories are its own."""
    folder = Path("somewhere")
    found = [
        Job(str(number), ("train", f"seed={number}", "hydra.mode=RUN"), folder / str(number), (f"seed={number}",))
        for number in range(2)
    ]
    lines = []

    def run(arguments: Sequence[str]) -> tuple[int, str]:
        lines.append(list(arguments))
        return (0, "") if "seed=0" in arguments else (1, "broken")

    jobs = run_sweep(folder, found, Local(start_process=at_once(run)))
    assert jobs == found
    assert [job.state for job in jobs] == [JobState.FINISHED, JobState.FAILED]
    assert lines == [["train", "seed=0", "hydra.mode=RUN"], ["train", "seed=1", "hydra.mode=RUN"]]
    assert "1 of 2 jobs ok" in capsys.readouterr().out
    (folder / "1").mkdir()
    for job in found:
        job.state = JobState.WAITING
    run_sweep(folder, found, Local(start_process=at_once(run)))
    assert lines[2:] == [["train", "seed=1", "hydra.mode=RUN", "output_dir='somewhere/1'", "resume=auto"]]


def test_jobs_train_and_one_fails(capsys: pytest.CaptureFixture[str]) -> None:
    def here(arguments: Sequence[str]) -> tuple[int, str]:
        status = main(arguments)
        return status, failure_reason(status, capsys.readouterr().err.splitlines(keepends=True))

    assert sweep([*SMOKE, "optim=rsgd,sgd", "output_dir=grid"], launcher=Local(start_process=at_once(here))) == 1
    jobs = json.loads(Path("grid/summary.json").read_text())["jobs"]
    assert [job["exit_status"] for job in jobs] == [0, 2]
    assert "SGD cannot train" in jobs[1]["reason"]
    assert jobs[0]["results"]["status"] == "finished"
    assert Path("grid/0_optim-rsgd/config.yaml").is_file()


def test_equal_jobs_run_once_and_share_the_results(capsys: pytest.CaptureFixture[str]) -> None:
    run = Recorded(*[(0, "")] * 3)
    assert sweep(["model=sph_vit_s,hyp_vit_s", "manifold.c=0.1,1"], launcher=Local(start_process=at_once(run))) == 0
    ran = [[text for text in line if text.startswith(("model=", "manifold."))] for line in run.lines]
    assert ran == [
        ["model=sph_vit_s", "manifold.c=0.1"],
        ["model=hyp_vit_s", "manifold.c=0.1"],
        ["model=hyp_vit_s", "manifold.c=1"],
    ]
    jobs = json.loads((only_sweep() / "summary.json").read_text())["jobs"]
    assert [job["state"] for job in jobs] == ["ok", "ok, as job 0", "ok", "ok"]
    assert jobs[1]["run_dir"] == jobs[0]["run_dir"]
    assert jobs[1]["results"] == jobs[0]["results"]
    assert jobs[1]["varied"] == {"model": "sph_vit_s", "manifold.c": "1"}
    shown = capsys.readouterr().out
    assert "[job 1] model=sph_vit_s manifold.c=1: the same run as job 0\n" in shown
    assert "4 of 4 jobs ok" in shown


def test_jobs_equal_to_one_that_failed_failed_too() -> None:
    run = Recorded((1, "RuntimeError: out of memory"), (0, ""))
    assert sweep(["model=sph_vit_s,hyp_vit_s", "manifold.c=1,1.0"], launcher=Local(start_process=at_once(run))) == 1
    jobs = json.loads((only_sweep() / "summary.json").read_text())["jobs"]
    assert [(job["state"], job["exit_status"]) for job in jobs[:2]] == [("failed", 1), ("failed, as job 0", 1)]
    assert [job["state"] for job in jobs[2:]] == ["ok", "ok, as job 2"]


def test_the_table_has_a_column_for_each_key_that_varies(capsys: pytest.CaptureFixture[str]) -> None:
    sweep(
        ["manifold.c=0.1,1", "seed=1,2", "optim.lr=0.5"],
        launcher=Local(start_process=at_once(Recorded(*[(0, "")] * 4))),
    )
    lines = capsys.readouterr().out.splitlines()
    (header,) = [line for line in lines if line.split()[:1] == ["job"]]
    assert header.split() == ["job", "manifold.c", "seed", "state", "test", "top-1", "time"]
    rows = [line.split()[:5] for line in lines if line.split()[3:5] == ["ok", "97.50"]]
    assert rows == [
        [str(number), c, seed, "ok", "97.50"]
        for number, (c, seed) in enumerate([("0.1", "1"), ("0.1", "2"), ("1", "1"), ("1", "2")])
    ]


@pytest.mark.slow
def test_a_grid_over_models_temperatures_and_curvatures(capfd: pytest.CaptureFixture[str]) -> None:
    """Each job in a process of its own, as a user runs it."""
    grid = ["model=sph_vit_s,hyp_vit_s,mix_vit_s", "loss.tau=0.05,0.2", "manifold.c=0.1,1"]
    short = ["trainer.max_epochs=1", "trainer.limit_train_batches=1", "trainer.progress=none", "callbacks=minimal"]
    assert main(["train", "-m", *grid, *short, "trainer.num_threads=1"]) == 0
    rows = list(csv.DictReader((only_sweep() / "summary.csv").read_text().splitlines()))
    assert [row["state"] for row in rows] == ["ok", "ok, as job 0", "ok", "ok, as job 2", *["ok"] * 8]
    assert all(0 < float(row["test/recall@1"]) <= 100 for row in rows)
    out = capfd.readouterr().out
    assert "test R@1" in out
    assert "12 of 12 jobs ok" in out

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
from hyplearn.jobs.launcher import failure_reason, run_process
from hyplearn.jobs.sweep import expand, sweep

SMOKE = ("experiment=smoke", "trainer.max_epochs=1", "trainer.limit_train_batches=1", "trainer.progress=none")


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
            run_dir.mkdir(parents=True)
            (run_dir / "results.json").write_text(json.dumps({"metrics": {"test/top1": 97.5}, "status": "finished"}))
        return status, reason


def only_sweep() -> Path:
    (folder,) = Path("outputs/multirun").iterdir()
    return folder


@pytest.mark.parametrize(
    ("overrides", "varied"),
    [
        (
            ["manifold.c=0.1,1", "seed=1,2"],
            [
                {"manifold.c": "0.1", "seed": "1"},
                {"manifold.c": "0.1", "seed": "2"},
                {"manifold.c": "1", "seed": "1"},
                {"manifold.c": "1", "seed": "2"},
            ],
        ),
        (["seed=range(1,4)"], [{"seed": "1"}, {"seed": "2"}, {"seed": "3"}]),
        (["optim=choice(rsgd,radamw)"], [{"optim": "rsgd"}, {"optim": "radamw"}]),
        (["model=glob(hcnn_r*)"], [{"model": "hcnn_r18"}, {"model": "hcnn_r50"}]),
        (
            ["model.stages=[euclidean,lorentz],[lorentz]"],
            [{"model.stages": "[euclidean,lorentz]"}, {"model.stages": "[lorentz]"}],
        ),
        (["seed=3"], [{}]),
        ([], [{}]),
    ],
)
def test_expand(overrides: list[str], varied: list[dict[str, str]]) -> None:
    _, jobs = expand(overrides)
    assert [dict(job.varied) for job in jobs] == varied


def test_expand_keeps_the_values_that_do_not_vary() -> None:
    output_dir, jobs = expand(["output_dir=here", "seed=1,2", "optim.lr=0.5"])
    assert output_dir == "here"
    assert [job.overrides for job in jobs] == [("seed=1", "optim.lr=0.5"), ("seed=2", "optim.lr=0.5")]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["resume=auto", "seed=1,2"], "resume continues one run"),
        (["output_dir=a,b"], "a multirun has one directory"),
        (["seed=interval(1,2)"], "needs single values"),
        (["model=glob(vit*)"], "matches no choice of model"),
        (["seed=1,2", "lr=0.1"], "unknown key lr. Did you mean optim.lr?"),
    ],
)
def test_a_sweep_that_cannot_start(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        sweep(overrides, run=Recorded())
    assert message in str(caught.value)
    assert not Path("outputs").exists()


def test_jobs_get_directories_of_their_own_and_one_group() -> None:
    run = Recorded(*[(0, "")] * 4)
    assert sweep(["manifold.c=0.1,1", "seed=1,2"], run=run) == 0
    folder = only_sweep()
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == [
        "0_manifold.c-0.1_seed-1",
        "1_manifold.c-0.1_seed-2",
        "2_manifold.c-1_seed-1",
        "3_manifold.c-1_seed-2",
    ]
    assert all(line[0] == "train" and f"logger.group={folder.name}" in line for line in run.lines)


def test_a_group_that_was_typed_stays() -> None:
    run = Recorded((0, ""))
    sweep(["logger.group=mine"], run=run)
    assert [text for text in run.lines[0] if text.startswith("logger.group=")] == ["logger.group=mine"]


def test_a_failed_job_does_not_hide_and_the_rest_run(capsys: pytest.CaptureFixture[str]) -> None:
    run = Recorded((0, ""), (1, "RuntimeError: out of memory"), (0, ""))
    assert sweep(["seed=1,2,3"], run=run) == 1
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


def test_a_job_that_cannot_be_composed_fails_alone() -> None:
    run = Recorded((0, ""))
    assert sweep(["manifold.c=1,abc"], run=run) == 1
    jobs = json.loads((only_sweep() / "summary.json").read_text())["jobs"]
    assert [job["exit_status"] for job in jobs] == [0, 2]
    assert jobs[1]["reason"] == "manifold.c=abc: expected a number, got a text."
    assert len(run.lines) == 1


def test_a_signal_ends_the_sweep_and_leaves_its_summary() -> None:
    def stopped(arguments: Sequence[str]) -> tuple[int, str]:
        os.kill(os.getpid(), signal.SIGTERM)
        return 0, ""

    before = signal.getsignal(signal.SIGTERM)
    assert sweep(["seed=1,2"], run=stopped) == 143
    assert signal.getsignal(signal.SIGTERM) is before
    jobs = json.loads((only_sweep() / "summary.json").read_text())["jobs"]
    assert [(job["state"], job["exit_status"]) for job in jobs] == [("failed", 143), ("not run", None)]


def test_a_process_of_its_own_for_each_job(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_process(["--version"]) == (0, "")
    status, reason = run_process(["train", "model=hecn_r18"])
    assert status == 2
    assert reason.startswith("unknown choice model=hecn_r18. Did you mean hecnn_r18?")
    assert "error: unknown choice model=hecn_r18" in capfd.readouterr().err


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


def test_jobs_train_and_one_fails(capsys: pytest.CaptureFixture[str]) -> None:
    def here(arguments: Sequence[str]) -> tuple[int, str]:
        status = main(arguments)
        return status, failure_reason(status, capsys.readouterr().err.splitlines(keepends=True))

    assert sweep([*SMOKE, "optim=rsgd,sgd", "output_dir=grid"], run=here) == 1
    jobs = json.loads(Path("grid/summary.json").read_text())["jobs"]
    assert [job["exit_status"] for job in jobs] == [0, 2]
    assert "SGD cannot train" in jobs[1]["reason"]
    assert jobs[0]["results"]["status"] == "finished"
    assert Path("grid/0_optim-rsgd/config.yaml").is_file()


def test_equal_jobs_run_once_and_share_the_results(capsys: pytest.CaptureFixture[str]) -> None:
    run = Recorded(*[(0, "")] * 3)
    assert sweep(["model=sph_vit_s,hyp_vit_s", "manifold.c=0.1,1"], run=run) == 0
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
    assert sweep(["model=sph_vit_s,hyp_vit_s", "manifold.c=1,1.0"], run=run) == 1
    jobs = json.loads((only_sweep() / "summary.json").read_text())["jobs"]
    assert [(job["state"], job["exit_status"]) for job in jobs[:2]] == [("failed", 1), ("failed, as job 0", 1)]
    assert [job["state"] for job in jobs[2:]] == ["ok", "ok, as job 2"]


def test_the_table_has_a_column_for_each_key_that_varies(capsys: pytest.CaptureFixture[str]) -> None:
    sweep(["manifold.c=0.1,1", "seed=1,2", "optim.lr=0.5"], run=Recorded(*[(0, "")] * 4))
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

"""`train -m` through Hydra: refused as a whole or run as a whole, by any launcher, and continued after a kill."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import hyplearn
from tests.support.commands import Command
from tests.support.waiting import until

SOURCE = Path(hyplearn.__file__).parents[1]
QUICK = (
    "experiment=smoke",
    "trainer.limit_train_batches=1",
    "trainer.max_epochs=1",
    "trainer.progress=none",
    "trainer.num_threads=1",
    "trainer.accelerator=cpu",
    "callbacks.figures=false",
)


def only_sweep(parent: str = "outputs/multirun") -> Path:
    (folder,) = Path(parent).iterdir()
    return folder


def jobs_of(folder: Path) -> list[dict]:
    return json.loads((folder / "summary.json").read_text())["jobs"]


def test_a_sweep_with_one_bad_choice_starts_nothing(command: Command, tmp_path: Path) -> None:
    refused = command("train", "-m", *QUICK, "seed=1,2", "model=hecnn_r18,foo")
    assert refused.status == 2
    assert "2 of 4 jobs cannot run, none was started:" in refused.err
    assert "seed=1 model=foo, seed=2 model=foo: unknown choice model=foo." in refused.err
    assert "hydra.sweeper.skip_invalid=true" in refused.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["loss=cross_entropy,pairwise"], "loss=pairwise is computed from embeddings"),
        (["optim.lr=0.1,abc"], "optim.lr=abc: optim.lr=abc: expected a number, got a text."),
        (["optim.lrr=0.1,0.2"], "unknown key optim.lrr. Did you mean optim.lr?"),
        (["seed=1,2", "lr=0.1"], "unknown key lr. Did you mean optim.lr?"),
        (["seed=1,2", "seed=3,4"], "seed is typed twice"),
        (["resume=auto", "seed=1,2"], "resume continues one run"),
        (["output_dir=a,b"], "a multirun has one directory"),
        (["seed=interval(1,2)"], "needs single values"),
        (["model=glob(vit*)"], "matches no choice of model"),
        (["model=null,hecnn_r18"], "model=null: unknown choice model=null."),
        (["seed=1,2", "model=null"], "unknown choice model=null."),
        (["seed=1,2", "hydra/launcher=basic", "--jobs", "2"], "launcher.n_jobs. Did you mean hydra.launcher?"),
        (["seed=1,2", "hydra.launcher.n_jobs=0"], "hydra.launcher.n_jobs=0: expected a whole number from 1 on."),
        (["seed=1,2", "hydra/launcher=hyplern"], "Did you mean hyplearn?"),
        (
            ["seed=1,2", "+hydra.launcher.n_job=2"],
            "unknown key hydra.launcher.n_job. Did you mean hydra.launcher.n_jobs?",
        ),
        (["seed=1,2", "hydra.launcher.n_jobs=abc"], "Error merging override hydra.launcher.n_jobs=abc: "),
        (["seed=1,2", "=3"], "'=3' is no override"),
        (["seed=1,2", "hydra/launcher=hyplearn_slurm"], "+hydra.launcher.parameters.timeout_min=720"),
    ],
)
def test_a_sweep_that_cannot_start(command: Command, tmp_path: Path, line: list[str], message: str) -> None:
    refused = command("train", "-m", *QUICK, *line)
    assert refused.status == 2
    assert message in refused.err
    assert "Traceback" not in refused.err
    assert not list(tmp_path.iterdir())


def test_the_jobs_that_can_run_do_if_asked(command: Command) -> None:
    ended = command("train", "-m", *QUICK, "optim.lr=0.1,abc", "hydra.sweeper.skip_invalid=true")
    assert ended.status == 1
    assert [(job["state"], job["exit_status"]) for job in jobs_of(only_sweep())] == [("ok", 0), ("failed", 2)]
    assert "job 1 failed: optim.lr=abc: expected a number, got a text." in ended.out


def test_jobs_lie_where_hydras_users_look(command: Command) -> None:
    assert command("train", "-m", *QUICK, "seed=1,2", "manifold.c=0.5").status == 0
    folder = only_sweep()
    assert yaml.safe_load((folder / "multirun.yaml").read_text())["hydra"]["overrides"]["task"][-2] == "seed=1,2"
    runs = sorted(path.name for path in folder.iterdir() if path.is_dir())
    assert runs == ["0_seed-1", "1_seed-2"]
    assert yaml.safe_load((folder / "1_seed-2" / ".hydra" / "hydra.yaml").read_text())["hydra"]["job"]["num"] == 1
    rows = list(csv.DictReader((folder / "summary.csv").read_text().splitlines()))
    assert [(row["seed"], row["state"]) for row in rows] == [("1", "ok"), ("2", "ok")]
    stored = yaml.safe_load((folder / "1_seed-2" / "config.yaml").read_text())
    assert stored["logger"]["group"] == folder.name


def test_sweep_dir_and_subdir_of_hydra(command: Command) -> None:
    line = ("hydra.sweep.dir=mine", "hydra.sweep.subdir=job_${hydra:job.num}_seed_${seed}")
    assert command("train", "-m", *QUICK, "seed=7", *line).status == 0
    assert json.loads(Path("mine/job_0_seed_7/results.json").read_text())["status"] == "finished"
    again = command("train", "-m", *QUICK, "seed=8", "hydra.sweep.dir=mine")
    assert again.status == 2
    assert "mine is not empty and holds no sweep of these jobs" in again.err


def test_parameters_of_a_sweep_in_a_configuration_file(command: Command) -> None:
    Path("conf/experiment").mkdir(parents=True)
    Path("conf/experiment/both.yaml").write_text(
        "# @package _global_\ndefaults: [smoke]\n"
        "hydra: {mode: MULTIRUN, sweeper: {params: {seed: '1,2', optim.lr: '0.1,abc'}}}\n"
    )
    refused = command("train", "--config-dir", "conf", "experiment=both")
    assert refused.status == 2
    assert "2 of 4 jobs cannot run" in refused.err
    assert "seed=1 optim.lr=abc, seed=2 optim.lr=abc: " in refused.err


def started(folder: Path, *line: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(SOURCE / "train.py"), "-m", *line],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_killed_sweep_is_continued_by_the_same_command(tmp_path: Path) -> None:
    line = (*QUICK, "seed=1,2,3")
    process = started(tmp_path, *line)
    assert process.stdout is not None
    for text in process.stdout:
        if text.startswith("[job 0] ok"):
            break
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (folder,) = (tmp_path / "outputs" / "multirun").iterdir()
    first = (folder / "0_seed-1" / "results.json").stat().st_mtime_ns

    again = started(tmp_path, *line)
    told = again.communicate()[0]
    assert again.returncode == 0, told
    assert f"continuing the sweep in {folder.relative_to(tmp_path)}" in told
    assert "[job 0]" in told
    assert "finished before" in told
    assert [job["exit_status"] for job in jobs_of(folder)] == [0, 0, 0]
    assert (folder / "0_seed-1" / "results.json").stat().st_mtime_ns == first
    assert list((tmp_path / "outputs" / "multirun").iterdir()) == [folder]


def test_a_signal_ends_the_sweep_and_leaves_its_summary(tmp_path: Path) -> None:
    process = started(tmp_path, *QUICK, "seed=1,2", "trainer.max_epochs=500", "output_dir=out")
    until((tmp_path / "out" / "0_seed-1" / "checkpoints" / "last.ckpt").is_file, 120)
    process.send_signal(signal.SIGTERM)
    told = process.communicate()[0]
    assert process.returncode == 143, told
    assert [job["state"] for job in jobs_of(tmp_path / "out")] == ["interrupted", "not run"]


@pytest.mark.parametrize("launcher", [pytest.param("basic", marks=pytest.mark.slow), "joblib", "submitit_local"])
def test_a_launcher_that_is_not_ours_runs_two_jobs(tmp_path: Path, launcher: str) -> None:
    line = ("seed=1,2", f"hydra/launcher={launcher}", "output_dir=out")
    ended = subprocess.run(
        [sys.executable, str(SOURCE / "train.py"), "-m", *QUICK, *line],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert [(job["state"], job["varied"]) for job in jobs_of(tmp_path / "out")] == [
        ("ok", {"seed": "1"}),
        ("ok", {"seed": "2"}),
    ]
    for name in ("00_seed-1", "01_seed-2"):
        assert json.loads((tmp_path / "out" / name / "results.json").read_text())["status"] == "finished"
    assert "2 of 2 jobs ok" in ended.stdout


def test_a_launcher_that_is_not_ours_continues_a_sweep_too(command: Command) -> None:
    line = (*QUICK, "seed=1,2,3", "hydra/launcher=basic", "output_dir=out")
    assert command("train", "-m", *line).status == 0
    summary = json.loads(Path("out/summary.json").read_text())
    kept = Path("out/00_seed-1/results.json").stat().st_mtime_ns
    summary["jobs"][1].update(state="running", exit_status=None)
    Path("out/summary.json").write_text(json.dumps(summary))
    Path("out/01_seed-2/results.json").write_text(json.dumps({"status": "interrupted"}))
    again = command("train", "-m", *line)
    assert again.status == 0, again.err
    assert [job["exit_status"] for job in jobs_of(Path("out"))] == [0, 0, 0]
    assert [job["run_dir"] for job in jobs_of(Path("out"))] == [f"out/0{n}_seed-{n + 1}" for n in range(3)]
    assert Path("out/00_seed-1/results.json").stat().st_mtime_ns == kept
    assert json.loads(Path("out/01_seed-2/results.json").read_text())["status"] == "finished"


def test_a_signal_to_a_launcher_that_is_not_ours_leaves_a_true_summary(tmp_path: Path) -> None:
    line = ("seed=1,2", "trainer.max_epochs=500", "hydra/launcher=basic", "output_dir=out")
    process = started(tmp_path, *QUICK, *line)
    until((tmp_path / "out" / "00_seed-1" / "checkpoints" / "last.ckpt").is_file, 120)
    process.send_signal(signal.SIGTERM)
    told = process.communicate()[0]
    assert process.returncode == 143, told
    assert [job["state"] for job in jobs_of(tmp_path / "out")] == ["interrupted", "not run"]


def test_the_sweeper_of_hydra_gets_the_metric_of_our_launcher(command: Command) -> None:
    ended = command("train", "-m", *QUICK, "seed=1,2", "hydra/sweeper=basic", "hydra.sweep.dir=out")
    assert ended.status == 0
    assert sorted(path.name[:3] for path in Path("out").iterdir() if path.is_dir()) == ["00_", "01_"]
    assert all(json.loads(path.read_text())["status"] == "finished" for path in Path("out").glob("*/results.json"))


def test_a_search_finds_the_better_of_two_temperatures(command: Command) -> None:
    quick = [text for text in QUICK if not text.startswith(("experiment=", "trainer.max_epochs", "trainer.limit"))]
    model = ("model=hyp_vit_s", "model.small.width=12", "model.head.size=8", "optim.lr=3e-3", "trainer.max_epochs=2")
    line = ("hydra/sweeper=hyplearn_optuna", "hydra.sweeper.sampler=grid", "loss.tau=choice(0.2,100.0)")
    ended = command("train", "-m", "--jobs", "2", *quick, *model, *line, "hydra.sweep.dir=study")
    assert ended.status == 0, ended.err
    summary = json.loads(Path("study/summary.json").read_text())
    assert "0.2" in json.dumps(summary)
    assert "loss.tau=0.2" in ended.out
    again = command("train", "-m", *quick, *model, *line, "hydra.sweep.dir=study")
    assert again.status == 0
    assert "2 finished before; 0 trials to run" in again.out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["seed=1"], "nothing to search"),
        (["loss.label_smoothing=interval(0,0.2)", "hydra.sweeper.sampler=annealing"], "sampler=annealing"),
        (["loss.label_smoothing=interval(0,0.2)", "hydra/launcher=basic"], "hydra/launcher=hyplearn"),
        (["loss.label_smoothing=interval(0,abc)"], "is no override"),
        (["optim.lrr=interval(0.1,1)"], "unknown key optim.lrr"),
    ],
)
def test_a_search_that_cannot_start(command: Command, tmp_path: Path, line: list[str], message: str) -> None:
    refused = command("train", "-m", *QUICK, "hydra/sweeper=hyplearn_optuna", *line)
    assert refused.status == 2
    assert message in refused.err
    assert not list(tmp_path.iterdir())


def test_two_processes_share_the_directory_of_a_job(command: Command) -> None:
    """Lightning starts the job's command line once more, which must begin neither a directory nor a sweep."""
    ddp = ("trainer.devices=2", "trainer.strategy=ddp")
    assert command("train", "-m", *QUICK, *ddp, "seed=1", "output_dir=out").status == 0
    assert [path.name for path in Path("out").iterdir() if path.is_dir()] == ["0"]
    assert json.loads(Path("out/0/results.json").read_text())["status"] == "finished"
    assert not Path("outputs").exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the processes in /proc")
@pytest.mark.parametrize("which", [0, 1], ids=["first", "second"])
def test_a_process_that_dies_ends_the_other_with_a_message(tmp_path: Path, which: int) -> None:
    line = [sys.executable, "-m", "hyplearn", "train", *QUICK, "trainer.devices=2", "trainer.max_epochs=2000"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (tmp_path / "log").open("w") as log:
        first = subprocess.Popen(
            [*line, "output_dir=run"], cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        until((tmp_path / "run/checkpoints/last.ckpt").is_file, 240)
        second = next(pid for pid in processes_in(tmp_path) if pid != first.pid)
        killed, left = ((first.pid, second), (second, first.pid))[which]
        os.kill(killed, signal.SIGKILL)
        until(lambda: first.poll() is not None and left not in processes_in(tmp_path), 30)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(first.pid, signal.SIGKILL)
    said = (tmp_path / "log").read_text()
    assert "another process of this run has ended" in said
    assert "Traceback" not in said


def processes_in(folder: Path) -> list[int]:
    """The processes of Python that train in `folder`, without watchers."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (place / "cmdline").read_bytes().decode().split("\0")
            if "train" in words and (place / "cwd").resolve() == folder.resolve():
                found.append(int(place.name))
    return sorted(found)

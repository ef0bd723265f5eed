from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock

from hyplearn.cli.main import main
from hyplearn.cli.reproduce import reproduce
from hyplearn.config.compose import compose
from hyplearn.errors import ConfigError
from hyplearn.jobs import campaign
from hyplearn.jobs.plan import choose, plan
from hyplearn.runs.directory import RunDirectory
from hyplearn.runs.lock import CLAIM
from tests.support.jobs import at_once

CELL = "bdeir_table3_cifar100_hecnn_r50"


@pytest.fixture(autouse=True)
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Trained:
    """Trains nothing: leaves what a run leaves, or fails as told. Notes the composed configurations."""

    def __init__(self, *endings: tuple[int, str]) -> None:
        self.endings, self.configs = iter(endings), list[dict[str, Any]]()

    def __call__(self, arguments: Sequence[str]) -> tuple[int, str]:
        config = compose(arguments[1:]).config
        self.configs.append(config)
        run_dir = Path(config["output_dir"])
        (run_dir / "config.yaml").write_text(yaml.safe_dump({**config, "resume": None}))
        status, reason = next(self.endings, (0, ""))
        results = {"metrics": {"test/top1": 97.5}, "status": "finished" if status == 0 else "failed", "seconds": 90.0}
        (run_dir / "results.json").write_text(json.dumps({**results, "seconds_per_epoch": 0.45, "memory_gib": 2.5}))
        return status, reason


def newest_ledger(scale: str = "reproduce") -> dict[str, Any]:
    folder = max(Path(f"outputs/{scale}/ledgers").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    content: dict[str, Any] = json.loads((folder / "ledger.json").read_text())
    rows = list(csv.DictReader((folder / "ledger.csv").read_text().splitlines()))
    assert [row["state"] for row in rows] == [run["state"] for run in content["runs"]]
    return content


def states(ledger: dict[str, Any]) -> list[str]:
    return [run["state"] for run in ledger["runs"]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "needs a table, an experiment or a glob"),
        (["bdeir_tabel3"], "did you mean bdeir_table3"),
        (["evidence"], "write 'evidence/*'"),
        (["bdeir_table4"], "nothing of it can be run. bdeir_table4"),
        ([CELL, "seed=3"], "--seeds 3 for the seeds 1 to 3"),
        ([CELL, "optim.lr=0.1,0.2"], "names several values"),
        ([CELL, "optim.rate=0.1"], f"experiment={CELL}: unknown key optim.rate"),
        ([CELL, "--seeds", "0"], "must be a number of seeds from 1 on"),
        ([CELL, "--jobs", "0"], "must be a whole number from 1 on"),
        ([CELL, "--slurm", "time=5"], "--slurm is for --launcher submitit"),
        ([CELL, "--launcher", "submitit"], "--slurm time=720"),
        ([CELL, "--launcher", "submitit", "--slurm", "tiem=5"], "Did you mean time?"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        reproduce(words)
    assert message in str(caught.value)
    assert not Path("outputs").exists()


def test_a_dry_run_plans_and_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", CELL, "--seeds", "2,5", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "_seed2" in shown
    assert "_seed5" in shown
    assert "2 runs: 2 to run" in shown
    assert "no finished run like it" in shown
    assert not Path("outputs").exists()


def test_a_glob_stays_in_its_folder() -> None:
    assert not any("/" in name for name in choose(["*"]).experiments)
    assert all(name.startswith("evidence/digits_") for name in choose(["evidence/digits_*"]).experiments)


def test_a_table_names_the_rows_that_have_no_experiment() -> None:
    chosen = choose(["yue_table1"])
    assert chosen.experiments["yue_table1_cub_hyp_vit_s"] == ("yue_table1",)
    assert set(chosen.absent.values()) <= {"a separate system, not implemented", "the paper prints no value"}
    assert chosen.absent


def test_smoke_keeps_what_an_experiment_is_about() -> None:
    names = (CELL, "yue_table1_sop_mix_vit_s", "evidence/retrieval_lhier", "yue_table2_cub_pretrained_vit_s")
    for name in names:
        (run,) = plan({name: ()}, seeds=[1], scale="smoke", protocol="paper")
        full = compose([f"experiment={name}"]).config
        for key in ("manifold", "optim"):
            assert run.config[key] == full[key]
        for key in ("model", "loss"):
            assert run.config[key]["_target_"] == full[key]["_target_"]
        assert run.config["scale"] == "smoke"
        assert run.config["dataset"]["source"]["_target_"].rpartition(".")[2] in ("Digits", "DigitsRetrieval")
        assert run.config["trainer"]["max_epochs"] == min(2, full["trainer"]["max_epochs"])
        assert (run.config["dataset"]["val_fraction"] == 0) == (full["dataset"]["val_fraction"] == 0)
        if full.get("evaluation"):
            assert run.config["evaluation"]["k"] == full["evaluation"]["k"]


def test_experiments_that_come_to_one_run_share_it() -> None:
    cells = {f"bdeir_table3_{data}_hecnn_r50": ("bdeir_table3",) for data in ("cifar10", "cifar100", "tiny_imagenet")}
    (run,) = plan(cells, seeds=[1], scale="smoke", protocol="paper")
    assert run.experiments == tuple(cells)
    assert len(plan(cells, seeds=[1, 2], scale="full", protocol="paper")) == 6


def test_runs_have_places_groups_and_tags() -> None:
    run = Trained()
    assert reproduce([CELL, "--seeds", "2", "logger.mode=offline"], start=at_once(run)) == 0
    assert [config["seed"] for config in run.configs] == [1, 2]
    for config in run.configs:
        assert config["logger"]["group"] == CELL
        assert config["logger"]["tags"] == ["bdeir_table3", f"seed-{config['seed']}", "protocol-paper", "scale-full"]
        path = Path(config["output_dir"])
        assert path.parent == Path("outputs/reproduce", CELL)
        assert path.name == RunDirectory(path).id
    ledger = newest_ledger()
    assert ledger["complete"] is True
    assert states(ledger) == ["finished", "finished"]
    assert "notice" not in ledger


def test_a_failure_stops_none_and_the_same_command_runs_the_holes(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["bdeir_table5", "--scale", "smoke"]
    run = Trained((0, ""), (1, "RuntimeError: out of memory"))
    assert reproduce(command, start=at_once(run)) == 1
    total = len(run.configs)
    assert total > 2
    ledger = newest_ledger("smoke")
    assert states(ledger) == ["finished", "failed", *["finished"] * (total - 2)]
    assert ledger["runs"][1]["reason"] == "RuntimeError: out of memory"
    assert (ledger["complete"], "SMOKE" in ledger["notice"]) == (False, True)
    shown = capsys.readouterr().out
    assert "failed: RuntimeError: out of memory" in shown
    assert shown.count("SMOKE: small data stand in") == 2  # plan and ledger
    again = Trained()
    assert reproduce(command, start=at_once(again)) == 0
    assert [config["output_dir"] for config in again.configs] == [run.configs[1]["output_dir"]]
    ledger = newest_ledger("smoke")
    assert states(ledger) == ["finished before", "finished", *["finished before"] * (total - 2)]


def test_a_run_finished_elsewhere_is_not_repeated() -> None:
    reproduce([CELL], start=at_once(Trained()))
    moved = Path("outputs/by_hand/here")
    moved.parent.mkdir()
    next(Path("outputs/reproduce", CELL).iterdir()).rename(moved)
    nothing = Trained()
    assert reproduce([CELL], start=at_once(nothing)) == 0
    assert nothing.configs == []
    assert newest_ledger()["runs"][0]["run_dir"] == str(moved)


def test_estimates_come_from_finished_runs(capsys: pytest.CaptureFixture[str]) -> None:
    reproduce([CELL], start=at_once(Trained()))
    capsys.readouterr()
    reproduce([CELL, "--seeds", "3", "--dry-run"])
    shown = capsys.readouterr().out
    assert "1 finished run of this cell" in shown
    assert "3 runs: 1 finished, 2 to run, about 3 min one after the other" in shown
    reproduce([CELL, "--dry-run", "trainer.max_epochs=400"])
    shown = capsys.readouterr().out
    assert "1 finished run of this model and data" in shown
    assert "3 min" in shown  # 400 epochs of 0.45 s
    assert "2.5 GiB" in shown


def test_another_process_is_waited_for(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It holds the first run and then finishes it; the second is run here meanwhile."""
    (first, _) = plan({CELL: ()}, seeds=[1, 2], scale="full", protocol="paper")
    first.run_dir.mkdir(parents=True)
    other = FileLock(first.run_dir / CLAIM)
    other.acquire()

    def finish(seconds: float) -> None:
        Trained()(campaign.command_line(first, "paper", "full"))
        other.release()

    monkeypatch.setattr(campaign.time, "sleep", finish)
    run = Trained()
    assert reproduce([CELL, "--seeds", "2"], start=at_once(run)) == 0
    assert [config["seed"] for config in run.configs] == [2]
    assert states(newest_ledger()) == ["finished before", "finished"]
    assert "waiting for another process" in capsys.readouterr().out


def test_a_run_that_another_process_left_unfinished_is_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    (first,) = plan({CELL: ()}, seeds=[1], scale="full", protocol="paper")
    first.run_dir.mkdir(parents=True)
    other = FileLock(first.run_dir / CLAIM)
    other.acquire()
    monkeypatch.setattr(campaign.time, "sleep", lambda seconds: other.release())
    run = Trained()
    assert reproduce([CELL], start=at_once(run)) == 0
    assert len(run.configs) == 1


def test_a_signal_leaves_the_ledger_and_gives_the_claims_back() -> None:
    def stopped(arguments: Sequence[str]) -> tuple[int, str]:
        os.kill(os.getpid(), signal.SIGTERM)
        return 143, ""

    assert reproduce([CELL, "--seeds", "2"], start=at_once(stopped)) == 143
    ledger = newest_ledger()
    assert states(ledger) == ["interrupted", "not run"]
    assert "SIGTERM; the same command continues it" in ledger["runs"][0]["reason"]
    assert reproduce([CELL, "--seeds", "2"], start=at_once(Trained())) == 0


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_table_is_finished_by_the_same_command(signum: int) -> None:
    """As a user does it, in processes: killed once the first run is done."""
    command = [sys.executable, "-m", "hyplearn", "reproduce", "bdeir_table3", "--scale", "smoke"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        end = time.monotonic() + 200
        while not any(RunDirectory(path.parent).finished for path in Path("outputs").rglob("results.json")):
            assert time.monotonic() < end
            assert process.poll() is None
            time.sleep(0.2)
        process.send_signal(signum)
    assert process.returncode == (143 if signum == signal.SIGTERM else -9)
    done = {
        path: path.stat().st_mtime_ns
        for path in Path("outputs").rglob("results.json")
        if RunDirectory(path.parent).finished
    }
    assert subprocess.run(command, capture_output=True, timeout=300).returncode == 0
    ledger = newest_ledger("smoke")
    assert ledger["complete"] is True
    assert states(ledger).count("finished before") >= len(done) >= 1
    assert {path: path.stat().st_mtime_ns for path in done} == done  # not run again
    assert all(RunDirectory(Path(run["run_dir"])).results["scale"] == "smoke" for run in ledger["runs"])

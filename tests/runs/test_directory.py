"""One object reads and writes all that a run leaves, without an engine."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hyplearn.config.compose import compose
from hyplearn.errors import ConfigError
from hyplearn.runs.directory import RunDirectory, RunState, is_checkpoint, noted_checkpoint
from hyplearn.runs.identity import run_id
from hyplearn.runs.lock import occupied
from tests.support.run_directories import CONFIG, left_behind


@pytest.fixture(autouse=True)
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_run_reads_its_record(tmp_path: Path) -> None:
    path = tmp_path / "run"
    RunDirectory(path).write_config(compose(["seed=5"]).config)
    (path / "results.json").write_text(json.dumps({"status": "finished", "metrics": {"test/top1": 97.5}}))
    (path / "metrics.csv").write_text("epoch,val/top1,x\n1,50.0,\n2,60.5,3\n")
    (path / "manifest.json").write_text(json.dumps({"run_id": "abcd"}))
    run = RunDirectory(path)
    assert run.finished and not run.smoke
    assert run.metrics == {"test/top1": 97.5}
    assert run.history == [{"epoch": 1.0, "val/top1": 50.0}, {"epoch": 2.0, "val/top1": 60.5, "x": 3.0}]
    assert run.manifest["run_id"] == "abcd"
    assert run.id == f"{run.cell}_seed5"


def test_a_directory_without_a_run_has_an_empty_record(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert (run.manifest, run.results, run.metrics, run.history) == ({}, {}, {}, [])
    assert not (run.begun or run.finished or run.readable)
    assert (run.last_checkpoint, run.best_checkpoint, run.tested_checkpoint) == (None, None, None)
    with pytest.raises(ConfigError, match=r"config\.yaml does not exist: .* is no run directory"):
        _ = run.config


@pytest.mark.parametrize(
    ("name", "text", "read", "reason"),
    [
        ("results.json", '{"status": "fin', lambda run: run.results, "Unterminated string"),
        ("results.json", "[]", lambda run: run.metrics, "holds a list"),
        ("manifest.json", "", lambda run: run.manifest, "Expecting value"),
        ("config.yaml", "seed: [1", lambda run: run.config, "expected"),
        ("config.yaml", "", lambda run: run.seed, "holds a NoneType"),
        ("metrics.csv", "epoch,x\n1,0.5\n2", lambda run: run.history, "1 values for 2 columns"),
        ("metrics.csv", "epoch,x\n1,abc\n", lambda run: run.history, "'abc'"),
    ],
)
def test_a_damaged_file_is_named(
    name: str, text: str, read: Callable[[RunDirectory], object], reason: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=rf"{name} is damaged \(.*{reason}.*\)\. Bring it back"):
        read(RunDirectory(tmp_path))


def test_a_file_is_read_once_and_again_after_it_was_written(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.write_results({"status": "failed"})
    assert not run.finished
    RunDirectory(tmp_path).write_results({"status": "finished"})
    assert not run.finished
    run.write_results({"status": "finished", "metrics": {"a": 1.0}})
    assert run.finished and run.metrics == {"a": 1.0}
    run.write_manifest({"run_id": "ab"})
    assert run.manifest == {"run_id": "ab"}


def test_columns_of_the_history_are_those_of_all_rows(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.write_history([{"epoch": 1, "a": 0.1}, {"epoch": 2, "a": 1e-20, "b": math.inf}])
    assert (tmp_path / "metrics.csv").read_text() == "epoch,a,b\n1,0.1,\n2,1e-20,inf\n"
    assert run.history == [{"epoch": 1.0, "a": 0.1}, {"epoch": 2.0, "a": 1e-20, "b": math.inf}]
    run.write_history([])
    assert run.history == []


def test_a_stored_configuration_has_the_id_of_the_composed_one(tmp_path: Path) -> None:
    """Also after YAML: floats, nulls and lists come back as they were."""
    for overrides in (["model=mix_vit_s", "loss.tau=[0.1,0.2]"], ["model=hecnn_r50", "optim=radamw", "optim.lr=1e-5"]):
        RunDirectory(tmp_path / overrides[0]).write_config(compose(overrides).config)
        assert RunDirectory(tmp_path / overrides[0]).id == run_id(compose(overrides).config)


def test_a_stored_configuration_comes_back_as_it_was() -> None:
    run = left_behind("one")
    assert run.config == {**CONFIG, "output_dir": str(run.path)}


def test_smoke_is_marked(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.write_config(compose(["scale=smoke"]).config)
    assert run.smoke


def test_a_run_is_located_by_its_directory_or_a_checkpoint() -> None:
    run = left_behind("one")
    run.write_config({"seed": 1, "model": {}, "dataset": {}, "trainer": {}, "choices": {}})
    assert RunDirectory.locate(run.path) == RunDirectory.locate(run.last_file) == run
    with pytest.raises(ConfigError, match="nowhere does not exist"):
        RunDirectory.locate(Path("nowhere"))
    with pytest.raises(ConfigError, match=r"is no run directory: it has no config.yaml"):
        RunDirectory.locate(Path("outputs"))


def test_what_can_be_done_with_a_run() -> None:
    assert left_behind("new", checkpoint=False).state is RunState.NEW
    assert left_behind("stopped", status="interrupted").state is RunState.STOPPED
    finished = left_behind("finished", status="finished")
    assert finished.state is RunState.FINISHED
    running = left_behind("running")
    with occupied(running.path), occupied(finished.path):
        assert running.state is RunState.OCCUPIED
        assert finished.state is RunState.FINISHED
    assert running.state is RunState.STOPPED


def test_checkpoints_have_names_and_places() -> None:
    run = left_behind("one")
    assert run.last_checkpoint == run.checkpoint("last") == run.path / "checkpoints" / "last.ckpt"
    assert run.best_checkpoint is None
    run.best_file.touch()
    assert run.best_checkpoint == run.path / "checkpoints" / "best.ckpt"
    assert run.checkpoint_names() == ["best", "last"]
    assert is_checkpoint(run.best_file) and not is_checkpoint(run.path)
    run.write_results({"status": "finished", "selection": {"checkpoint": noted_checkpoint(run.best_file)}})
    assert run.results["selection"] == {"checkpoint": "checkpoints/best.ckpt"}
    assert run.tested_checkpoint == run.best_file


def test_every_evaluation_has_a_file_of_its_own(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    paths = {run.write_evaluation({"metrics": {"test/top1": value}}) for value in (1.0, 2.0)}
    assert len(paths) == 2
    assert {path.parent for path in paths} == {tmp_path / "evaluations"}
    contents: list[dict[str, Any]] = [json.loads(path.read_text()) for path in paths]
    assert sorted(content["metrics"]["test/top1"] for content in contents) == [1.0, 2.0]


def test_the_files_a_user_may_look_for_are_listed() -> None:
    run = left_behind("one", status="finished")
    run.figures.mkdir()
    (run.figures / "loss.png").touch()
    (run.figures / "loss.csv").touch()
    assert run.files() == ["config.yaml", "results.json", "checkpoints/last.ckpt", "figures/loss.png"]

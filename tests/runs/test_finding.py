"""Runs are found at any depth by what they computed, and continued where the configuration is theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hyplearn.config.compose import compose
from hyplearn.errors import ConfigError
from hyplearn.runs.directory import RunDirectory
from hyplearn.runs.finding import by_id, reopen, runs_below, to_continue, unfinished
from tests.support.run_directories import CONFIG, left_behind


@pytest.fixture(autouse=True)
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def make(folder: Path, *overrides: str, status: str | None = "finished") -> Path:
    run = RunDirectory(folder)
    run.write_config(compose(list(overrides)).config)
    if status:
        run.write_results({"status": status})
    return folder


def test_runs_are_found_below_folders_and_only_once(tmp_path: Path) -> None:
    make(tmp_path / "a" / "deep" / "run", "seed=1")
    make(tmp_path / "b", "seed=2")
    found = runs_below([tmp_path, tmp_path / "b"])
    assert sorted(run.seed for run in found) == [1, 2]


def test_other_files_of_the_name_are_no_runs(tmp_path: Path) -> None:
    run = make(tmp_path / "run", "seed=1")
    (run / "wandb").mkdir()
    (run / "wandb" / "config.yaml").write_text("wandb_version: 1\nlr: {value: 1}\n")
    for name, text in (("deeper", "a: [1\n"), ("empty", ""), ("list", "- seed\n- model\n- dataset\n- trainer\n")):
        (run / "wandb" / name).mkdir()
        (run / "wandb" / name / "config.yaml").write_text(text)
    assert [found.path for found in runs_below([tmp_path])] == [run]


def test_the_finished_one_of_equal_runs_comes_first(tmp_path: Path) -> None:
    make(tmp_path / "1", "seed=1", status="finished")
    make(tmp_path / "2", "seed=1", status="failed")
    make(tmp_path / "3", "seed=1", status=None)
    make(tmp_path / "4", "seed=2")
    grouped: dict[str, Any] = by_id(runs_below([tmp_path]))
    assert sorted(map(len, grouped.values())) == [1, 3]
    assert max(grouped.values(), key=len)[0].path.name == "1"


def test_auto_finds_the_newest_unfinished_run_of_the_same_configuration() -> None:
    left_behind("2025-01-01", status="interrupted")
    newest = left_behind("2025-01-02", status="interrupted")
    left_behind("2025-01-03", status="finished")
    left_behind("2025-01-04", checkpoint=False)
    left_behind("2025-01-05", seed=2)
    assert unfinished(Path("outputs/kind"), CONFIG) == newest
    assert unfinished(Path("outputs/kind"), {**CONFIG, "seed": 3}) is None
    assert unfinished(Path("outputs/none"), CONFIG) is None


def test_auto_reopens_a_named_directory_only_for_the_same_configuration() -> None:
    assert reopen(Path("new"), CONFIG) is None
    run = left_behind("one", status="failed")
    assert reopen(run.path, CONFIG) == run
    with pytest.raises(ConfigError, match=r"holds a run that differs in seed\. Choose another output_dir"):
        reopen(run.path, {**CONFIG, "seed": 2})
    early = left_behind("two", checkpoint=False)
    assert reopen(early.path, CONFIG) == early
    with pytest.raises(ConfigError, match="is finished"):
        reopen(left_behind("three", status="finished").path, CONFIG)


def test_a_run_is_continued_from_a_checkpoint_of_it() -> None:
    run = left_behind("one")
    checkpoint = run.path / "checkpoints" / "last.ckpt"
    assert to_continue(run.path) == to_continue(checkpoint) == checkpoint
    with pytest.raises(ConfigError, match="has no checkpoint"):
        to_continue(left_behind("two", checkpoint=False).path)


def test_auto_finds_a_run_that_began_before_the_time_to_stop_was_a_setting() -> None:
    run = left_behind("2026-01-01")
    run.write_config({**CONFIG, "trainer": {"max_epochs": 3}, "output_dir": str(run.path)})
    now = {**CONFIG, "trainer": {"max_epochs": 3, "stop_within": 60.0}}
    assert unfinished(Path("outputs/kind"), now) == run
    assert run.id == RunDirectory(run.path).id
    assert unfinished(Path("outputs/kind"), {**now, "trainer": {"max_epochs": 4, "stop_within": 60.0}}) is None

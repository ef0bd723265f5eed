"""Runs are found at any depth by what they computed, and read without an engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hyplearn.config.compose import compose
from hyplearn.runs.atomic import write_yaml
from hyplearn.runs.directory import Run, by_id, runs_below


def make(folder: Path, *overrides: str, status: str | None = "finished", **metrics: float) -> Path:
    folder.mkdir(parents=True)
    write_yaml(folder / "config.yaml", compose(list(overrides)).config)
    if status:
        (folder / "results.json").write_text(json.dumps({"status": status, "metrics": metrics}))
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
    (run / "wandb" / "deeper").mkdir()
    (run / "wandb" / "deeper" / "config.yaml").write_text("a: [1\n")
    assert [found.path for found in runs_below([tmp_path])] == [run]


def test_a_run_reads_its_record(tmp_path: Path) -> None:
    path = make(tmp_path / "run", "seed=5", **{"test/top1": 97.5})
    (path / "metrics.csv").write_text("epoch,val/top1,x\n1,50.0,\n2,60.5,3\n")
    (path / "manifest.json").write_text(json.dumps({"run_id": "abcd"}))
    run = Run(path)
    assert run.finished and not run.smoke
    assert run.metrics == {"test/top1": 97.5}
    assert run.history == [{"epoch": 1.0, "val/top1": 50.0}, {"epoch": 2.0, "val/top1": 60.5, "x": 3.0}]
    assert run.manifest["run_id"] == "abcd"
    assert run.id == f"{run.cell}_seed5"


def test_a_stored_configuration_has_the_id_of_the_composed_one(tmp_path: Path) -> None:
    """Also after YAML: floats, nulls and lists come back as they were."""
    from hyplearn.runs.identity import run_id

    for overrides in (["model=mix_vit_s", "loss.tau=[0.1,0.2]"], ["model=hecnn_r50", "optim=radamw", "optim.lr=1e-5"]):
        path = make(tmp_path / overrides[0], *overrides)
        assert Run(path).id == run_id(compose(overrides).config)


def test_the_finished_one_of_equal_runs_comes_first(tmp_path: Path) -> None:
    make(tmp_path / "1", "seed=1", status="finished")
    make(tmp_path / "2", "seed=1", status="failed")
    make(tmp_path / "3", "seed=1", status=None)
    make(tmp_path / "4", "seed=2")
    grouped: dict[str, Any] = by_id(runs_below([tmp_path]))
    assert sorted(map(len, grouped.values())) == [1, 3]
    assert max(grouped.values(), key=len)[0].path.name == "1"


def test_smoke_is_marked(tmp_path: Path) -> None:
    assert Run(make(tmp_path / "run", "scale=smoke")).smoke

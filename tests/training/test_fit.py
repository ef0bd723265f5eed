"""One run from settings to results."""

from __future__ import annotations

import csv
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.testing import assert_close

from hyplearn.losses import CrossEntropy
from hyplearn.training.checkpoint import checkpoint_to_evaluate
from hyplearn.training.fit import evaluate, fit
from tests.support import runs


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as stream:
        return list(csv.DictReader(stream))


def test_a_run_leaves_its_record(finished_run: Path) -> None:
    expected = ["config.yaml", "manifest.json", "metrics.csv", "results.json", "train.log"]
    expected += ["checkpoints/best.ckpt", "checkpoints/last.ckpt"]
    expected += [f"figures/{name}.png" for name in ("accuracy", "curvature", "loss")]
    files = {str(path.relative_to(finished_run)) for path in finished_run.rglob("*") if path.is_file()}
    assert {name for name in files if not name.startswith("tensorboard/")} == set(expected)


def test_one_tidy_row_per_epoch(finished_run: Path) -> None:
    table = rows(finished_run)
    assert [(row["epoch"], row["step"]) for row in table] == [("1", "8"), ("2", "16"), ("3", "24")]
    assert all(value != "" for row in table for value in row.values())
    names = {"train/loss", "train/top1", "train/top5", "val/loss", "val/top1", "lr/euclidean", "lr/manifold"}
    names |= {"curvature/encoder", "curvature/decoder_at_bound", "radius/mean", "radius/max", "radius/share"}
    names |= {"rescaled/transfer", "gradient/euclidean", "gradient/curvature", "images_per_second", "seconds"}
    assert names <= set(table[0])


def test_the_learning_rates_are_those_of_the_schedule(finished_run: Path) -> None:
    """Milestone at half of three epochs; the manifold group skips it."""
    table = rows(finished_run)
    assert_close([float(row["lr/euclidean"]) for row in table], [0.1, 0.02, 0.02])
    assert_close([float(row["lr/manifold"]) for row in table], [0.02, 0.02, 0.02])


def test_results_say_what_was_chosen_and_how_it_tested(finished_run: Path) -> None:
    results, table = runs.results(finished_run), rows(finished_run)
    assert results["status"] == "finished"
    assert results["selection"]["rule"] == "best val/top1"
    best = max(table, key=lambda row: float(row["val/top1"]))
    assert results["selection"]["epoch"] == int(best["epoch"])
    assert results["metrics"]["val/top1"] == float(best["val/top1"])
    assert results["curvature"]["encoder"] == float(best["curvature/encoder"])
    assert 0 <= results["metrics"]["test/top1"] <= results["metrics"]["test/top5"] <= 100
    assert (results["epochs"], results["steps"], results["parameters"]) == (3, 24, 177)
    assert results["dataset"]["counts"] == {"train": 128, "val": 32, "test": 42}


def test_evaluate_repeats_the_test_of_the_chosen_weights(finished_run: Path) -> None:
    found = evaluate(runs.spec(finished_run), checkpoint_to_evaluate(finished_run))
    results = runs.results(finished_run)
    tests = {name: value for name, value in results["metrics"].items() if name.startswith("test/")}
    assert found["metrics"] == tests
    assert found["curvature"] == results["curvature"]
    assert found["checkpoint"].endswith("best.ckpt")


def test_the_end_of_a_run_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = fit(runs.spec(tmp_path, trainer={"max_epochs": 1}))
    said = capsys.readouterr().out
    assert "curvature   " in said  # the table of parameter groups
    assert f"test accuracy           {result['metrics']['test/top1']:.2f} %" in said
    assert f"curvature c of encoder  {result['curvature']['encoder']:.4f}" in said
    assert "time per epoch" in said
    assert f"written to {tmp_path}:\n  config.yaml\n  manifest.json\n  metrics.csv\n" in said
    assert said.count("epoch   1/1") == 1


def test_quiet_runs_say_nothing_on_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(runs.spec(tmp_path, trainer={"max_epochs": 1, "progress": "none"}))
    assert capsys.readouterr() == ("", "")
    assert "test accuracy" in (tmp_path / "train.log").read_text()
    assert logging.getLogger("hyplearn").handlers == []


def test_no_warning_reaches_the_user(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(runs.spec(tmp_path, trainer={"max_epochs": 1}, data={"val_fraction": 0.0}))
    assert [str(warning.message) for warning in caught] == []


def test_the_config_is_kept_in_yaml(tmp_path: Path) -> None:
    config = {
        "model": {"_target_": "a.B", "stages": ["lorentz", "euclidean"], "drop": None, "empty": {}, "none": []},
        "lr": 1e-5, "big": 1e22, "wd": 5e-4, "on": True, "off": "off", "n": 3, "inf": float("inf"), "a.b": 0,
        "text": "a: 'b' #é",
        "nested": {"list": [{"a": 1.0}, [1, 2e-7]]},
    }  # fmt: skip
    fit(runs.spec(tmp_path, config=config, trainer={"max_epochs": 1}))
    assert OmegaConf.to_container(OmegaConf.load(tmp_path / "config.yaml")) == config


def test_test_data_are_read_once_and_looked_at_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = runs.spec(tmp_path)
    source, events = spec.datamodule.source, []
    read = source.test

    def watched(root: Path | None) -> Any:
        events.append((tmp_path / "checkpoints" / "last.ckpt").is_file() and runs.checkpoint(tmp_path)["global_step"])
        return read(root)

    monkeypatch.setattr(source, "test", watched)
    fit(spec)
    assert events == [False]  # there was no checkpoint yet


def test_without_validation_the_last_epoch_counts(tmp_path: Path) -> None:
    results = fit(runs.spec(tmp_path, data={"val_fraction": 0.0}, trainer={"max_epochs": 2}))
    assert results["selection"] == {"rule": "last epoch", "epoch": 2, "checkpoint": "checkpoints/last.ckpt"}
    assert not (tmp_path / "checkpoints" / "best.ckpt").exists()
    assert "val/top1" not in results["metrics"]
    assert "radius/mean" in rows(tmp_path)[0]


def test_a_euclidean_model_has_no_curvature_to_report(tmp_path: Path) -> None:
    results = fit(
        runs.spec(tmp_path, build_model=runs.EuclideanNetwork, trainer={"max_epochs": 1}, callbacks={"figures": True})
    )
    assert results["curvature"] == {}
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["accuracy.png", "loss.png"]
    assert not any(name.startswith("curvature") for name in rows(tmp_path)[0])


def test_limits_shorten_epochs_and_the_schedule_follows(tmp_path: Path) -> None:
    limits = {"limit_train_batches": 3, "limit_val_batches": 1, "limit_test_batches": 0, "max_epochs": 4}
    results = fit(runs.spec(tmp_path, trainer=limits, callbacks={"geometry": False}))
    assert results["steps"] == 12
    assert not any(name.startswith("test/") for name in results["metrics"])
    table = rows(tmp_path)
    assert_close([float(row["lr/euclidean"]) for row in table], [0.1, 0.1, 0.02, 0.02])
    assert "radius/mean" not in table[0]


def test_max_steps_end_a_run_within_an_epoch(tmp_path: Path) -> None:
    results = fit(runs.spec(tmp_path, trainer={"max_steps": 10}))
    assert (results["steps"], results["epochs"]) == (10, 2)
    assert runs.checkpoint(tmp_path)["global_step"] == 10


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tmp_path: Path, finished_run: Path) -> None:
    same, other = fit(runs.spec(tmp_path / "same")), fit(runs.spec(tmp_path / "other", seed=1))
    reference = runs.results(finished_run)
    assert same["metrics"] == reference["metrics"]
    assert other["metrics"]["train/loss"] != reference["metrics"]["train/loss"]
    assert same["run_id"] != reference["run_id"]


def test_a_run_that_fails_says_so_in_its_record(tmp_path: Path) -> None:
    class Broken(CrossEntropy):
        def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
            raise RuntimeError("no loss today")

    with pytest.raises(RuntimeError, match="no loss today"):
        fit(runs.spec(tmp_path, build_loss=lambda model: Broken()))
    results = runs.results(tmp_path)
    assert (results["status"], results["error"]) == ("failed", "RuntimeError: no loss today")
    assert "Traceback" in (tmp_path / "train.log").read_text()


def test_a_loss_of_something_else_than_logits_is_refused(tmp_path: Path) -> None:
    class Pairwise(nn.Module):
        expects = "embeddings"

    with pytest.raises(ValueError, match=r"Pairwise\.expects='embeddings': a classifier needs a loss of 'logits'"):
        fit(runs.spec(tmp_path, build_loss=lambda model: Pairwise()))


def test_settings_are_checked_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"callbacks.monitor='val/recall@1' must be one of val/top1, .* for a class"):
        fit(runs.spec(tmp_path / "run", callbacks={"monitor": "val/recall@1"}))
    with pytest.raises(ValueError, match="seed=-1 must be at least 0"):
        fit(runs.spec(tmp_path / "run", seed=-1))
    assert not (tmp_path / "run").exists()


def test_top5_decides_only_where_there_are_more_than_five_classes(tmp_path: Path) -> None:
    assert fit(runs.spec(tmp_path, callbacks={"monitor": "val/top5"}))["selection"]["rule"] == "best val/top5"
    spec = runs.spec(tmp_path / "few", callbacks={"monitor": "val/top5"})
    spec.datamodule.source.num_classes = 4
    with pytest.raises(ValueError, match=r"callbacks.monitor=val/top5 needs more than 5 classes: use val/top1"):
        fit(spec)


def test_checkpoints_hold_nothing_that_has_to_be_executed(finished_run: Path) -> None:
    for name in ("best", "last"):
        content = torch.load(finished_run / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert all(type(value) is Tensor for value in content["state_dict"].values())
        json.dumps(content["callbacks"])

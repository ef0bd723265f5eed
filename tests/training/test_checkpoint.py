"""When checkpoints are written, which one counts, and that they hold plain data."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from hyplearn.errors import NonFiniteLoss
from hyplearn.runs.directory import RunDirectory
from hyplearn.training.callbacks.checkpoints import Best, Checkpoints
from hyplearn.training.callbacks.stop_signals import StopSignals
from hyplearn.training.checkpoint import (
    WholeCheckpointIO,
    checkpoint_to_evaluate,
    find_checkpoint,
    load_weights,
    read_checkpoint,
)
from hyplearn.training.fit import evaluate, fit
from hyplearn.training.module import TrainingModule
from tests.support import runs


def checkpoints(folder: Path, **changes: Any) -> Checkpoints:
    options = {"monitor": "val/top1", "every": 1, "patience": None, "signals": StopSignals(), **changes}
    return Checkpoints(RunDirectory(folder), **options)


class FakeTrainer:
    """Stands where a trainer stands after each of several epochs; notes what is saved."""

    def __init__(self, epochs: int) -> None:
        self.max_epochs, self.max_steps, self.global_step = epochs, -1, 0
        self.should_stop, self.current_epoch, self.num_val_batches, self.is_global_zero = False, 0, [1], True
        self.strategy = self.precision_plugin = self
        self.scaler, self.optimizers = None, []
        self.lightning_module = torch.nn.Identity()
        self.saved: list[tuple[int, str]] = []

    def save_checkpoint(self, path: Path, weights_only: bool) -> None:
        self.saved.append((self.current_epoch + 1, path.name))

    def reduce_boolean_decision(self, decision: bool, all: bool) -> bool:
        return decision


def train(callback: Checkpoints, name: str, values: list[float], monkeypatch: pytest.MonkeyPatch) -> FakeTrainer:
    """Epochs that end with the given values of the metric."""
    trainer = FakeTrainer(len(values))
    module = runs.spec(Path("unused")).build_module()
    for trainer.current_epoch, value in enumerate(values):
        module.row = {name: value}
        callback.on_train_epoch_end(trainer, module)  # type: ignore[arg-type]
        if trainer.should_stop:
            break
    return trainer


@pytest.mark.parametrize(
    ("monitor", "values", "best"),
    [("val/top1", [10.0, 30.0, 30.0, 20.0], 3), ("val/loss", [2.0, 0.5, 0.7, 0.5], 4), ("val/top1", [5.0], 1)],
)
def test_the_last_of_the_best_epochs_is_kept(
    monitor: str, values: list[float], best: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    callback = checkpoints(tmp_path, monitor=monitor)
    trainer = train(callback, monitor, values, monkeypatch)
    assert callback.leader is not None
    assert callback.leader.epoch == best
    assert [epoch for epoch, name in trainer.saved if name == "best.ckpt"][-1] == best
    assert [epoch for epoch, name in trainer.saved if name == "last.ckpt"] == list(range(1, len(values) + 1))


TIES = {  # rows of (monitor, second metric): the epoch that is kept, and how that is told
    "no tie": ([(97, 40), (98, 30)], 2, None),
    "by the second": ([(97, 60), (97, 90), (97, 80)], 2, "of 3 epochs with it the best by {}"),
    "then the last": (
        [(97, 60), (97, 90), (97, 90), (97, 80)], 3, "of 4 epochs with it the best by {}, and of 2 such the last",
    ),
    "a better one ends ties": ([(97, 60), (97, 90), (98, 10)], 3, None),
    "without the second": ([(97, None), (97, None)], 2, "of 2 epochs with it the last"),
}  # fmt: skip


@pytest.mark.parametrize("monitor", ["val/recall@1", "val/top1"])
@pytest.mark.parametrize("name", TIES)
def test_ties_go_to_the_better_second_metric_and_then_to_the_last(name: str, monitor: str, tmp_path: Path) -> None:
    """MAP@R of retrieval, the loss of a classifier. A run that stops and goes on chooses as one that does not."""
    rows, best, told = TIES[name]
    (tmp_path / "checkpoints").mkdir()
    callback, breaker = checkpoints(tmp_path, monitor=monitor), {"val/top1": "val/loss"}.get(monitor, "val/map@r")
    sign = -1 if breaker == "val/loss" else 1
    for epoch, (value, second) in enumerate(rows, 1):
        row = {monitor: float(value)} | ({} if second is None else {breaker: sign * float(second)})
        if epoch > 1:
            state, callback = callback.state_dict(), checkpoints(tmp_path, monitor=monitor)
            callback.load_state_dict(state)
        end_epoch(callback, epoch, row)
    chosen = callback.choice(len(rows))
    assert (chosen.rule, chosen.epoch) == (f"best {monitor}", best)
    assert chosen.ties == (None if told is None else told.format(breaker))


def end_epoch(callback: Checkpoints, epoch: int, row: dict[str, float]) -> None:
    trainer, module = FakeTrainer(99), runs.spec(Path("unused")).build_module()
    trainer.current_epoch, module.row = epoch - 1, row

    def save(path: Path, weights_only: bool) -> None:
        torch.save({"callbacks": {"Checkpoints": callback.state_dict()}}, path)

    trainer.save_checkpoint = save  # type: ignore[method-assign]
    callback.on_train_epoch_end(trainer, module)  # type: ignore[arg-type]


def test_the_best_epoch_of_an_older_checkpoint_is_known(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    torch.save({}, tmp_path / "checkpoints" / "best.ckpt")
    callback = checkpoints(tmp_path, monitor="val/top1", patience=3)
    callback.load_state_dict({"best_value": 90.0, "best_epoch": 4})
    assert callback.leader == Best(90.0, 4, 4)


def test_ties_are_no_progress_for_patience(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    callback = checkpoints(tmp_path, patience=2, every=100)
    trainer = train(callback, "val/top1", [5.0, 5.0, 5.0, 9.0], monkeypatch)
    assert trainer.saved == [(1, "best.ckpt"), (2, "best.ckpt"), (3, "best.ckpt"), (3, "last.ckpt")]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_epoch_that_is_not_finite_ends_the_run(
    value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    callback = checkpoints(tmp_path, monitor="val/loss")
    with pytest.raises(NonFiniteLoss, match=r"non-finite metrics \(val/loss\) in epoch 2"):
        train(callback, "val/loss", [3.0, value, 2.0], monkeypatch)
    assert callback.leader == Best(3.0, 1, 1)


def test_without_the_metric_no_epoch_is_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    callback = checkpoints(tmp_path)
    trainer = train(callback, "train/top1", [1.0, 2.0], monkeypatch)
    assert trainer.saved == [(1, "last.ckpt"), (2, "last.ckpt")]
    assert callback.choice(2) == ("last epoch", 2, tmp_path / "checkpoints" / "last.ckpt", None)


def test_last_is_written_as_often_as_asked_and_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = train(checkpoints(tmp_path, every=3), "none", [0.0] * 8, monkeypatch)
    assert [epoch for epoch, _ in trainer.saved] == [3, 6, 8]


def test_patience_ends_a_run_that_gets_no_better(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    callback = checkpoints(tmp_path, patience=2, every=100)
    trainer = train(callback, "val/top1", [1.0, 5.0, 4.0, 4.5, 9.0], monkeypatch)
    assert trainer.saved == [(1, "best.ckpt"), (2, "best.ckpt"), (4, "last.ckpt")]


def test_patience_in_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes: dict[str, Any] = {"optim": {"lr": 1e-9, "curvature_lr": 0.0}, "callbacks": {"patience": 1}}
    results = fit(runs.spec(tmp_path, trainer={"max_epochs": 9}, **changes))
    assert results["epochs"] < 9
    resumed = fit(runs.spec(tmp_path, trainer={"max_epochs": 9}, resume=tmp_path, **changes))
    assert resumed["epochs"] == results["epochs"]


def test_patience_needs_validation(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"callbacks.patience=2 needs validation data: set dataset.val_fraction > 0"):
        fit(runs.spec(tmp_path, callbacks={"patience": 2}, data={"val_fraction": 0.0}))


def test_the_weights_that_were_tested_are_those_of_the_epoch_named(tmp_path: Path) -> None:
    """A run killed after best.ckpt and before last.ckpt leaves a best.ckpt newer than what last.ckpt knows of."""
    fit(runs.spec(tmp_path, trainer={"max_epochs": 2}))
    content = runs.checkpoint(tmp_path, "best")
    content["callbacks"]["Checkpoints"]["best_epoch"] = 7
    torch.save(content, tmp_path / "checkpoints" / "best.ckpt")
    results = fit(runs.spec(tmp_path, trainer={"max_epochs": 2}, resume=tmp_path))
    assert results["selection"]["epoch"] == 7


def test_the_best_weights_come_along_into_another_directory(tmp_path: Path) -> None:
    fit(runs.spec(tmp_path / "a", trainer={"max_epochs": 2}))
    fit(runs.spec(tmp_path / "b", resume=tmp_path / "a", trainer={"max_epochs": 2}))
    for name in ("checkpoints/best.ckpt", "metrics.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_missing_best_checkpoint_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(runs.spec(tmp_path, trainer={"max_epochs": 2}))
    (tmp_path / "checkpoints" / "best.ckpt").unlink()
    results = fit(runs.spec(tmp_path, resume=tmp_path))
    assert "best.ckpt is missing: the best epoch is chosen among those to come" in capsys.readouterr().out
    assert results["selection"]["epoch"] == 3


def test_a_write_that_breaks_off_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.ckpt"
    WholeCheckpointIO().save_checkpoint({"step": 1}, path)

    def killed(content: Any, stream: Any) -> None:
        stream.write(b"PK half of a file")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        WholeCheckpointIO().save_checkpoint({"step": 2}, path)
    assert read_checkpoint(path) == {"step": 1}


@pytest.mark.parametrize(
    ("content", "where"),
    [
        ({"a": [{"b": Path("x")}]}, r"checkpoint\['a'\]\[0\]\['b'\] is a PosixPath"),
        ({"a": {1.5, len}}, r"is a builtin_function_or_method"),
        ({os.PathLike: 1}, r"a key of checkpoint is a ABCMeta"),
    ],
)
def test_what_weights_only_cannot_load_is_named_when_it_is_saved(content: Any, where: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=where):
        WholeCheckpointIO().save_checkpoint(content, tmp_path / "a.ckpt")
    assert list(tmp_path.iterdir()) == []


def test_what_is_plain_comes_back(tmp_path: Path) -> None:
    content = {"t": torch.arange(3), "n": [1, 2.5, None, "x", True, (torch.float16, torch.Size([2]))], "s": {1, 2}}
    WholeCheckpointIO().save_checkpoint(content, tmp_path / "a.ckpt")
    back = read_checkpoint(tmp_path / "a.ckpt")
    assert torch.equal(back.pop("t"), content.pop("t"))
    assert back == content


def test_checkpoints_are_found_by_run_directory(finished_run: Path, tmp_path: Path) -> None:
    folder = finished_run / "checkpoints"
    assert find_checkpoint(finished_run) == find_checkpoint(folder / "last.ckpt") == folder / "last.ckpt"
    assert checkpoint_to_evaluate(finished_run) == folder / "best.ckpt"
    assert checkpoint_to_evaluate(folder / "last.ckpt") == folder / "last.ckpt"
    with pytest.raises(ValueError, match="must be a checkpoint or a run directory with one"):
        find_checkpoint(tmp_path)


def test_weights_of_another_model_are_refused(finished_run: Path) -> None:
    module = runs.spec(finished_run, build_model=runs.EuclideanNetwork).build_module()
    assert isinstance(module, TrainingModule)
    with pytest.raises(ValueError, match=r"last.ckpt belongs to another model than the one configured"):
        load_weights(module, finished_run / "checkpoints" / "last.ckpt")


def test_the_state_dict_has_the_keys_of_the_model(finished_run: Path) -> None:
    model = runs.SmallNetwork()
    assert set(runs.checkpoint(finished_run)["state_dict"]) == {f"model.{key}" for key in model.state_dict()}


def test_no_epochs_test_the_weights_as_they_come(tmp_path: Path) -> None:
    results = fit(runs.spec(tmp_path, trainer={"max_epochs": 0}))
    assert results["status"] == "finished"
    assert (results["selection"]["rule"], results["epochs"]) == ("no training", 0)
    assert (tmp_path / "manifest.json").is_file()
    again = evaluate(runs.spec(tmp_path / "again"), tmp_path / "checkpoints" / "last.ckpt")
    assert again["metrics"] == results["metrics"]

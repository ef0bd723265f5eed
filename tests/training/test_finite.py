"""A checkpoint is finite, whoever writes it and whenever; what is not finite is neither continued nor used."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from hyplearn.errors import ConfigError, NonFiniteLoss
from hyplearn.training.checkpoint import WholeCheckpointIO
from hyplearn.training.finite import all_finite, non_finite, non_finite_in, non_finite_training, not_finite
from hyplearn.training.fit import evaluate, fit
from tests.support import runs

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_one_number_among_many_is_found(dtype: torch.dtype, value: float) -> None:
    fine = {"a": torch.zeros(0), "b": torch.full((7,), 60000.0).half(), "c": torch.tensor(1e300, dtype=torch.float64)}
    assert all_finite(fine.values())
    bad = torch.ones(3, 5, dtype=dtype)
    bad[1, 2] = value
    assert non_finite({**fine, "bad": bad, "count": torch.tensor(3)}) == ["bad"]
    assert non_finite({**fine, "bad": torch.tensor(value, dtype=dtype)}) == ["bad"]


def test_the_largest_numbers_of_a_type_are_finite() -> None:
    assert all_finite([torch.full((1000,), torch.finfo(dtype).max, dtype=dtype) for dtype in (torch.half, torch.float)])


def test_of_a_checkpoint_weights_and_numbers_of_training_count() -> None:
    content = {
        "state_dict": {"w": torch.tensor([NAN]), "fine": torch.ones(2)},
        "optimizer_states": [
            {"state": {0: {"exp_avg": torch.tensor(INF), "step": NAN}}, "param_groups": [{"clip": INF}]}
        ],
        "MixedPrecision": {"scale": INF, "growth_factor": 2.0},
        "callbacks": {"Own": {"best": INF}},
    }
    assert non_finite_in(content) == [
        "w",
        "optimizer state.0.0.exp_avg",
        "optimizer state.0.0.step",
        "gradient scaler.scale",
    ]


def test_momentum_buffers_and_the_scale_are_part_of_training() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    network(torch.randn(4, 2)).sum().backward()
    optimizer.step()
    assert non_finite_training(network, [optimizer], 1.0) == []
    optimizer.state[network[0].bias]["momentum_buffer"][0] = NAN
    network[1].running_var[1] = INF
    names = ["1.running_var", "optimizer state of 0.bias.momentum_buffer", "gradient scale"]
    assert non_finite_training(network, [optimizer], INF) == names


def test_metrics_that_count_are_those_of_a_stage() -> None:
    numbers = {"val/loss": NAN, "test/recall@1": INF, "train/top1": 3.0, "gradient/z": INF}
    assert not_finite(numbers) == ["val/loss", "test/recall@1"]


class Breaking(pl.Callback):
    """Breaks something of training once an optimizer step is done."""

    def __init__(self, step: int, breaks: Callable[[pl.Trainer], None]) -> None:
        self.step, self.breaks = step, breaks

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            self.breaks(trainer)


def break_weight(trainer: pl.Trainer) -> None:
    with torch.no_grad():
        trainer.lightning_module.model.z[0, 0] = NAN


def break_buffer(trainer: pl.Trainer) -> None:
    trainer.lightning_module.model.features[1].running_mean[0] = INF


def break_momentum(trainer: pl.Trainer) -> None:
    (optimizer,) = trainer.optimizers
    next(state["momentum_buffer"] for state in optimizer.state.values() if "momentum_buffer" in state).fill_(INF)


def all_checkpoints_are_finite(folder: Path) -> None:
    for path in folder.rglob("*.ckpt"):
        assert non_finite_in(torch.load(path, weights_only=True)) == []


@pytest.mark.parametrize("breaks", [break_weight, break_buffer, break_momentum])
@pytest.mark.parametrize(("step", "kept"), [(8, False), (24, True)], ids=["of the first epoch", "of the last"])
def test_what_breaks_after_the_last_look_reaches_no_checkpoint(
    tmp_path: Path, breaks: Callable[[pl.Trainer], None], step: int, kept: bool
) -> None:
    spec = runs.spec(tmp_path, own_callbacks=[Breaking(step, breaks)])
    with pytest.raises(NonFiniteLoss, match=rf"weights or optimizer state .* after step {step}") as caught:
        fit(spec)
    report = json.loads((tmp_path / "nonfinite.json").read_text())
    assert (report["step"], len(report["names"])) == (step, 1)
    assert ("the last good checkpoint is" in str(caught.value)) is kept
    assert runs.results(tmp_path)["status"] == "diverged"
    assert bool(list(tmp_path.rglob("last.ckpt"))) is kept
    all_checkpoints_are_finite(tmp_path)


def test_a_request_to_stop_keeps_no_broken_weights(tmp_path: Path) -> None:
    def break_and_stop(trainer: pl.Trainer) -> None:
        break_weight(trainer)
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(NonFiniteLoss, match="in epoch 2, after step 11"):
        fit(runs.spec(tmp_path, own_callbacks=[Breaking(11, break_and_stop)]))
    assert runs.checkpoint(tmp_path)["global_step"] == 8
    all_checkpoints_are_finite(tmp_path)


def test_a_callback_of_the_user_cannot_write_broken_weights_either(tmp_path: Path) -> None:
    path = tmp_path / "own.ckpt"

    def break_and_save(trainer: pl.Trainer) -> None:
        break_weight(trainer)
        trainer.save_checkpoint(path)

    with pytest.raises(NonFiniteLoss, match=r"own\.ckpt would hold numbers that are not finite \(model\.z\)"):
        fit(runs.spec(tmp_path / "run", own_callbacks=[Breaking(3, break_and_save)]))
    assert not path.exists()
    assert runs.results(tmp_path / "run")["status"] == "diverged"


class LossOfEvaluation(nn.Module):
    """A cross entropy that is infinite in evaluation, once that many batches have been evaluated."""

    expects = "logits"

    def __init__(self, batches: int) -> None:
        super().__init__()
        self.left = batches

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        loss = nn.functional.cross_entropy(logits, labels)
        self.left -= not self.training
        return loss if self.training or self.left >= 0 else loss * INF


def test_an_epoch_whose_validation_loss_is_infinite_leaves_no_checkpoint(tmp_path: Path) -> None:
    spec = runs.spec(tmp_path, build_loss=lambda model: LossOfEvaluation(0))
    with pytest.raises(NonFiniteLoss, match=r"non-finite metrics \(val/loss\) in epoch 1"):
        fit(spec)
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_run_with_infinite_test_metrics_has_diverged(tmp_path: Path) -> None:
    spec = runs.spec(tmp_path, build_loss=lambda model: LossOfEvaluation(6))  # three epochs of two batches
    with pytest.raises(NonFiniteLoss, match=r"non-finite metrics \(test/loss\)"):
        fit(spec)
    results = runs.results(tmp_path)
    assert (results["status"], results["metrics"]["test/loss"]) == ("diverged", "inf")
    all_checkpoints_are_finite(tmp_path)


@pytest.fixture
def broken_run(tmp_path: Path) -> Path:
    """A run directory from before, whose last checkpoint holds NaN."""
    fit(runs.spec(tmp_path))
    content = runs.checkpoint(tmp_path)
    content["state_dict"]["model.z"][0] = NAN
    torch.save(content, tmp_path / "checkpoints" / "last.ckpt")
    return tmp_path


def test_broken_weights_are_neither_continued_nor_evaluated(broken_run: Path, tmp_path: Path) -> None:
    last = broken_run / "checkpoints" / "last.ckpt"
    with pytest.raises(ConfigError, match=r"last\.ckpt holds numbers that are not finite \(model\.z\)"):
        fit(runs.spec(tmp_path / "next", resume=last, trainer={"max_epochs": 5}))
    with pytest.raises(ConfigError, match=r"last\.ckpt holds weights that are not finite \(model\.z\)"):
        evaluate(runs.spec(broken_run), last)


def test_training_is_the_same_with_the_looks(tmp_path: Path) -> None:
    """They read, and draw no random number."""
    fit(runs.spec(tmp_path))
    content = runs.checkpoint(tmp_path)
    io = WholeCheckpointIO()
    io.save_checkpoint(content, tmp_path / "again.ckpt")
    again = io.load_checkpoint(tmp_path / "again.ckpt")
    assert all(torch.equal(again["state_dict"][name], value) for name, value in content["state_dict"].items())

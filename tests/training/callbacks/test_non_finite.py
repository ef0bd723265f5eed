"""What is not finite stops a run and is reported; what fp16 scaling skips does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hyplearn.errors import NonFiniteLoss
from hyplearn.training import flags
from hyplearn.training.callbacks.non_finite import NonFiniteGuard, _first_affected
from hyplearn.training.fit import fit
from tests.support import runs


class Failing(nn.Module):
    """Lets values or gradients become infinite at one training call."""

    def __init__(self, call: int, *, values: bool) -> None:
        super().__init__()
        self.left, self.values = call, values

    def forward(self, x: Tensor) -> Tensor:
        self.left -= self.training
        if self.left > 0 or not self.training:  # the call, and the one that looks for the layer
            return x
        if self.values:
            return x * torch.inf
        return x + (x - x.detach()).abs().sqrt()  # 0 with an infinite derivative


def failing_network(call: int, *, values: bool, **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        model = runs.SmallNetwork(**options)
        model.features.insert(2, Failing(call, values=values))
        return model

    return build


def report_of(folder: Path, **changes: Any) -> tuple[dict[str, Any], str]:
    with pytest.raises(NonFiniteLoss) as caught:
        fit(runs.spec(folder, **changes))
    assert caught.value.report == folder / "nonfinite.json"
    return json.loads(caught.value.report.read_text(), parse_constant=pytest.fail), str(caught.value)


def test_a_non_finite_loss_is_traced_to_its_layer(tmp_path: Path) -> None:
    spec = runs.spec(tmp_path, build_model=failing_network(11, values=True))
    message = r"^non-finite loss in epoch 2, step 10; first in layer features.2 \(Failing\)"
    with pytest.raises(NonFiniteLoss, match=message):
        fit(spec)
    report = json.loads((tmp_path / "nonfinite.json").read_text())
    assert (report["epoch"], report["step"], report["batch"]) == (2, 10, 2)
    assert report["loss"] == "nan"
    assert (report["first_layer"], report["first_layer_type"]) == ("features.2", "Failing")
    expected = spec.datamodule.train_dataloader()
    expected.sampler.set_epoch(1)
    assert report["batch_ids"] == [batch.ids.tolist() for batch in expected][2]
    assert set(report["curvatures"]) == {"encoder", "decoder"}
    assert set(report["radius"]) == {"radius/mean", "radius/max", "radius/share"}
    assert report["learning_rates"]["curvature"] == 0.05
    assert report["non_finite_parameters"] == []


def test_the_last_good_checkpoint_stays(tmp_path: Path) -> None:
    report, message = report_of(tmp_path, build_model=failing_network(11, values=True))
    checkpoint = runs.checkpoint(tmp_path)
    assert checkpoint["global_step"] == 8
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values() if value.is_floating_point())
    assert report["last_good_checkpoint"] == str(tmp_path / "checkpoints" / "last.ckpt")
    assert report["last_good_checkpoint"] in message
    assert runs.results(tmp_path)["status"] == "diverged"


def test_the_message_says_what_to_try(tmp_path: Path) -> None:
    _, message = report_of(tmp_path, build_model=failing_network(1, values=True), trainer={"precision": "bf16"})
    for advice in ("optim.lr", "optim.curvature_lr", "gradient_clip=1", "precision=32", "manifold.bounds"):
        assert advice in message
    assert "checkpoint" not in message


def test_non_finite_gradients_are_found_before_the_step(tmp_path: Path) -> None:
    report, message = report_of(tmp_path, build_model=failing_network(3, values=False))
    assert message.startswith("non-finite gradients in epoch 1, step 2")
    assert report["first_layer"] is None
    assert "model.features.0.weight" in report["non_finite_gradients"]
    assert "model.z" not in report["non_finite_gradients"]
    assert report["non_finite_parameters"] == []


def test_a_rarer_look_comes_later_but_comes(tmp_path: Path) -> None:
    report, _ = report_of(tmp_path, build_model=failing_network(3, values=True), callbacks={"nonfinite_every": 4})
    assert report["batch"] == 4
    assert "model.features.0.weight" in report["non_finite_parameters"]


def test_the_guard_can_be_switched_off(tmp_path: Path) -> None:
    """No step is looked at then; the end of the epoch is, before validation and the checkpoint."""
    report, message = report_of(tmp_path, build_model=failing_network(3, values=True), callbacks={"nonfinite_every": 0})
    assert (report["epoch"], report["step"], report["last_good_checkpoint"]) == (1, 8, None)
    assert "model.features.0.weight" in report["names"]
    assert message.startswith("non-finite weights or optimizer state (model.shift")
    assert runs.results(tmp_path)["status"] == "diverged"
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_step_that_the_fp16_scaler_leaves_out_is_no_failure(tmp_path: Path) -> None:
    class Once(Failing):
        def forward(self, x: Tensor) -> Tensor:
            self.left -= self.training
            return x + (x - x.detach()).abs().sqrt() if self.left == 0 and self.training else x

    def build() -> nn.Module:
        model = runs.SmallNetwork()
        model.features.insert(2, Once(3, values=False))
        return model

    fit(runs.spec(tmp_path, build_model=build, trainer={"precision": "fp16", "max_epochs": 2}))
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("gradient/skipped")
    assert [float(line.split(",")[column]) for line in lines[1:]] == [1.0, 0.0]


def test_gradients_that_overflow_at_every_scale_are_a_failure(tmp_path: Path) -> None:
    report, message = report_of(
        tmp_path, build_model=failing_network(1, values=False), trainer={"precision": "fp16", "max_epochs": 9}
    )
    assert message.startswith("non-finite gradients in epoch")
    assert report["step"] > 16  # a factor of one half for each step, from 2^16


def test_the_report_is_that_of_the_process_that_failed() -> None:
    fine = {"first_layer": None, "finite_output": True}
    broken = {"first_layer": "stage2", "finite_output": False}
    assert _first_affected([fine, broken])["process"] == 1
    assert _first_affected([fine, fine])["process"] == 0


def test_every_process_stops_if_one_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is reduced over all processes."""
    asked = []

    def reduce(told: Tensor, operation: Any) -> None:
        asked.append((bool(told), operation))
        told.zero_()  # some other process failed

    monkeypatch.setattr(flags, "processes", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", reduce)
    report, _ = report_of(tmp_path)
    assert asked[0] == (True, torch.distributed.ReduceOp.MIN)
    assert report["step"] == 0


@pytest.fixture
def _late(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where gradients are looked at one step late."""
    monkeypatch.setattr(NonFiniteGuard, "_at_once", lambda self, module: False)


@pytest.mark.usefixtures("_late")
@pytest.mark.parametrize(("call", "place"), [(3, (1, 2, 2)), (8, (1, 7, 7)), (9, (2, 8, 0))])
def test_a_late_report_names_the_step_whose_gradients_failed(
    call: int, place: tuple[int, int, int], tmp_path: Path
) -> None:
    spec = runs.spec(tmp_path, build_model=failing_network(call, values=False))
    with pytest.raises(NonFiniteLoss, match=f"^non-finite gradients in epoch {place[0]}, step {place[1]}"):
        fit(spec)
    report = json.loads((tmp_path / "nonfinite.json").read_text(), parse_constant=pytest.fail)
    assert (report["epoch"], report["step"], report["batch"]) == place
    expected = spec.datamodule.train_dataloader()
    expected.sampler.set_epoch(place[0] - 1)
    assert report["batch_ids"] == [batch.ids.tolist() for batch in expected][place[2]]
    assert report["first_layer"] is None
    assert "model.features.0.weight" in report["non_finite_gradients"]
    assert "model.z" not in report["non_finite_gradients"]
    assert isinstance(report["loss"], float)


@pytest.mark.usefixtures("_late")
def test_a_late_look_changes_no_number(tmp_path: Path, finished_run: Path) -> None:
    fit(runs.spec(tmp_path))
    assert runs.results(tmp_path)["metrics"] == runs.results(finished_run)["metrics"]

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.testing import assert_close

from hyplearn.optim.settings import ConstantSchedule
from hyplearn.training.fit import evaluate, fit
from hyplearn.training.settings import TrainerSettings
from hyplearn.training.trainer import ProcessesStrategy, build_trainer, prepare_model, quiet_lightning
from tests.support import runs


def trainer(**settings: Any) -> pl.Trainer:
    return build_trainer(TrainerSettings(**{"accelerator": "cpu", **settings}), folder=Path("unused"), callbacks=[])


class Watched(runs.SmallNetwork):
    """Notes the dtypes on both sides of the geometry."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[torch.dtype, torch.dtype, torch.dtype]] = set()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features, logits = self.features(images), super().forward(images)
        self.seen.add((features.dtype, self.decoder.c.dtype, logits.dtype))
        return logits


@pytest.mark.parametrize(
    ("precision", "features", "geometry"),
    [
        ("32", torch.float32, torch.float32),
        ("64", torch.float64, torch.float64),
        ("bf16", torch.bfloat16, torch.float32),
        ("fp16", torch.float16, torch.float32),
    ],
)
def test_every_precision_trains_with_geometry_in_float32_or_better(
    precision: str, features: torch.dtype, geometry: torch.dtype, tmp_path: Path
) -> None:
    model = Watched()
    spec = runs.spec(tmp_path, build_model=lambda: model, trainer={"precision": precision, "max_epochs": 1})
    results = fit(spec)
    assert model.seen == {(features, geometry, geometry)}
    assert results["metrics"]["train/loss"] < 3
    stored = runs.checkpoint(tmp_path)["state_dict"]["model.features.0.weight"].dtype
    assert stored == (torch.float64 if precision == "64" else torch.float32)


def test_fp16_is_not_replaced_on_a_cpu() -> None:
    """Lightning, given the name, would warn and take bfloat16."""
    plugin = trainer(precision="fp16").precision_plugin
    assert plugin.precision == "16-mixed"
    assert plugin.scaler is not None  # type: ignore[union-attr]


def test_compilation_changes_neither_numbers_nor_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished_run: Path
) -> None:
    compiled = []
    compile_ = nn.Module.compile

    def with_eager_kernels(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        compiled.append(type(self).__name__)
        compile_(self, *args, backend="eager", **kwargs)

    monkeypatch.setattr(nn.Module, "compile", with_eager_kernels)
    changes: dict[str, Any] = {"build_model": runs.EuclideanNetwork, "callbacks": {"geometry": True}}
    plain = fit(runs.spec(tmp_path / "plain", trainer={"max_epochs": 1}, **changes))
    assert compiled == []
    with_compile = fit(runs.spec(tmp_path / "compiled", trainer={"max_epochs": 1, "compile": True}, **changes))
    assert compiled == ["EuclideanNetwork"]
    assert_close(with_compile["metrics"], plain["metrics"], rtol=1e-5, atol=1e-6)
    keys = [set(runs.checkpoint(tmp_path / name)["state_dict"]) for name in ("plain", "compiled")]
    assert keys[0] == keys[1]
    torch.compiler.reset()


def test_convolutions_are_kept_in_channels_last() -> None:
    model = prepare_model(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(2, 2)), TrainerSettings())
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)  # type: ignore[index]


class Norm(nn.Module):
    """Has the attribute by which the batch norms of hyplearn.nn are told to use the statistics of all processes."""

    def __init__(self) -> None:
        super().__init__()
        self.synchronized = False


def test_batch_norms_are_synchronized_where_asked() -> None:
    model = nn.Sequential(Norm(), nn.Sequential(Norm()))
    prepare_model(model, TrainerSettings(accelerator="cpu"))
    assert not model[0].synchronized
    prepare_model(model, TrainerSettings(accelerator="cpu", sync_batchnorm=True))
    assert model[0].synchronized
    assert model[1][0].synchronized


def test_euclidean_batch_norm_cannot_be_synchronized_on_a_cpu() -> None:
    settings = TrainerSettings(accelerator="cpu", sync_batchnorm=True)
    with pytest.raises(
        ValueError, match=r"trainer.sync_batchnorm=True: torch synchronizes Euclidean batch norm on GPUs"
    ):
        prepare_model(nn.Sequential(nn.BatchNorm2d(2)), settings)


def test_a_gpu_that_is_not_there_is_no_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"trainer.accelerator=gpu: torch sees no CUDA device"):
        trainer(accelerator="gpu")
    assert trainer(accelerator="auto").strategy.root_device.type == "cpu"


def test_more_gpus_than_there_are_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match=r"trainer.devices=2 must be at most 1, the CUDA devices torch sees"):
        trainer(accelerator="gpu", devices=2)


@pytest.mark.parametrize(("settings", "parallel"), [({}, False), ({"devices": 2}, True), ({"strategy": "ddp"}, True)])
def test_several_devices_mean_one_process_each(settings: dict[str, Any], parallel: bool) -> None:
    assert isinstance(trainer(**settings).strategy, ProcessesStrategy) is parallel


def test_gradients_are_clipped(tmp_path: Path) -> None:
    """Plain SGD of rate 1 moves by at most the clipping norm."""
    before = runs.spec(tmp_path, build_model=runs.EuclideanNetwork).build_module().state_dict()
    fit(
        runs.spec(
            tmp_path,
            build_model=runs.EuclideanNetwork,
            build_optimizer=torch.optim.SGD,
            optim={"lr": 1.0, "weight_decay": 0.0, "schedule": ConstantSchedule()},
            trainer={"gradient_clip": 1e-3, "max_steps": 1},
        )
    )
    after = runs.checkpoint(tmp_path)["state_dict"]
    moved = sum((after[name] - value).square().sum() for name, value in before.items()) ** 0.5
    assert_close(moved, torch.tensor(1e-3), rtol=1e-3, atol=0)


def test_num_threads_and_deterministic_are_set(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    try:
        fit(runs.spec(tmp_path, trainer={"num_threads": 2, "deterministic": True, "max_epochs": 1}))
        assert torch.get_num_threads() == 2
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)


def test_only_harmless_warnings_are_kept_back() -> None:
    settings = TrainerSettings(precision="fp16")
    with pytest.warns(UserWarning, match="something else"), quiet_lightning(settings):  # noqa: PT031
        warnings.warn("GPU available but not used. You can set it", UserWarning, stacklevel=1)
        warnings.warn("Detected call of `lr_scheduler.step()` before `optimizer.step()`.", UserWarning, stacklevel=1)
        warnings.warn("something else", UserWarning, stacklevel=1)
        assert logging.getLogger("pytorch_lightning").level == logging.WARNING
    with pytest.warns(UserWarning, match="Detected call of"), quiet_lightning(TrainerSettings()):
        warnings.warn("Detected call of `lr_scheduler.step()` before `optimizer.step()`.", UserWarning, stacklevel=1)


def test_evaluation_in_another_precision(tmp_path: Path) -> None:
    results = fit(runs.spec(tmp_path, build_model=runs.EuclideanNetwork, trainer={"max_epochs": 1}))
    spec = runs.spec(tmp_path, build_model=runs.EuclideanNetwork, trainer={"precision": "64"})
    found = evaluate(spec, tmp_path / "checkpoints" / "best.ckpt")
    assert found["metrics"]["test/loss"] != results["metrics"]["test/loss"]
    assert_close(found["metrics"]["test/loss"], results["metrics"]["test/loss"], rtol=1e-6, atol=1e-6)

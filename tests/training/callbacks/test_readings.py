from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from hyplearn.geometry import lorentz
from hyplearn.manifolds.lorentz import Lorentz
from hyplearn.optim import parameter_groups
from hyplearn.training.callbacks import readings
from hyplearn.training.callbacks.readings import CurvatureReadings, OptimizerReadings, Speed
from hyplearn.training.fit import fit
from hyplearn.training.model_readings import curvatures, radii
from tests.support import runs


def module_of(model: torch.nn.Module) -> Any:
    return runs.spec(Path("unused"), build_model=lambda: model).build_module()


def test_gradient_norms_are_means_over_the_finite_steps_of_each_group() -> None:
    model, callback = runs.SmallNetwork(), OptimizerReadings()
    groups = parameter_groups(model, lr=0.1, manifold_lr_scale=0.5, curvature_lr=0.01)
    optimizer, module = SimpleNamespace(param_groups=groups), module_of(model)
    norms: dict[str, list[float]] = {group["name"]: [] for group in groups}
    for step in range(3):
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        if step == 1:
            model.a.grad = torch.full_like(model.a, torch.inf)
        callback.on_before_optimizer_step(None, module, optimizer)  # type: ignore[arg-type]
        if step != 1:
            for group in groups:
                square = sum(p.grad.square().sum().item() for p in group["params"])
                norms[group["name"]].append(square**0.5)
    total = sum(values[-1] ** 2 for values in norms.values()) ** 0.5
    assert_close(callback.latest.item(), total)
    callback.on_train_epoch_end(None, module)  # type: ignore[arg-type]
    for name, values in norms.items():
        assert_close(module.row[f"gradient/{name}"], sum(values) / 2)
    assert module.row["gradient/skipped"] == 1
    assert (module.row["lr/euclidean"], module.row["lr/manifold"], module.row["lr/curvature"]) == (0.1, 0.05, 0.01)


def test_groups_of_one_name_are_one_reading() -> None:
    a, b = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(1))
    a.grad, b.grad = torch.tensor([2.0, 1.0]), torch.tensor([2.0])
    groups = [{"name": "same", "params": [a], "lr": 1.0}, {"name": "same", "params": [b], "lr": 1.0}]
    callback, module = OptimizerReadings(), module_of(runs.EuclideanNetwork())
    callback.on_before_optimizer_step(None, module, SimpleNamespace(param_groups=groups))  # type: ignore[arg-type]
    callback.on_train_epoch_end(None, module)  # type: ignore[arg-type]
    assert module.row["gradient/same"] == 3


def test_speed_counts_training_time_and_the_time_before_an_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 10.0, 14.0, 20.0, 100.0, 101.0, 103.0, 109.0])
    monkeypatch.setattr(readings, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    trainer, batch = SimpleNamespace(world_size=2, is_last_batch=True), (None, [0] * 30, None)
    module = module_of(runs.EuclideanNetwork())
    first, second = Speed(), Speed()
    first.on_train_start(trainer, module)  # type: ignore[arg-type]  # at 0
    first.on_train_epoch_start(trainer, module)  # type: ignore[arg-type]  # at 10
    first.on_train_batch_end(trainer, module, None, batch, 0)  # type: ignore[arg-type]  # trained until 14
    state = first.state_dict()  # at 20
    assert state == {"seconds": 10.0, "training": 4.0, "images": 60}
    second.load_state_dict(state)
    second.on_train_start(trainer, module)  # type: ignore[arg-type]  # resumed at 100
    second.on_train_batch_end(trainer, module, None, batch, 1)  # type: ignore[arg-type]  # trained until 101
    second.on_train_epoch_end(trainer, module)  # type: ignore[arg-type]  # at 103, after validation
    assert module.row["images_per_second"] == 120 / (4 + 1)
    assert module.row["seconds"] == 10 + 3


def test_radii_are_distances_in_the_manifold_of_the_head() -> None:
    model = runs.SmallNetwork(curvature=0.5)
    model.decoder = Lorentz(c=4.0)
    x = model.decoder.expmap0(torch.tensor([[0.3, 0.4], [0.0, 2.0]]))
    found = radii(model, x)
    assert_close(found["radius/mean"], 1.25)
    assert_close(found["radius/max"], 2.0)
    assert_close(found["radius/share"], 2.0 / lorentz.d_max(c=4.0).item())


def test_radii_of_a_euclidean_model_are_norms() -> None:
    assert radii(runs.EuclideanNetwork(), torch.tensor([[3.0, 4.0], [0.0, 1.0]])) == {
        "radius/mean": 3.0,
        "radius/max": 5.0,
    }


def test_a_curvature_on_a_bound_is_told_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    class AtBound(runs.SmallNetwork):
        def __init__(self) -> None:
            super().__init__()
            self.decoder = Lorentz(c=1.0, bounds=(0.999, 1.0))

    spec = runs.spec(tmp_path, build_model=AtBound, trainer={"max_epochs": 2, "progress": "none"})
    results = fit(spec)
    said = capsys.readouterr().out
    assert said.count("curvature of decoder sits on a bound") == 1
    assert "of bounds [0.999, 1.0]" in said
    assert "encoder" not in said
    assert 0.999 <= results["curvature"]["decoder"] <= 1.0
    fit(runs.spec(tmp_path, build_model=AtBound, trainer={"progress": "none"}, resume=tmp_path))
    assert "on a bound" not in capsys.readouterr().out


def test_a_fixed_curvature_on_a_bound_is_meant() -> None:
    model = runs.SmallNetwork()
    model.decoder = Lorentz(c=20.0, learned=False)
    module = module_of(model)
    CurvatureReadings().on_train_epoch_end(None, module)  # type: ignore[arg-type]
    assert module.row["curvature/decoder_at_bound"] == 0
    assert curvatures(model) == {"encoder": 1.0, "decoder": 20.0}

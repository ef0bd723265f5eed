"""What is done to gradients before a step: parts, single numbers, and the norm of scaled ones."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from hyplearn.training.callbacks.gradients import GradientRules, check_scales
from hyplearn.training.fit import fit
from hyplearn.training.module import TrainingModule
from hyplearn.training.settings import TrainerSettings
from hyplearn.training.trainer import build_trainer
from tests.support import runs


class Parts(TrainingModule):
    """Two parts, one with a rate of its own."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.one, self.two = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2))

    def rate_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"backbone": [self.one]}

    def new_meter(self) -> Any: ...

    def inspect(self, images: Tensor) -> Any: ...


def after(scaler: Any = None, **rules: Any) -> tuple[Tensor, Tensor]:
    """The gradients (3, 0, 4) and (12, 0) after the rules."""
    module = Parts()
    module.one.grad, module.two.grad = torch.tensor([3.0, 0.0, 4.0]), torch.tensor([12.0, 0.0])
    optimizer = torch.optim.SGD([{"params": [module.one]}, {"params": [module.two]}], lr=1.0)
    trainer = SimpleNamespace(precision_plugin=SimpleNamespace(scaler=scaler))
    settings = {"scales": {}, "clamp": None, "scaled_clip": None, "loss_scale": 1.0, **rules}
    GradientRules(**settings).on_before_optimizer_step(trainer, module, optimizer)  # type: ignore[arg-type]
    return module.one.grad, module.two.grad


def test_the_gradient_of_a_part_is_scaled_and_then_every_number_limited() -> None:
    assert_close(after(scales={"backbone": 0.5}), (torch.tensor([1.5, 0.0, 2.0]), torch.tensor([12.0, 0.0])))
    assert_close(
        after(scales={"backbone": 3.0}, clamp=10.0), (torch.tensor([9.0, 0.0, 10.0]), torch.tensor([10.0, 0.0]))
    )


@pytest.mark.parametrize("scale", [1.0, 16384.0, 65536.0])
def test_the_norm_of_scaled_gradients_is_limited(scale: float) -> None:
    """13 in all: limited to 3 / scale, whichever knows the scale."""
    for scaler in (None, SimpleNamespace(get_scale=lambda: scale)):
        one, two = after(scaler, scaled_clip=3.0, loss_scale=scale if scaler is None else 7.0)
        assert_close(
            torch.cat([one, two]), torch.tensor([3.0, 0.0, 4.0, 12.0, 0.0]) * 3 / (13 * scale), rtol=1e-5, atol=0
        )
    assert_close(after(scaled_clip=14.0)[1], torch.tensor([12.0, 0.0]))


def test_a_part_that_is_not_there_is_named() -> None:
    check_scales({"backbone": 0.5}, Parts())
    with pytest.raises(
        ValueError, match=r"optim\.gradient_scales\.neck is no part of this run, its parts are backbone"
    ):
        check_scales({"neck": 0.5}, Parts())


@pytest.mark.parametrize("precision", ["32", "fp16"])
def test_a_run_with_a_limit_of_scaled_gradients_hardly_moves(precision: str, tmp_path: Path) -> None:
    """Without momentum a step is lr times the gradient: 3 / 65536 of it at most."""
    losses = {}
    for kind in ("unscaled", "scaled"):
        trainer = {"precision": precision, "max_epochs": 1, "gradient_clip": 3.0, "gradient_clip_of": kind}
        losses[kind] = fit(runs.spec(tmp_path / kind, trainer=trainer))["metrics"]["train/loss"]
    assert losses["scaled"] > losses["unscaled"]


def test_the_scaler_begins_where_it_is_told() -> None:
    for settings, scale in (({}, 65536.0), ({"loss_scale": 1024.0}, 1024.0)):
        made = TrainerSettings(accelerator="cpu", precision="fp16", **settings)
        plugin = build_trainer(made, folder=Path("unused"), callbacks=[]).precision_plugin
        assert plugin.scaler._init_scale == scale  # type: ignore[attr-defined]

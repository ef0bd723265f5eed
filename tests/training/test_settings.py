from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from hyplearn.errors import Interrupted, NonFiniteLoss
from hyplearn.optim.settings import ConstantSchedule, OptimSettings
from hyplearn.training.settings import (
    BatchSettings,
    CallbackSettings,
    EvaluationSettings,
    LoggerSettings,
    TrainerSettings,
)


def rates(**changes: Any) -> OptimSettings:
    return OptimSettings(
        **{"lr": 0.1, "weight_decay": 0.0, "curvature_lr": 0.0, "schedule": ConstantSchedule(), **changes}
    )


WRONG: list[tuple[Callable[..., Any], str, Any]] = [
    (TrainerSettings, "max_epochs", -1),
    (TrainerSettings, "max_steps", 0),
    (TrainerSettings, "devices", 0),
    (TrainerSettings, "gradient_clip", 0.0),
    (TrainerSettings, "gradient_clip", -1.0),
    (TrainerSettings, "gradient_clip", math.nan),
    (TrainerSettings, "gradient_clip", math.inf),
    (TrainerSettings, "accumulate_grad_batches", 0),
    (TrainerSettings, "limit_train_batches", 0),
    (TrainerSettings, "limit_val_batches", -1),
    (TrainerSettings, "limit_test_batches", -1),
    (TrainerSettings, "num_threads", 0),
    (LoggerSettings, "project", ""),
    (CallbackSettings, "save_every_epochs", 0),
    (CallbackSettings, "patience", 0),
    (CallbackSettings, "nonfinite_every", -1),
    (BatchSettings, "chunk", 0),
    (EvaluationSettings, "k", [2, 1]),
    (EvaluationSettings, "gallery", -1),
    (rates, "lr", -1.0),
    (rates, "lr", math.nan),
    (rates, "weight_decay", math.inf),
    (rates, "curvature_lr", -1e-3),
    (rates, "manifold_lr_scale", -1.0),
    (rates, "manifold_weight_decay", -1.0),
]


@pytest.mark.parametrize(("group", "key", "value"), WRONG)
def test_a_wrong_value_is_named_with_its_key_and_what_is_allowed(
    group: Callable[..., Any], key: str, value: Any
) -> None:
    with pytest.raises(ValueError, match=rf"^\w+\.{key}={re.escape(repr(value))} must be "):
        group(**{key: value})


def test_a_rate_of_a_part_is_named_with_the_part() -> None:
    with pytest.raises(ValueError, match=r"^optim.scales.backbone=-2.0 must be at least 0 and finite"):
        rates(scales={"neck": 1.0, "backbone": -2.0})


def test_leaving_out_validation_and_the_guard_is_allowed() -> None:
    TrainerSettings(limit_val_batches=0, limit_test_batches=0, devices=2, gradient_clip=1.0)
    CallbackSettings(nonfinite_every=0, patience=3)


def test_tensorboard_must_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'hyplearn\[tensorboard\]'"):
        LoggerSettings(tensorboard=True)


def test_settings_and_errors_need_no_torch() -> None:
    code = "import sys, hyplearn.training.settings, hyplearn.config.schema; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_interruption_carries_the_status_a_shell_expects() -> None:
    assert Interrupted(15).exit_status == 143
    assert Interrupted(2).exit_status == 130
    assert "SIGTERM" in str(Interrupted(15))
    assert not issubclass(Interrupted, Exception)
    assert issubclass(NonFiniteLoss, Exception)

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from hyplearn.errors import Interrupted, NonFiniteLoss
from hyplearn.training.settings import CallbackSettings, LoggerSettings, TrainerSettings

WRONG: list[tuple[type, str, Any]] = [
    (TrainerSettings, "max_epochs", -1),
    (TrainerSettings, "max_steps", 0),
    (TrainerSettings, "accelerator", "tpu"),
    (TrainerSettings, "devices", 0),
    (TrainerSettings, "devices", "all"),
    (TrainerSettings, "strategy", "fsdp"),
    (TrainerSettings, "precision", "16"),
    (TrainerSettings, "gradient_clip", 0.0),
    (TrainerSettings, "gradient_clip", -1.0),
    (TrainerSettings, "accumulate_grad_batches", 0),
    (TrainerSettings, "progress", "tqdm"),
    (TrainerSettings, "limit_train_batches", 0),
    (TrainerSettings, "limit_val_batches", -1),
    (TrainerSettings, "limit_test_batches", -1),
    (TrainerSettings, "num_threads", 0),
    (LoggerSettings, "mode", "on"),
    (LoggerSettings, "project", ""),
    (CallbackSettings, "monitor", "test/top1"),
    (CallbackSettings, "save_every_epochs", 0),
    (CallbackSettings, "patience", 0),
    (CallbackSettings, "nonfinite_every", -1),
]


@pytest.mark.parametrize(("group", "key", "value"), WRONG)
def test_a_wrong_value_is_named_with_its_key_and_what_is_allowed(group: type, key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^\w+\.{key}={value!r} must be "):
        group(**{key: value}).validate()


@pytest.mark.parametrize("group", [TrainerSettings, LoggerSettings, CallbackSettings])
def test_the_defaults_are_valid(group: type) -> None:
    group().validate()


def test_leaving_out_validation_and_the_guard_is_allowed() -> None:
    TrainerSettings(limit_val_batches=0, limit_test_batches=0, devices=2, gradient_clip=1.0).validate()
    CallbackSettings(nonfinite_every=0, patience=3).validate()


def test_tensorboard_must_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'hyplearn\[tensorboard\]'"):
        LoggerSettings(tensorboard=True).validate()


def test_settings_and_errors_need_no_torch() -> None:
    code = "import sys, hyplearn.training.settings, hyplearn.errors; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_interruption_carries_the_status_a_shell_expects() -> None:
    assert Interrupted(15).exit_status == 143
    assert Interrupted(2).exit_status == 130
    assert "SIGTERM" in str(Interrupted(15))
    assert not issubclass(Interrupted, Exception)
    assert issubclass(NonFiniteLoss, Exception)

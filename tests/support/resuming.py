"""Stop a run at a chosen moment, and compare how it ended with how an undisturbed one did."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

import hyplearn.training.fit
from tests.support import runs

# Times, and an option that torch adds to the groups of an optimizer when it loads a state.
IGNORED = {"seconds", "images_per_second", "Speed", "differentiable"}


def differences(a: Any, b: Any, where: str = "") -> list[str]:
    """Where two nested containers differ in the least bit, times apart."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = [key for key in {**a, **b} if key not in IGNORED]
        return [d for key in keys for d in differences(a.get(key), b.get(key), f"{where}/{key}")]
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        return [d for i, pair in enumerate(zip(a, b, strict=True)) for d in differences(*pair, f"{where}/{i}")]
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        same = a.dtype == b.dtype and a.stride() == b.stride() and torch.equal(a, b)
    else:
        same = type(a) is type(b) and a == b
    return [] if same else [f"{where}: {a} is not {b}"]


def assert_same_end(disturbed: Path, undisturbed: Path) -> None:
    assert differences(runs.checkpoint(disturbed), runs.checkpoint(undisturbed)) == []
    ours, theirs = runs.results(disturbed), runs.results(undisturbed)
    for key in ("status", "selection", "metrics", "curvature", "epochs", "steps", "dataset"):
        assert differences(ours[key], theirs[key], key) == []
    table, reference = ((folder / "metrics.csv").read_text().splitlines() for folder in (disturbed, undisturbed))
    assert table[0] == reference[0]
    assert [line.split(",")[0] for line in table] == [line.split(",")[0] for line in reference]


def stop_in(monkeypatch: pytest.MonkeyPatch, hook: str, due: Callable[[pl.Trainer], bool], signum: int) -> None:
    """Let the next run send itself a signal in the hook of a callback, once `due`."""

    def send(trainer: pl.Trainer, *args: Any) -> None:
        if due(trainer) and not sent:
            sent.append(signum)
            os.kill(os.getpid(), signum)

    sent: list[int] = []
    build = hyplearn.training.fit.build_trainer

    def with_sender(settings: Any, *, folder: Path, callbacks: list[pl.Callback]) -> pl.Trainer:
        sender = pl.Callback()
        setattr(sender, hook, send)
        monkeypatch.setattr(hyplearn.training.fit, "build_trainer", build)  # the resumed run sends nothing
        return build(settings, folder=folder, callbacks=[sender, *callbacks])

    monkeypatch.setattr(hyplearn.training.fit, "build_trainer", with_sender)


def at_step(step: int) -> Callable[[pl.Trainer], bool]:
    return lambda trainer: trainer.global_step == step

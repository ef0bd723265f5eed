"""A training step waits for no GPU: every family of models, and whole runs with all that accompanies them."""

from __future__ import annotations

import functools
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyplearn.losses import PairwiseCrossEntropy
from hyplearn.models.necks import Branch
from hyplearn.optim import RiemannianAdamW, RiemannianSGD, parameter_groups
from hyplearn.training.callbacks.non_finite import NonFiniteGuard
from hyplearn.training.fit import fit
from tests.support import configured_models, retrieval_runs, runs
from tests.support.waits import HYPERBOLIC_DISTANCES, Waits, as_on_a_gpu


@pytest.mark.parametrize("optimizer", [RiemannianSGD, RiemannianAdamW])
@pytest.mark.parametrize("name", ["hcnn_r18", "hecnn_r18", "hcnn_original_r18", "hybrid_poincare_r18", "euclidean_r18"])
def test_a_step_of_a_classifier_waits_for_nothing(name: str, optimizer: Any) -> None:
    model = configured_models.model_of(name, width=4)
    groups = parameter_groups(model, lr=1e-3, curvature_lr=1e-3)
    step = optimizer(groups, lr=1e-3)
    images, labels = configured_models.images(), torch.arange(4)
    with Waits() as waits:
        for _ in range(2):
            step.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            step.step()
    assert not waits.found


class Watcher(pl.Callback):
    """Counts what waits from the start of a batch to its end."""

    def __init__(self) -> None:
        self.found = Counter[str]()
        self.steps = 0
        self._waits: Waits | None = None

    def on_train_batch_start(self, *_: Any) -> None:
        self._waits = Waits(allowed=HYPERBOLIC_DISTANCES)
        self._waits.__enter__()

    def on_train_batch_end(self, *_: Any) -> None:
        assert self._waits is not None
        self._waits.__exit__(None, None, None)
        self.found.update(self._waits.found)
        self.steps += 1


def on_the_sphere() -> dict[str, Any]:
    """A retrieval run without hyperbolic distances, whose close pairs are data: the losses have a test of those."""
    branches = {"sphere": Branch("sphere")}
    model = functools.partial(retrieval_runs.model, branches=branches, manifold="sphere")
    return {"build_model": model, "build_loss": lambda network: PairwiseCrossEntropy()}


@pytest.mark.parametrize(("made", "parts"), [(runs.spec, dict), (retrieval_runs.spec, on_the_sphere)])
def test_a_step_of_a_run_waits_for_nothing(
    made: Any, parts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the guard, the readings, the meters, clipping and Lightning's own part."""
    as_on_a_gpu(monkeypatch)
    monkeypatch.setattr(NonFiniteGuard, "_at_once", lambda self, module: False)
    watcher = Watcher()
    fit(made(tmp_path, trainer={"max_epochs": 1, "gradient_clip": 1.0}, own_callbacks=[watcher], **parts()))
    assert watcher.steps >= 4
    assert not watcher.found


def test_a_wait_in_a_step_is_found(tmp_path: Path) -> None:
    class Reading(nn.Module):
        def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
            loss = F.cross_entropy(logits, labels)
            return loss / max(1.0, loss.detach().item())

    watcher = Watcher()
    fit(runs.spec(tmp_path, trainer={"max_epochs": 1}, own_callbacks=[watcher], build_loss=lambda model: Reading()))
    assert watcher.found == {"_local_scalar_dense": watcher.steps}

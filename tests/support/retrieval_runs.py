"""Small retrieval runs for the tests of the engine; as a program, one run in a process of its own, as `runs.py`."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import Any, Literal

from torch import nn

from hyplearn.data.batches.transforms import Augmentation
from hyplearn.data.retrieval_datamodule import RetrievalDataModule
from hyplearn.data.sources.retrieval_arrays import DigitsRetrieval
from hyplearn.errors import Interrupted
from hyplearn.losses import PairwiseCrossEntropy
from hyplearn.losses.hier import HIER, HierarchicalLoss
from hyplearn.manifolds import Manifolds
from hyplearn.models.embedder import Embedder
from hyplearn.models.necks import Branch, Neck
from hyplearn.models.small import SmallViT
from hyplearn.optim import RiemannianAdamW, RiemannianSGD
from hyplearn.optim.settings import ConstantSchedule, OptimSettings
from hyplearn.training.fit import TrainSpec, fit
from hyplearn.training.settings import (
    BatchSettings,
    CallbackSettings,
    EvaluationSettings,
    LoggerSettings,
    TrainerSettings,
)

SPACES = {"sphere": Branch("sphere"), "lorentz": Branch("lorentz", weight=2.0, learned=True)}


def model(
    *,
    branches: dict[str, Branch] | None = None,
    drop_rate: float = 0.2,
    manifold: Literal["lorentz", "sphere"] = "lorentz",
) -> Embedder:
    """A small ViT with dropout, on the sphere and on a hyperboloid of learned curvature."""
    branches = branches or SPACES
    return Embedder(
        backbone=None,
        head=Neck(size=6, branches=branches, clip=2.3 if "lorentz" in branches else None),
        in_channels=1,
        image_size=8,
        manifold=Manifolds(manifold, c=0.5),
        small=SmallViT(width=12, depth=1, heads=2),
        drop_rate=drop_rate,
    )


def hierarchical(network: nn.Module) -> HierarchicalLoss:
    """Proxies on the hyperboloid, and random triplets."""
    spaces, sizes = list(network.spaces), network.sizes
    hier = functools.partial(HIER, proxies=8, topk=4, triplets=3)
    return HierarchicalLoss(base=PairwiseCrossEntropy, hier=hier, spaces=spaces, sizes=sizes, num_classes=3)


def datamodule(**changes: Any) -> RetrievalDataModule:
    """200 images of digits 0 to 4: two digits for validation, three to train in batches of 3 x 4 images."""
    options = {"batch_size": 12, "images_per_class": 4, "val_fraction": 0.4, "limit_train": 48, "eval_batch_size": 256}
    augmentation = Augmentation(crop_padding=1)
    return RetrievalDataModule(
        DigitsRetrieval(), mean=[0.3], std=[0.4], augmentation=augmentation, **{**options, **changes}
    )


# Gradients that are equal but for rounding move the weights by as little: Adam would blow up those that are 0.
EXACT: dict[str, Any] = {
    "build_model": functools.partial(model, drop_rate=0.0),
    "build_optimizer": functools.partial(RiemannianSGD, momentum=0.9),
}


def spec(run_dir: Path, **changes: Any) -> TrainSpec:
    """A run of two epochs of four batches; changes to settings come as mappings, anything else replaces a part."""
    trainer = {"max_epochs": 2, "accelerator": "cpu", "progress": "plain", **changes.pop("trainer", {})}
    optim = {"lr": 1e-3, "weight_decay": 1e-2, "curvature_lr": 1e-2, "schedule": ConstantSchedule()}
    parts = {
        "config": {"seed": 0},
        "seed": 0,
        "datamodule": datamodule(**changes.pop("data", {})),
        "build_model": model,
        "build_loss": hierarchical,
        "build_optimizer": RiemannianAdamW,
        "optim": OptimSettings(**{**optim, **changes.pop("optim", {})}),
        "trainer": TrainerSettings(**trainer),
        "logger": LoggerSettings(**changes.pop("logger", {})),
        "callbacks": CallbackSettings(**{"figures": False, **changes.pop("callbacks", {})}),
        "batch": BatchSettings(**changes.pop("batch", {})),
        "evaluation": EvaluationSettings(**changes.pop("evaluation", {})),
    }
    return TrainSpec(run_dir=run_dir, **(parts | changes))


def main(folder: str, changes: str) -> int:
    given = json.loads(changes)
    exact = EXACT if given.pop("exact", False) else {}
    try:
        fit(spec(Path(folder), **given, **exact))
    except Interrupted as stop:
        return stop.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

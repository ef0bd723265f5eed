"""Small runs for the tests of the engine; as a program, one run in a process of its own.

`python runs.py DIRECTORY '{"trainer": {...}, "resume": ...}'` exits like the command line: 143 after SIGTERM.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hyplearn.data.batches.transforms import Augmentation
from hyplearn.data.datamodule import ImageDataModule
from hyplearn.data.sources.synthetic import Synthetic
from hyplearn.errors import Interrupted
from hyplearn.losses import CrossEntropy
from hyplearn.manifolds.interop import Manifold
from hyplearn.manifolds.lorentz import Lorentz
from hyplearn.manifolds.parameter import manifold_parameter
from hyplearn.nn import monitor
from hyplearn.optim import RiemannianSGD
from hyplearn.optim.settings import MultiStepSchedule, OptimSettings
from hyplearn.training.fit import TrainSpec, fit
from hyplearn.training.settings import CallbackSettings, LoggerSettings, TrainerSettings

CLASSES = 7
SCHEDULE = MultiStepSchedule(milestones=[0.5], gamma=0.2, manifold_skips_first_drop=True)


class SmallNetwork(nn.Module):
    """Everything a run has to keep: convolution, running statistics, dropout, a point, two curvatures."""

    def __init__(self, *, channels: int = 2, curvature: float = 1.0) -> None:
        super().__init__()
        self.encoder, self.decoder = Lorentz(c=curvature), Lorentz(c=curvature)
        self.features = nn.Sequential(
            nn.Conv2d(channels, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.2)
        )
        self.shift = manifold_parameter(self.encoder.random(6, std=0.1), self.encoder)
        self.z = nn.Parameter(torch.randn(CLASSES, 6) * 0.3)
        self.a = nn.Parameter(torch.zeros(CLASSES))

    def manifolds(self) -> dict[str, Manifold]:
        return {"encoder": self.encoder, "decoder": self.decoder}

    def embed(self, images: Tensor) -> Tensor:
        z = self.features(images).mean((2, 3))
        x = self.encoder.boost(self.encoder.expmap0(z), self.shift)
        v = self.encoder.logmap0(x)
        limited = self.decoder.rescale0(v)
        monitor.give("rescaled/transfer", lambda: limited.norm(dim=-1) < v.norm(dim=-1))
        return self.decoder.expmap0(limited)

    def head(self, embedding: Tensor) -> Tensor:
        return self.decoder.mlr(embedding, self.z, self.a)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.embed(images))


class EuclideanNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features, self.head = nn.Sequential(nn.Flatten(), nn.Linear(2 * 64, 8), nn.ReLU()), nn.Linear(8, CLASSES)

    def manifolds(self) -> dict[str, Manifold]:
        return {}

    def embed(self, images: Tensor) -> Tensor:
        return self.features(images)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.embed(images))


def datamodule(*, train_size: int = 160, batch_size: int = 16, val_fraction: float = 0.2) -> ImageDataModule:
    """160 synthetic images: 128 to train in 8 batches, 32 for validation."""
    return ImageDataModule(
        Synthetic(in_channels=2, num_classes=CLASSES, image_size=8, train_size=train_size, test_size=42, noise=0.3),
        batch_size=batch_size,
        val_fraction=val_fraction,
        mean=[0.5],
        std=[0.25],
        augmentation=Augmentation(crop_padding=1, horizontal_flip=0.5),
    )


def spec(run_dir: Path, **changes: Any) -> TrainSpec:
    """A run of three epochs; changes to settings come as mappings, anything else replaces the part of that name."""
    trainer = TrainerSettings(
        **{"max_epochs": 3, "accelerator": "cpu", "progress": "plain", **changes.pop("trainer", {})}
    )
    callbacks = CallbackSettings(**{"figures": False, **changes.pop("callbacks", {})})
    data = datamodule(**changes.pop("data", {}))
    optim = {"lr": 0.1, "weight_decay": 1e-4, "manifold_lr_scale": 0.2, "curvature_lr": 0.05, "schedule": SCHEDULE}
    parts = {
        "config": {"seed": 0, "optim": {"lr": 0.1}},
        "seed": 0,
        "datamodule": data,
        "build_model": SmallNetwork,
        "build_loss": lambda model: CrossEntropy(),
        "build_optimizer": functools.partial(RiemannianSGD, momentum=0.9, nesterov=True),
        "optim": OptimSettings(**(optim | changes.pop("optim", {}))),
        "trainer": trainer,
        "logger": LoggerSettings(**changes.pop("logger", {})),
        "callbacks": callbacks,
    }
    return TrainSpec(run_dir=run_dir, **(parts | changes))


def checkpoint(run_dir: Path, name: str = "last") -> dict[str, Any]:
    return torch.load(run_dir / "checkpoints" / f"{name}.ckpt", weights_only=True)


def results(run_dir: Path) -> dict[str, Any]:
    return json.loads((run_dir / "results.json").read_text())


class Meeting(nn.Module):
    """A loss that at one call tells the parent process so, and goes on when the parent has answered with a file."""

    expects = "logits"

    def __init__(self, call: int, answer: Path) -> None:
        super().__init__()
        self.call, self.answer, self.loss = call, answer, CrossEntropy()

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        self.call -= self.training
        if self.call == 0 and self.training:
            print("ready", flush=True)
            while not self.answer.exists():
                time.sleep(0.01)
        return self.loss(logits, labels)


def main(folder: str, changes: str) -> int:
    given = json.loads(changes)
    if "resume" in given:
        given["resume"] = Path(given["resume"])
    if given.pop("euclidean", False):
        given["build_model"] = EuclideanNetwork
    if "meet_at" in given:
        meeting = Meeting(given.pop("meet_at"), Path(folder) / "go")
        given["build_loss"] = lambda model: meeting
    try:
        fit(spec(Path(folder), **given))
    except Interrupted as stop:
        return stop.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

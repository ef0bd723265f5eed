"""Smoke scale: what stands in for the data and the sizes of an experiment so that it runs end to end in seconds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

NOTICE = "SMOKE: small data stand in, no number of these runs means anything"
# Small grey images that lie in no folder, whatever an experiment says of its own.
DATA = {
    "root": None,
    "limit_train": None,
    "image_size": None,
    "channels": None,
    "drop_last": False,
    "eval_batch_size": 256,
    "train_transform": None,
    "eval_transform": None,
    "mean": [0.305],
    "std": [0.376],
    "augmentation.crop_padding": 1,
    "augmentation.horizontal_flip": 0.0,
}
EPOCHS = 2
STEPS = {
    "trainer.max_steps": None,
    "trainer.val_every_epochs": 1,
    "trainer.val_first_epoch": None,
    "trainer.limit_train_batches": 2,
    "trainer.precision": "32",
    "trainer.compile": False,
    "callbacks.figures": False,
}
WIDTH, BATCH = 8, 32  # of a classifier
CLASSES, IMAGES = 8, 3  # of a retrieval batch
PROXIES = 32  # of a hierarchy
MEMORY = 1024  # points that a loss keeps of earlier batches


def stand_in(config: Mapping[str, Any]) -> list[str]:
    """Overrides that make the smoke run of a composed experiment.

    Model family, manifold, loss, optimizer and schedule stay as they are, as do the part that validates, the sampler
    and the ranks of the evaluation.
    """
    retrieval = config.get("evaluation") is not None
    chosen = _retrieval(config) if retrieval else _classifier(config)
    epochs = min(EPOCHS, config["trainer"]["max_epochs"])  # 0 where an encoder is tested as it comes
    values = {
        **{f"dataset.{key}": value for key, value in DATA.items()},
        **STEPS,
        "trainer.max_epochs": epochs,
        **chosen,
    }
    name = "digits_retrieval" if retrieval else "digits"
    return ["scale=smoke", f"dataset={name}", *(f"{key}={_written(value)}" for key, value in values.items())]


def _classifier(config: Mapping[str, Any]) -> dict[str, Any]:
    width = min(WIDTH, config["model"]["width"])
    return {"model.width": width, "dataset.batch_size": BATCH, "dataset.val_fraction": _validates(config, 0.1)}


def _retrieval(config: Mapping[str, Any]) -> dict[str, Any]:
    data, loss = config["dataset"], config["loss"]
    each = data["images_per_class"]  # None where batches are drawn from all images
    images = IMAGES if each is None else min(IMAGES, each)
    small: dict[str, Any] = {
        "model.pretrained": False,  # the network for small images stands in, which has no weights
        "model.weights": None,
        "dataset.source.field": None,
        "dataset.source.turned_classes": True,  # 40 classes to train on in place of 5
        "dataset.sampler": data["sampler"],
        "dataset.images_per_class": None if each is None else images,
        "dataset.batch_size": CLASSES * images,
        "dataset.val_fraction": _validates(config, 0.2),
        "evaluation.k": config["evaluation"]["k"],
        "evaluation.gallery": 0,
    }
    if "hier" in loss:
        small["loss.hier.proxies"] = min(PROXIES, loss["hier"]["proxies"])
    if "size" in loss:
        small["loss.size"] = min(MEMORY, loss["size"])
    return small


def _validates(config: Mapping[str, Any], fraction: float) -> float:
    """Nothing, where the experiment reports its last epoch; `fraction` of the small data, where it validates."""
    return fraction if config["dataset"]["val_fraction"] else 0.0


def _written(value: Any) -> str:
    """A value in the grammar of overrides, which has the numbers, lists and texts of JSON."""
    return json.dumps(value, separators=(",", ":"))

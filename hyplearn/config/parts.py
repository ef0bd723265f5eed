"""What a part must have to be used, its own or the user's: each error names what is missing and the way out."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import pytorch_lightning as pl
from torch import nn

from hyplearn.data.base import NEEDED, DataModule, TrainingData
from hyplearn.data.datamodule import ImageDataModule
from hyplearn.errors import ConfigError
from hyplearn.losses.base import EmbeddingLoss, input_of
from hyplearn.manifolds import Manifold
from hyplearn.manifolds.base import METHODS, Family, SingleManifold
from hyplearn.models.base import Output, embeds

Made = TypeVar("Made")
FORWARD: Any = nn.Module.forward  # what a module has that defines none

RETRIEVAL_METHODS = ("features", "points", "manifolds", "rate_groups")
SOURCE = ("facts", "prepare", "train", "validation", "test")
RETRIEVAL_SOURCE = ("facts", "prepare", "part")


def of_kind(made: Any, kind: type[Made], path: str, node: Mapping[str, Any]) -> Made:
    """`made` if it is of the kind that the program needs at `path`. Raises ConfigError."""
    if isinstance(made, kind):
        return made
    raise ConfigError(f"{path}._target_={node['_target_']} makes a {type(made).__name__}, not a {_named(kind)}.")


def _named(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def missing(made: Any, names: Iterable[str]) -> list[str]:
    """Those of the names that an object or class does not have."""
    return [name for name in names if not hasattr(made, name)]


def check_model_kind(kind: Any, gives: Output) -> None:
    """Raise ConfigError for a class of models without a method that training calls."""
    if not isinstance(kind, type):
        return  # a function: what it makes is seen later
    lacks = missing(kind, RETRIEVAL_METHODS) if gives == "embeddings" else []
    if getattr(kind, "forward", FORWARD) is FORWARD:
        lacks = ["forward", *lacks]
    if lacks:
        base = "EmbeddingModel" if gives == "embeddings" else "ClassificationModel"
        raise ConfigError(
            f"model._target_={_named(kind)} gives {gives}, but has no {', '.join(lacks)}: define what is missing, or "
            f"derive the class from hyplearn.models.base.{base}, which says what each is and has defaults."
        )


def check_model(model: nn.Module, gives: Output) -> None:
    """Raise ConfigError for a model that was made without what only an object has: its head, its spaces."""
    lacks = missing(model, ("spaces", "sizes")) if gives == "embeddings" else []
    if gives == "logits" and embeds(model) and not callable(getattr(model, "head", None)):
        lacks = ["head"]
    if lacks:
        raise ConfigError(
            f"model: {type(model).__name__} has no {', '.join(lacks)}, which goes with "
            f"{'points' if gives == 'embeddings' else 'embed'}: see hyplearn.models.base."
        )


def check_loss_kind(kind: Any) -> None:
    """Raise ConfigError for a class of losses that cannot be called as losses are."""
    if not isinstance(kind, type) or issubclass(kind, EmbeddingLoss):
        return
    name = f"loss._target_={_named(kind)}"
    if input_of(kind) == "embeddings":
        raise ConfigError(
            f"{name} is computed from embeddings: derive it from hyplearn.losses.base.EmbeddingLoss and define compute."
        )
    forward = getattr(kind, "forward", FORWARD)
    if forward is FORWARD:
        raise ConfigError(f"{name} has no forward: a classifier's loss is an nn.Module with forward(logits, labels).")
    try:
        inspect.signature(forward).bind(None, "logits", "labels")
    except TypeError as error:
        raise ConfigError(f"{name}.forward is called with (logits, labels): {error}.") from error


def family_of(made: Any, node: Mapping[str, Any]) -> Family:
    """The family of manifolds that a model gets; a single manifold becomes one. Raises ConfigError."""
    if isinstance(made, Manifold):
        return SingleManifold(made)
    lacks = missing(made, ("kind", "curved", *METHODS))
    if lacks:
        raise ConfigError(
            f"manifold._target_={node['_target_']} makes a {type(made).__name__} without {', '.join(lacks)}: give a "
            "manifold (geoopt's, hyplearn.manifolds.Lorentz, or one derived from these), or a family of them as "
            "hyplearn.manifolds.Manifolds is one."
        )
    family: Family = made
    return family


def data_of(made: Any, node: Mapping[str, Any]) -> TrainingData:
    """The data of a run, seen to have what training reads. Raises ConfigError."""
    name = f"dataset._target_={node['_target_']} makes a {type(made).__name__}"
    if isinstance(made, ImageDataModule):
        return made
    if not isinstance(made, DataModule):
        what = "a LightningDataModule, but" if isinstance(made, pl.LightningDataModule) else "which is"
        raise ConfigError(
            f"{name}, {what} no hyplearn.data.base.DataModule: derive it from that and set {', '.join(NEEDED)}, or "
            "give the images as dataset.source of a hyplearn.data.datamodule.ImageDataModule."
        )
    lacks = missing(made, NEEDED)
    lacks += [name for name in ("train_dataloader", "val_dataloader", "test_dataloader") if not _own(type(made), name)]
    if lacks:
        raise ConfigError(f"{name} without {', '.join(lacks)}: see hyplearn.data.base.DataModule.")
    return made


def _own(kind: type, name: str) -> bool:
    """Whether a class of data modules defines the method itself: Lightning's own raises where it is called."""
    return getattr(kind, name) is not getattr(pl.LightningDataModule, name)


def check_source_kind(kind: Any, *, retrieval: bool) -> None:
    """Raise ConfigError for a class of data sets without a method that reading calls."""
    if not isinstance(kind, type):
        return
    lacks = missing(kind, RETRIEVAL_SOURCE if retrieval else SOURCE)
    if lacks:
        what = "retrieval_source.RetrievalSource" if retrieval else "base.ImageSource"
        raise ConfigError(
            f"dataset.source._target_={_named(kind)} has no {', '.join(lacks)}: define what is missing, see "
            f"hyplearn.data.sources.{what}."
        )

"""From a checked configuration to the objects it describes. Errors of their constructors become ConfigErrors."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch import nn
from torch.optim import Optimizer

from hyplearn.config.parts import check_model, check_source_kind, data_of, family_of, of_kind
from hyplearn.config.schema import read
from hyplearn.config.typecheck import join, target
from hyplearn.data.base import TrainingData
from hyplearn.data.datamodule import ImageDataModule
from hyplearn.data.retrieval_datamodule import RetrievalDataModule
from hyplearn.errors import ConfigError
from hyplearn.manifolds.base import Family
from hyplearn.manifolds.precision import x_t_max_trained_in
from hyplearn.models.base import output_of
from hyplearn.training.fit import TrainSpec
from hyplearn.training.settings import EvaluationSettings

NOT_FETCHED = {"pretrained": False, "weights": None}


def make(node: Mapping[str, Any], path: str, **supplied: Any) -> Any:
    """The object of the `_target_` at `path`, with `supplied` arguments beside the configured ones."""
    target(node, path)
    try:
        return instantiate(node, _partial_=True, _convert_="all")(**supplied)
    except InstantiationException as error:
        raise ConfigError(_innermost(error, path)) from error
    except (ValueError, TypeError) as error:
        if isinstance(error, TypeError) and not _misses_an_argument(error):
            raise
        raise ConfigError(f"{path}: {error}") from error


def datamodule(config: Mapping[str, Any]) -> TrainingData:
    """The data of a configuration; nothing is read yet."""
    node = config["dataset"]
    kind = target(node, "dataset")
    if isinstance(node.get("source"), Mapping):
        retrieval = isinstance(kind, type) and issubclass(kind, RetrievalDataModule)
        check_source_kind(target(node["source"], "dataset.source"), retrieval=retrieval)
    if "backbone" in config["model"] and any(value is None for value in _left_to_weights(node)):
        from hyplearn.models.backbone import data_config  # timm takes seconds to import

        try:
            node = _as_weights_expect(node, data_config(config["model"]["backbone"]))
        except ValueError as error:
            raise ConfigError(f"model: {error}") from error
    return data_of(make(node, "dataset", **named(node, "dataset", {"seed": config["seed"]})), node)


def images(config: Mapping[str, Any]) -> ImageDataModule:
    """The data of a configuration for those who look at single images. Raises ConfigError where loaders hide them."""
    return with_images(datamodule(config))


def with_images(data: TrainingData) -> ImageDataModule:
    """`data` as a set of single images. Raises ConfigError where there are loaders alone."""
    if not isinstance(data, ImageDataModule):
        raise ConfigError(
            f"dataset: a {type(data).__name__} has loaders alone, and this command looks at single images: give them "
            "as dataset.source of a hyplearn.data.datamodule.ImageDataModule."
        )
    return data


def _left_to_weights(node: Mapping[str, Any]) -> list[Any]:
    """What a data set may leave to the backbone's weights: how pixels are normalised, resized and interpolated."""
    crops = [node.get(name) or {} for name in ("train_transform", "eval_transform")]
    return [
        *(node[key] for key in ("mean", "std") if key in node),
        *(crop[key] for crop in crops for key in ("interpolation", "resize") if key in crop),
    ]


def _as_weights_expect(node: Mapping[str, Any], expected: Mapping[str, Any]) -> dict[str, Any]:
    """The data set's node with what it leaves open filled in. The crop is a share of the resized image (crop_pct)."""
    filled = dict(node)
    for key in ("mean", "std"):
        if key in node and node[key] is None:
            filled[key] = list(expected[key])
    for name in ("train_transform", "eval_transform"):
        crop = dict(node.get(name) or {})
        if "interpolation" in crop and crop["interpolation"] is None:
            crop["interpolation"] = expected["interpolation"]
        if "resize" in crop and crop["resize"] is None:
            crop["resize"] = round(crop["size"] / expected["crop_pct"])
        if crop:
            filled[name] = crop
    return filled


def facts(data: TrainingData) -> dict[str, int]:
    """What a model or loss may have to know of the data."""
    try:
        return {"in_channels": data.in_channels, "num_classes": data.num_classes, "image_size": data.image_size}
    except ValueError as error:
        raise ConfigError(f"dataset: {error}") from error


def reads_pretrained(model: Mapping[str, Any], *, image_size: int) -> bool:
    """Whether a model of the configuration starts from weights that were trained on photographs."""
    if not (model.get("pretrained") or model.get("weights")):
        return False
    from hyplearn.models.backbone import SMALL_IMAGE

    return not model.get("small") or image_size >= SMALL_IMAGE


def family(config: Mapping[str, Any]) -> Family:
    """New manifolds for one model. A limit x_t_max that is left open is that of the precision of training."""
    node, given = config["manifold"], {}
    if node.get("x_t_max") is None:
        given = named(node, "manifold", {"x_t_max": x_t_max_trained_in(read(config).trainer.precision)})
    return family_of(make(node, "manifold", **given), node)


def model(config: Mapping[str, Any], known: Mapping[str, int]) -> nn.Module:
    """A new model, with manifolds of its own, for data of which `facts` are known."""
    node = config["model"]
    wanted = named(node, "model", {**known, "manifold": family(config)})
    made = of_kind(make(node, "model", **wanted), nn.Module, "model", node)
    check_model(made, output_of(made))
    return made


def loss(config: Mapping[str, Any], network: nn.Module, known: Mapping[str, int]) -> nn.Module:
    """A new loss for a model; one with proxies is told of the model's spaces and the number of classes."""
    offered: dict[str, Any] = {"num_classes": known["num_classes"]}
    if output_of(network) == "embeddings":
        offered |= {"spaces": list(network.spaces), "sizes": network.sizes}  # type: ignore[arg-type]
    made = make(config["loss"], "loss", **named(config["loss"], "loss", offered))
    return of_kind(made, nn.Module, "loss", config["loss"])


def named(node: Mapping[str, Any], path: str, offered: Mapping[str, Any]) -> dict[str, Any]:
    """Of the objects that the program offers, those that the constructor of the node names; **options name none."""
    wanted = inspect.signature(target(node, path)).parameters
    return {key: value for key, value in offered.items() if key in wanted}


def optimizer(config: Mapping[str, Any], groups: list[dict[str, Any]]) -> Optimizer:
    """The optimizer of parameter groups, which hold learning rates and decays."""
    node = config["optim"]["optimizer"]
    return of_kind(make(node, "optim.optimizer", params=groups), Optimizer, "optim.optimizer", node)


def own_callbacks(config: Mapping[str, Any]) -> list[pl.Callback]:
    """The callbacks that are not ours, in the order of the configuration."""
    nodes = {name: node for name, node in config["callbacks"].get("own", {}).items() if node is not None}
    return [_callback(node, f"callbacks.own.{name}") for name, node in nodes.items()]


def _callback(node: Any, path: str) -> pl.Callback:
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise ConfigError(f"{path}={node}: give it a _target_, the class of a Lightning callback.")
    return of_kind(make(node, path), pl.Callback, path, node)


def specification(config: dict[str, Any], *, restores: bool = False) -> TrainSpec:
    """All that training or evaluation needs, beside the directory.

    restores: a checkpoint will give the model its weights, so none are fetched for it.
    """
    data = datamodule(config)
    fetched = {key: value for key, value in NOT_FETCHED.items() if restores and key in config["model"]}
    built = {**config, "model": {**config["model"], **fetched}}
    settings = read(config)
    return TrainSpec(
        run_dir=Path(),
        config=config,
        seed=settings.seed,
        datamodule=data,
        build_model=lambda: model(built, facts(data)),
        build_loss=lambda network: loss(config, network, facts(data)),
        build_optimizer=lambda groups: optimizer(config, groups),
        optim=settings.optim,
        trainer=settings.trainer,
        logger=settings.logger,
        callbacks=settings.callbacks,
        batch=settings.batch,
        evaluation=settings.evaluation or EvaluationSettings(),
        own_callbacks=own_callbacks(config),
    )


def _innermost(error: InstantiationException, path: str) -> str:
    """Hydra wraps what a constructor below `path` raised: the place of that constructor and its own message."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if not isinstance(cause, (ValueError, ImportError)) and not _misses_an_argument(cause):
        raise error
    places = [line.partition("full_key: ")[2] for line in str(error).splitlines() if "full_key: " in line]
    return f"{join(path, places[0]) if places else path}: {cause}"


def _misses_an_argument(cause: BaseException) -> bool:
    """Whether Python says of a call that an argument, or of a class that a method, is missing or unknown."""
    said = ("unexpected keyword argument", "required positional argument", "required keyword-only", "abstract class")
    return isinstance(cause, TypeError) and any(words in str(cause) for words in said)

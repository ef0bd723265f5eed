"""From a checked configuration to the objects it describes. Errors of their constructors become ConfigErrors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch import nn
from torch.optim import Optimizer

from hyplearn.config.schema import read
from hyplearn.config.typecheck import arguments, join
from hyplearn.data.datamodule import ImageDataModule
from hyplearn.errors import ConfigError
from hyplearn.training.fit import TrainSpec
from hyplearn.training.settings import EvaluationSettings

NOT_FETCHED = {"pretrained": False, "weights": None}


def make(node: Mapping[str, Any], path: str, **supplied: Any) -> Any:
    """The object of the `_target_` at `path`, with `supplied` arguments beside the configured ones."""
    try:
        return instantiate(node, _partial_=True, _convert_="all")(**supplied)
    except InstantiationException as error:
        raise ConfigError(_innermost(error, path)) from error
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error


def datamodule(config: Mapping[str, Any]) -> ImageDataModule:
    """The data of a configuration; nothing is read yet."""
    node = config["dataset"]
    if "backbone" in config["model"] and any(value is None for value in _left_to_weights(node)):
        from hyplearn.models.backbone import data_config  # timm takes seconds to import

        try:
            node = _as_weights_expect(node, data_config(config["model"]["backbone"]))
        except ValueError as error:
            raise ConfigError(f"model: {error}") from error
    made = make(node, "dataset", seed=config["seed"])
    assert isinstance(made, ImageDataModule)
    return made


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


def facts(data: ImageDataModule) -> dict[str, int]:
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


def model(config: Mapping[str, Any], known: Mapping[str, int]) -> nn.Module:
    """A new model, with manifolds of its own, for data of which `facts` are known."""
    wanted = named(config["model"], "model", {**known, "manifold": make(config["manifold"], "manifold")})
    made = make(config["model"], "model", **wanted)
    assert isinstance(made, nn.Module)
    return made


def loss(config: Mapping[str, Any], network: nn.Module, known: Mapping[str, int]) -> nn.Module:
    """A new loss for a model; one with proxies is told of the model's spaces and the number of classes."""
    offered: dict[str, Any] = {"num_classes": known["num_classes"]}
    if hasattr(network, "spaces"):
        offered |= {"spaces": list(network.spaces), "sizes": network.sizes}  # type: ignore[arg-type]
    made = make(config["loss"], "loss", **named(config["loss"], "loss", offered))
    assert isinstance(made, nn.Module)
    return made


def named(node: Mapping[str, Any], path: str, offered: Mapping[str, Any]) -> dict[str, Any]:
    """Of the objects that the program offers, those that the constructor of the node asks for."""
    wanted = arguments(node, None, path)
    return {key: value for key, value in offered.items() if wanted is None or key in wanted}


def optimizer(config: Mapping[str, Any], groups: list[dict[str, Any]]) -> Optimizer:
    """The optimizer of parameter groups, which hold learning rates and decays."""
    made = make(config["optim"]["optimizer"], "optim.optimizer", params=groups)
    assert isinstance(made, Optimizer)
    return made


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
    )


def _innermost(error: InstantiationException, path: str) -> str:
    """Hydra wraps what a constructor below `path` raised: the place of that constructor and its own message."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if not isinstance(cause, (ValueError, ImportError)):
        raise error
    places = [line.partition("full_key: ")[2] for line in str(error).splitlines() if "full_key: " in line]
    return f"{join(path, places[0]) if places else path}: {cause}"

"""Combinations that cannot work, found before any data is read: each names what clashes and the way out."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from hyplearn.cli import build
from hyplearn.cli.compose import Composed
from hyplearn.cli.errors import ConfigError, listing
from hyplearn.engine.module import Model
from hyplearn.engine.run import TrainSpec
from hyplearn.engine.settings import TrainerSettings
from hyplearn.optim import build_schedule, check_supports, parameter_groups

TASK_EXPECTS = "logits"  # what a loss of classification is computed from


def check(composed: Composed, spec: TrainSpec) -> None:
    """Raise ConfigError for a combination that cannot work. Makes the model and the optimizer once to be sure."""
    check_hardware(spec.trainer)
    check_loss(composed, spec.loss)
    check_manifold_typed(composed)
    check_pretrained(composed, in_channels=build.facts(spec.datamodule)["in_channels"])
    try:
        spec.validate()
        model = spec.build_module().model
    except ValueError as error:
        raise ConfigError(str(error)) from error
    check_manifold_used(composed, model)
    check_batch_norm(composed, model, processes=device_count(spec.trainer))
    check_optimizer(composed, spec, model)


def device_count(trainer: TrainerSettings) -> int:
    """The processes that share a batch."""
    if isinstance(trainer.devices, int):
        return trainer.devices
    return 1 if trainer.accelerator == "cpu" else max(torch.cuda.device_count(), 1)


def check_hardware(trainer: TrainerSettings) -> None:
    """The accelerator is there, in the number asked for."""
    gpus = torch.cuda.device_count()
    on_gpu = trainer.accelerator == "gpu" or (trainer.accelerator == "auto" and gpus > 0)
    if on_gpu and not gpus:
        raise ConfigError("trainer.accelerator=gpu, but torch sees no GPU: use trainer.accelerator=cpu, or auto.")
    if on_gpu and device_count(trainer) > gpus:
        raise ConfigError(f"trainer.devices={trainer.devices}, but torch sees {gpus}: use trainer.devices=auto.")


def check_loss(composed: Composed, loss: nn.Module) -> None:
    """The loss is computed from what a classifier gives."""
    expects = getattr(loss, "expects", None)
    if expects != TASK_EXPECTS:
        raise ConfigError(
            f"loss={composed.choices['loss']} is computed from {expects}, but a classifier gives {TASK_EXPECTS}: "
            "use loss=cross_entropy."
        )


def check_manifold_typed(composed: Composed) -> None:
    """Nobody types options of a curvature that is not there."""
    typed = sorted(key for key in composed.typed if key.startswith("manifold."))
    if composed.config["manifold"].get("kind") == "euclidean" and typed:
        raise ConfigError(
            f"{listing(typed)} would be ignored: model={composed.choices['model']} with "
            f"manifold={composed.choices['manifold']} has no curvature. Leave it out, or choose a hyperbolic model."
        )


def check_pretrained(composed: Composed, *, in_channels: int) -> None:
    """Pretrained weights read images of three channels."""
    pretrained = composed.config["model"].get("pretrained")
    if pretrained and in_channels != 3:
        raise ConfigError(
            f"model.pretrained={pretrained} reads images of 3 channels, but dataset={composed.choices['dataset']} has "
            f"{in_channels}: set dataset.channels=3 to repeat the channel, or model.pretrained=null."
        )


def check_manifold_used(composed: Composed, model: nn.Module) -> None:
    """A manifold that was chosen is one the model uses."""
    if composed.config["manifold"].get("kind") != "euclidean" and not cast(Model, model).manifolds():
        raise ConfigError(
            f"manifold={composed.choices['manifold']} would be ignored: model={composed.choices['model']} is "
            "Euclidean. Leave the manifold out, or choose a hyperbolic model."
        )


def check_batch_norm(composed: Composed, model: nn.Module, *, processes: int) -> None:
    """Statistics of a batch need more than one image."""
    batch_size = composed.config["dataset"]["batch_size"]
    if batch_size < 2 * processes and any("BatchNorm" in type(part).__name__ for part in model.modules()):
        shared = f" on {processes} devices" if processes > 1 else ""
        raise ConfigError(
            f"dataset.batch_size={batch_size}{shared}: batch norm, in model={composed.choices['model']}, needs "
            f"at least 2 images per device. Set dataset.batch_size={2 * processes} or more."
        )


def check_optimizer(composed: Composed, spec: TrainSpec, model: nn.Module) -> None:
    """The optimizer knows what to do with every parameter, and takes its options."""
    rates = {key: value for key, value in spec.optim.items() if key != "schedule"}
    try:
        optimizer = spec.build_optimizer(parameter_groups(model, **rates))
        check_supports(type(optimizer), model)
        build_schedule(optimizer, spec.optim["schedule"], total_epochs=spec.trainer.max_epochs)
    except ValueError as error:
        chosen = f"optim={composed.choices['optim']}, model={composed.choices['model']}"
        raise ConfigError(f"{chosen}: {error}") from error

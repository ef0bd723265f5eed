"""Combinations that cannot work, found before any data is read: each names what clashes and the way out."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn

from hyplearn.config import build
from hyplearn.config.compose import Composed
from hyplearn.config.parts import check_loss_kind, check_model_kind
from hyplearn.config.typecheck import target
from hyplearn.data.retrieval_datamodule import RetrievalDataModule
from hyplearn.errors import ConfigError, listing
from hyplearn.losses.base import input_of
from hyplearn.manifolds.base import Family, SingleManifold
from hyplearn.models.base import Output, as_model, output_of
from hyplearn.optim import build_schedule, check_supports
from hyplearn.training.callbacks.gradients import check_scales
from hyplearn.training.fit import TrainSpec
from hyplearn.training.module import TrainingModule
from hyplearn.training.retrieval import RetrievalModule
from hyplearn.training.settings import TrainerSettings
from hyplearn.training.trainer import devices_of_node, node_count

# What a loss is computed from, the model that gives it, and a choice that fits where another was made.
GIVES = {"logits": "a classifier", "embeddings": "a retrieval model"}
FITTING = {
    "logits": {
        "loss": "loss=cross_entropy",
        "dataset": "dataset=digits, cifar100 or image_folder",
        "model": "hecnn_r18",
    },
    "embeddings": {
        "loss": "loss=pairwise, proxy_anchor or hier",
        "dataset": "dataset=digits_retrieval, cub or image_folder_retrieval",
        "model": "hyp_vit_s",
    },
}
log = logging.getLogger("hyplearn")


def checked_specification(composed: Composed, *, restores: bool = False) -> TrainSpec:
    """Make the parts of a run, found to work together. Raises ConfigError. restores: see `build.specification`.

    Model and loss are made here, once: the specification holds them for the run that follows.
    """
    spec = build.specification(composed.config, restores=restores)
    return replace(spec, module=check(composed, spec))


def check(composed: Composed, spec: TrainSpec) -> TrainingModule:
    """Raise ConfigError for a combination that cannot work. Returns the module, which has to be made to be sure."""
    check_hardware(spec.trainer)
    check_nodes(composed, spec.trainer)
    gives = check_task(composed, retrieval=spec.retrieval)
    check_model_kind(target(composed.config["model"], "model"), gives)
    check_loss(composed, gives)
    family = build.family(composed.config)
    check_manifold_typed(composed, family)
    check_pretrained(composed, build.facts(spec.datamodule))
    try:
        spec.validate()
        with _threads(spec.trainer.num_threads):
            module = spec.build_module()
    except ValueError as error:
        raise ConfigError(str(error)) from error
    check_manifold_used(composed, family, module.model)
    check_batch_norm(composed, spec, module.model, processes=process_count(spec.trainer))
    check_optimizer(composed, spec, module)
    if isinstance(module, RetrievalModule):
        check_embedding_loss(composed, spec, module)
        check_batches(composed, spec, module)
    return module


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Compute with as many threads as the run will: the last bits of orthogonal weights depend on them."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if count is None else count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def process_count(trainer: TrainerSettings) -> int:
    """The processes that share a batch, on all nodes."""
    return device_count(trainer) * node_count(trainer)


def check_nodes(composed: Composed, trainer: TrainerSettings) -> None:
    """The processes of several machines have to write to one directory."""
    if node_count(trainer) > 1 and not composed.config["output_dir"] and not composed.config["resume"]:
        raise ConfigError(
            f"trainer.num_nodes={node_count(trainer)}: the nodes write to one directory, on a file system that all of "
            "them see: give all the same output_dir=..."
        )


def device_count(trainer: TrainerSettings) -> int:
    """The processes of each node."""
    devices = devices_of_node(trainer)
    if isinstance(devices, int):
        return devices
    return 1 if trainer.accelerator == "cpu" else max(torch.cuda.device_count(), 1)


def check_hardware(trainer: TrainerSettings) -> None:
    """The accelerator is there, in the number asked for."""
    gpus = torch.cuda.device_count()
    on_gpu = trainer.accelerator == "gpu" or (trainer.accelerator == "auto" and gpus > 0)
    if on_gpu and not gpus:
        raise ConfigError("trainer.accelerator=gpu, but torch sees no GPU: use trainer.accelerator=cpu, or auto.")
    if on_gpu and device_count(trainer) > gpus:
        raise ConfigError(f"trainer.devices={trainer.devices}, but torch sees {gpus}: use trainer.devices=auto.")


def check_task(composed: Composed, *, retrieval: bool) -> Output:
    """The model does what the data are split for; returns what it gives a loss."""
    gives = output_of(target(composed.config["model"], "model"))
    if retrieval != (gives == "embeddings"):
        split = "retrieval, by classes" if retrieval else "classification, by images"
        other = "embeddings" if retrieval else "logits"
        raise ConfigError(
            f"model={composed.choices['model']} is {GIVES[gives]}, but dataset={composed.choices['dataset']} is split "
            f"for {split}: use {FITTING[gives]['dataset']}, or a model such as {FITTING[other]['model']}."
        )
    if not retrieval and composed.config["evaluation"] is not None:
        raise ConfigError("evaluation is that of retrieval, and would be ignored by a classifier: leave it out.")
    return gives


def check_loss(composed: Composed, gives: Output) -> None:
    """The loss is computed from what the model gives, and can be called."""
    kind = target(composed.config["loss"], "loss")
    expects = input_of(kind)
    if expects != gives:
        raise ConfigError(
            f"loss={composed.choices['loss']} is computed from {expects}, but {GIVES[gives]} gives {gives}: "
            f"use {FITTING[gives]['loss']}."
        )
    check_loss_kind(kind)


def check_manifold_typed(composed: Composed, family: Family) -> None:
    """Nobody types options of a curvature that is not there; in a grid over models a sphere may be among them."""
    typed = sorted(key for key in composed.typed if key.startswith("manifold."))
    if not typed or family.curved or isinstance(family, SingleManifold):
        return
    if family.kind == "sphere":
        log.warning("%s: no effect on model=%s, a sphere has no curvature", listing(typed), composed.choices["model"])
    else:
        raise ConfigError(
            f"{listing(typed)} would be ignored: model={composed.choices['model']} with "
            f"manifold={composed.choices['manifold']} has no curvature. Leave it out, or choose a hyperbolic model."
        )


def check_pretrained(composed: Composed, known: Mapping[str, int]) -> None:
    """Pretrained weights read images of three channels."""
    model = composed.config["model"]
    if not build.reads_pretrained(model, image_size=known["image_size"]):
        return
    if known["in_channels"] != 3:
        raise ConfigError(
            f"model.pretrained={model['pretrained']} reads images of 3 channels, but "
            f"dataset={composed.choices['dataset']} has {known['in_channels']}: set dataset.channels=3 to repeat the "
            "channel, or model.pretrained=false."
        )


def check_manifold_used(composed: Composed, family: Family, model: nn.Module) -> None:
    """A manifold that was chosen is one the model uses; nobody chose the default for a model that takes none."""
    node = composed.config["model"]
    takes_one = bool(build.named(node, "model", {"manifold": family}))
    chosen = takes_one or any(key.partition(".")[0] == "manifold" for key in composed.typed)
    if chosen and family.curved and not as_model(model).manifolds():
        raise ConfigError(
            f"manifold={composed.choices['manifold']} would be ignored: model={composed.choices['model']} is "
            "Euclidean. Leave the manifold out, or choose a hyperbolic model."
        )


def check_batch_norm(composed: Composed, spec: TrainSpec, model: nn.Module, *, processes: int) -> None:
    """Statistics of a batch need more than one image."""
    batch_size = spec.datamodule.batch_size
    if batch_size < 2 * processes and any("BatchNorm" in type(part).__name__ for part in model.modules()):
        shared = f" on {processes} devices" if processes > 1 else ""
        raise ConfigError(
            f"dataset.batch_size={batch_size}{shared}: batch norm, in model={composed.choices['model']}, needs "
            f"at least 2 images per device. Set dataset.batch_size={2 * processes} or more."
        )


def check_embedding_loss(composed: Composed, spec: TrainSpec, module: RetrievalModule) -> None:
    """The loss fits the spaces of the model; rates of parts that it does not have are typed in grids over losses."""
    chosen = f"loss={composed.choices['loss']}"
    try:
        module.loss.check(module.spaces, batch_size=spec.datamodule.batch_size)
    except ValueError as error:
        raise ConfigError(f"{chosen}, model={composed.choices['model']}: {error}") from error
    without = {f"optim.scales.{name}" for name in set(module.optimization.settings.scales) - set(module.rate_groups())}
    if "optim.scales" not in composed.typed:
        without = without & composed.typed  # those of a recipe are for all losses
    if without:
        log.warning("%s: no effect on %s, which has no such parameters", listing(without), chosen)


def check_batches(composed: Composed, spec: TrainSpec, module: RetrievalModule) -> None:
    """The training classes form batches, and those hold what the loss compares."""
    data, loss = spec.datamodule, module.loss
    assert isinstance(data, RetrievalDataModule)
    chosen = f"loss={composed.choices['loss']}"
    if data.images_per_class is None and (loss.equal_per_class or loss.least_per_class > 1):
        raise ConfigError(
            f"{chosen} compares {loss.least_per_class} or more images of each class, but dataset.sampler=shuffled "
            "takes images as they come: use dataset.sampler=class_balanced dataset.images_per_class=2."
        )
    if data.images_per_class is not None and data.images_per_class < loss.least_per_class:
        raise ConfigError(
            f"{chosen} compares {loss.least_per_class} or more images of each class: set "
            f"dataset.images_per_class={loss.least_per_class} or more, not {data.images_per_class}."
        )
    try:
        data.check_batches(processes=process_count(spec.trainer))
    except ValueError as error:
        raise ConfigError(f"dataset: {error}") from error


def check_optimizer(composed: Composed, spec: TrainSpec, module: TrainingModule) -> None:
    """The optimizer knows what to do with every parameter, and takes its options."""
    try:
        optimizer = spec.build_optimizer(module.optimization.parameter_groups(module))
        check_supports(type(optimizer), module)
        check_scales(spec.optim.gradient_scales, module)
        build_schedule(optimizer, spec.optim.schedule, total_epochs=max(spec.trainer.max_epochs, 1))
    except ValueError as error:
        chosen = f"optim={composed.choices['optim']}, model={composed.choices['model']}"
        raise ConfigError(f"{chosen}: {error}") from error

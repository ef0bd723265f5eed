"""The Lightning trainer of a run, and what is set once before it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import DoublePrecision, MixedPrecision, Precision
from pytorch_lightning.strategies import DDPStrategy, Strategy
from torch import nn

from hyplearn.geometry import tf32
from hyplearn.runs.rank import started_by_torchrun
from hyplearn.training.checkpoint import WholeCheckpointIO
from hyplearn.training.settings import TrainerSettings

# What Lightning and torch say about choices that are meant. Everything else they say stays visible.
HARMLESS = [
    r"GPU available but not used",
    r"The '\w+_dataloader' does not have many workers",
    r"The `srun` command is available on your system but is not used",
    r"Total length of `list` across ranks is zero",  # the loaders of a data module without validation images
    r"You have overridden `on_before_batch_transfer` in `LightningModule`",  # the data modules have none
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning's own use of torch
]
# The gradient scaler of fp16 finds its scale by skipping steps, often the first.
HARMLESS_IN_FP16 = [r"Detected call of `lr_scheduler.step\(\)` before `optimizer.step\(\)`"]


class ProcessesStrategy(DDPStrategy):
    """Distributed data parallel whose evaluation runs on the bare model.

    The wrapper would exchange buffers at every batch, and wait for ever where one process has a batch less.
    """

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        assert self.lightning_module is not None
        with self.precision_plugin.val_step_context():
            return self.lightning_module.validation_step(*args, **kwargs)


class SharedBuffers(pl.Callback):
    """Every process evaluates with the running statistics of the first, which are the ones that are saved."""

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.world_size > 1:
            for buffer in pl_module.buffers():
                torch.distributed.broadcast(buffer, 0)


def build_trainer(settings: TrainerSettings, *, folder: Path, callbacks: Sequence[pl.Callback]) -> pl.Trainer:
    """A trainer without Lightning's own logging, checkpoints and progress: `callbacks` do that.

    Says once for the process whether TF32 is allowed.
    """
    tf32.allow(settings.tf32)
    return pl.Trainer(
        accelerator=_accelerator(settings),
        devices=_devices(settings),
        num_nodes=node_count(settings),
        strategy=_strategy(settings),
        max_epochs=settings.max_epochs,
        max_steps=-1 if settings.max_steps is None else settings.max_steps,
        limit_train_batches=settings.limit_train_batches,
        limit_val_batches=settings.limit_val_batches,
        limit_test_batches=settings.limit_test_batches,
        gradient_clip_val=settings.gradient_clip if settings.gradient_clip_of == "unscaled" else None,
        accumulate_grad_batches=settings.accumulate_grad_batches,
        deterministic=settings.deterministic or None,
        benchmark=not settings.deterministic,
        callbacks=[SharedBuffers(), *callbacks],
        plugins=[WholeCheckpointIO(), _precision(settings)],
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        check_val_every_n_epoch=settings.val_every_epochs,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # the data module parts the batches itself
        inference_mode=False,
    )


def _accelerator(settings: TrainerSettings) -> str:
    """CUDA or CPU: the other accelerators of Lightning lack the float64 of the metrics."""
    if settings.accelerator == "cpu":
        return "cpu"
    if settings.accelerator == "gpu" and not torch.cuda.is_available():
        raise ValueError("trainer.accelerator=gpu: torch sees no CUDA device; use trainer.accelerator=cpu or auto")
    return "cuda" if torch.cuda.is_available() else "cpu"


def _precision(settings: TrainerSettings) -> Precision:
    """As an object: given its name, Lightning takes bf16 instead of fp16 on a CPU."""
    if settings.precision == "fp16":
        device = _accelerator(settings)
        scaler = torch.amp.GradScaler(device, init_scale=settings.loss_scale)  # type: ignore[attr-defined]
        return MixedPrecision("16-mixed", device, scaler)
    if settings.precision == "bf16":
        return MixedPrecision("bf16-mixed", _accelerator(settings))
    return DoublePrecision() if settings.precision == "64" else Precision()


def node_count(settings: TrainerSettings) -> int:
    """The machines that train together: what is set, or what torchrun has started."""
    started = started_by_torchrun()
    return started.nodes if started is not None and settings.num_nodes == 1 else settings.num_nodes


def devices_of_node(settings: TrainerSettings) -> int | Literal["auto"]:
    """The devices of each node, as set, or as many as torchrun has started processes there."""
    started = started_by_torchrun()
    return started.on_each_node if started is not None and settings.devices in (1, "auto") else settings.devices


def _devices(settings: TrainerSettings) -> int:
    wanted = devices_of_node(settings)
    gpus = torch.cuda.device_count() if _accelerator(settings) == "cuda" else None
    if isinstance(wanted, str):
        return gpus or 1
    if gpus is not None and wanted > gpus:
        raise ValueError(f"trainer.devices={wanted} must be at most {gpus}, the CUDA devices torch sees")
    return wanted


def _strategy(settings: TrainerSettings) -> str | Strategy:
    return (
        ProcessesStrategy() if settings.strategy == "ddp" or _devices(settings) * node_count(settings) > 1 else "auto"
    )


def prepare_model(model: nn.Module, settings: TrainerSettings) -> nn.Module:
    """Memory layout, statistics over processes and compilation, as set. Keys of the state dict stay as they are."""
    if any(parameter.dim() == 4 for parameter in model.parameters()):
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if settings.sync_batchnorm:
        model = _synchronize_batchnorm(model, settings)
    if settings.compile is True:
        model.compile()
    return model


def compiles_regions(settings: TrainerSettings) -> bool:
    """Whether the regions inside layers run compiled: see `TrainerSettings`."""
    return settings.compile == "regions" or (settings.compile == "auto" and _accelerator(settings) == "cuda")


def _synchronize_batchnorm(model: nn.Module, settings: TrainerSettings) -> nn.Module:
    for module in model.modules():
        if hasattr(module, "synchronized"):  # the batch norms of hyplearn.nn
            setattr(module, "synchronized", True)  # noqa: B010 - mypy takes attributes of a Module for tensors
    euclidean = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    if euclidean and _accelerator(settings) == "cpu":
        raise ValueError("trainer.sync_batchnorm=True: torch synchronizes Euclidean batch norm on GPUs only")
    return nn.SyncBatchNorm.convert_sync_batchnorm(model) if euclidean else model


@contextmanager
def quiet_lightning(settings: TrainerSettings) -> Iterator[None]:
    """Keep Lightning's greetings and the HARMLESS warnings from the terminal."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for message in HARMLESS + (HARMLESS_IN_FP16 if settings.precision == "fp16" else []):
            warnings.filterwarnings("ignore", message=message)
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)

"""The typed shape of a configuration: what stands at the top level and in each group. Plain data without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hyplearn.errors import ConfigError
from hyplearn.training.settings import (
    BatchSettings,
    CallbackSettings,
    EvaluationSettings,
    LoggerSettings,
    TrainerSettings,
)

# Arguments that the program passes itself, by the node they belong to: typing them would be ignored or contradict.
SUPPLIED: dict[str, frozenset[str]] = {
    "": frozenset({"choices"}),
    "model": frozenset({"in_channels", "num_classes", "image_size", "manifold"}),
    "loss": frozenset({"spaces", "sizes", "num_classes"}),
    "dataset": frozenset({"seed"}),
    "optim.optimizer": frozenset({"params", "lr", "weight_decay"}),
}


@dataclass
class OptimSettings:
    """An optimizer (a partial `_target_`) and the rates of the three groups of parameters, with their schedule.

    scales: what multiplies lr for a part of a retrieval run: backbone, neck, class_proxies, hierarchical_proxies.
    """

    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    lr: float
    weight_decay: float
    curvature_lr: float
    manifold_lr_scale: float = 1.0
    manifold_weight_decay: float | None = None
    scales: dict[str, float] = field(default_factory=dict)


@dataclass
class PublishedCell:
    """The cell of a paper's table that an experiment reproduces: its key, our metric of the same meaning, the value.

    value and std in percent, as printed; null where the paper prints none.
    """

    key: str
    metric: str
    value: float | None
    std: float | None = None


@dataclass
class TrainConfig:
    """The top level. `output_dir`: null for a new directory below outputs/. `resume`: auto, or a run or checkpoint.

    batch, evaluation: of retrieval; a classifier has no evaluation settings. scale: full, or smoke where small data
    stand in for those that are named. protocol: paper, or code where the authors' code differs.
    """

    seed: int
    model: dict[str, Any]
    manifold: dict[str, Any]
    optim: OptimSettings
    loss: dict[str, Any]
    dataset: dict[str, Any]
    trainer: TrainerSettings
    logger: LoggerSettings
    callbacks: CallbackSettings
    batch: BatchSettings
    evaluation: EvaluationSettings | None
    output_dir: str | None
    resume: str | None
    paper: PublishedCell | None
    scale: str
    protocol: str


def validate(config: dict[str, Any]) -> None:
    """Raise ConfigError for a setting out of range, among those that need no model or data to tell."""
    try:
        TrainerSettings(**config["trainer"]).validate()
        LoggerSettings(**config["logger"]).validate()
        CallbackSettings(**config["callbacks"]).validate()
        BatchSettings(**config["batch"]).validate()
        if config["evaluation"] is not None:
            EvaluationSettings(**config["evaluation"]).validate()
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if config["scale"] not in ("full", "smoke"):
        raise ConfigError(f"scale={config['scale']} must be full or smoke.")
    if not 0 <= config["seed"] < 2**32:
        raise ConfigError(f"seed={config['seed']} must be in [0, 2^32).")

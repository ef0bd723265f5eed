"""The typed shape of a configuration: what stands at the top level and in each group. Plain data without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hyplearn.config.typecheck import join
from hyplearn.errors import ConfigError, require
from hyplearn.optim.settings import SCHEDULES, OptimSettings
from hyplearn.training.settings import (
    BatchSettings,
    CallbackSettings,
    EvaluationSettings,
    LoggerSettings,
    TrainerSettings,
)

LARGEST = 2**63
# Arguments that the program passes itself, by the node they belong to: typing them would be ignored or contradict.
SUPPLIED: dict[str, frozenset[str]] = {
    "": frozenset({"choices"}),
    "model": frozenset({"in_channels", "num_classes", "image_size", "manifold"}),
    "loss": frozenset({"spaces", "sizes", "num_classes"}),
    "dataset": frozenset({"seed"}),
    "optim.optimizer": frozenset({"params", "lr", "weight_decay"}),
}


@dataclass(frozen=True, kw_only=True)
class OptimConfig(OptimSettings):
    """What stands under `optim`: an optimizer (a partial `_target_`), beside rates and schedule."""

    optimizer: dict[str, Any]


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
    optim: OptimConfig
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
    scale: Literal["full", "smoke"]
    protocol: Literal["paper", "code"]

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**32, "seed", self.seed, "in [0, 2^32)")


def read(config: Mapping[str, Any]) -> TrainConfig:
    """A checked configuration as typed settings. Raises ConfigError for one out of range, with key and value."""
    node = {key: value for key, value in config.items() if key not in SUPPLIED[""]}
    optim, evaluation, paper = node["optim"], node["evaluation"], node["paper"]
    try:
        schedule = SCHEDULES[optim["schedule"]["name"]](**optim["schedule"])
        typed = {
            "optim": OptimConfig(**{**optim, "schedule": schedule}),
            "trainer": TrainerSettings(**node["trainer"]),
            "logger": LoggerSettings(**node["logger"]),
            "callbacks": CallbackSettings(**node["callbacks"]),
            "batch": BatchSettings(**node["batch"]),
            "evaluation": None if evaluation is None else EvaluationSettings(**evaluation),
            "paper": None if paper is None else PublishedCell(**paper),
        }
        return TrainConfig(**{**node, **typed})
    except ValueError as error:
        raise ConfigError(str(error)) from error


def validate(config: Mapping[str, Any]) -> None:
    """Raise ConfigError for a setting out of range, among those that need no model or data to tell."""
    read(config)
    check_finite(config, "")


def check_finite(value: Any, path: str) -> None:
    """Raise ConfigError for a number that is NaN or infinite, or an integer that no tensor takes: no key means one."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{path}={value} must be a finite number.")
    if isinstance(value, int) and not -LARGEST <= value < LARGEST:
        raise ConfigError(f"{path}={value} must be in [-2^63, 2^63).")
    if isinstance(value, Mapping):
        for key, item in value.items():
            check_finite(item, join(path, key))
    if isinstance(value, list):
        for item in value:
            check_finite(item, path)

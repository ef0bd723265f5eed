"""What a user sets about how parameters move: rates, and the schedule that changes them. Plain data without torch.

An object of these classes is valid: making one raises a ValueError that names key, value and way out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from hyplearn.errors import require

Number: TypeAlias = int | float  # an epoch stays an integer in config.yaml
POSITION = "greater than 0 and finite: a fraction of the run below 1, or epochs from 1 on"


@dataclass(frozen=True, kw_only=True)
class Held:
    """What every schedule can do.

    hold: names of groups with the epochs (or fraction of the run) for which their rate is 0 at the beginning,
    {'backbone': 1} for one epoch in which only the other groups learn.
    """

    hold: dict[str, Number] | None = None

    def __post_init__(self) -> None:
        for group, until in (self.hold or {}).items():
            _position(f"hold.{group}", until)


@dataclass(frozen=True, kw_only=True)
class ConstantSchedule(Held):
    """Rates do not change."""

    name: Literal["constant"] = "constant"


@dataclass(frozen=True, kw_only=True)
class StepSchedule(Held):
    """Rates are multiplied by gamma every so many epochs (`every`, or a fraction of the run)."""

    name: Literal["step"] = "step"
    every: Number
    gamma: Number

    def __post_init__(self) -> None:
        super().__post_init__()
        _position("every", self.every)
        _gamma(self.gamma)


@dataclass(frozen=True, kw_only=True)
class MultiStepSchedule(Held):
    """Rates are multiplied by gamma at each milestone.

    milestones: fractions of the run or epochs, increasing. manifold_skips_first_drop: the group named 'manifold' keeps
    its rate at the first milestone.
    """

    name: Literal["multistep"] = "multistep"
    milestones: list[Number]
    gamma: Number
    manifold_skips_first_drop: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        fine = bool(self.milestones)
        require(fine, "optim.schedule.milestones", self.milestones, "at least one; schedule={name:constant} has none")
        for milestone in self.milestones:
            _position("milestones", milestone)
        _gamma(self.gamma)


@dataclass(frozen=True, kw_only=True)
class CosineSchedule(Held):
    """Rates rise over the warm-up, then fall along half a cosine to `final` of where they began.

    warmup: fraction of the run, or epochs; 0 for none. final: in [0, 1].
    """

    name: Literal["cosine"] = "cosine"
    warmup: Number = 0.0
    final: Number = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup != 0:
            _position("warmup", self.warmup)
        require(0 <= self.final <= 1, "optim.schedule.final", self.final, "in [0, 1]")


ScheduleSettings: TypeAlias = ConstantSchedule | StepSchedule | MultiStepSchedule | CosineSchedule
SCHEDULES: dict[str, Callable[..., ScheduleSettings]] = {
    "constant": ConstantSchedule,
    "step": StepSchedule,
    "multistep": MultiStepSchedule,
    "cosine": CosineSchedule,
}


def _position(key: str, value: Number) -> None:
    require(0 < value < math.inf, f"optim.schedule.{key}", value, POSITION)


def _gamma(value: Number) -> None:
    require(0 < value <= 1, "optim.schedule.gamma", value, "in (0, 1]")


@dataclass(frozen=True, kw_only=True)
class OptimSettings:
    """The rates of the three groups of parameters, with their schedule.

    Points learn at lr * manifold_lr_scale and decay by manifold_weight_decay (null: as the weights); curvatures learn
    at curvature_lr and decay by curvature_weight_decay, which draws K to 0. scales: what multiplies lr for a part of a
    retrieval run: backbone, neck, class_proxies, hierarchical_proxies, scalars, and what an own model names in
    `rate_groups`. gradient_scales: what multiplies the gradient of such a part before the step.
    """

    schedule: ScheduleSettings
    lr: float
    weight_decay: float
    curvature_lr: float
    manifold_lr_scale: float = 1.0
    manifold_weight_decay: float | None = None
    curvature_weight_decay: float = 0.0
    scales: dict[str, Number] = field(default_factory=dict)
    gradient_scales: dict[str, Number] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key in ("lr", "weight_decay", "curvature_lr", "curvature_weight_decay", "manifold_lr_scale"):
            _rate(key, getattr(self, key))
        if self.manifold_weight_decay is not None:
            _rate("manifold_weight_decay", self.manifold_weight_decay)
        for part, scale in self.scales.items():
            _rate(f"scales.{part}", scale)
        for part, scale in self.gradient_scales.items():
            _rate(f"gradient_scales.{part}", scale)


def _rate(key: str, value: float) -> None:
    require(0 <= value < math.inf, f"optim.{key}", value, "at least 0 and finite")

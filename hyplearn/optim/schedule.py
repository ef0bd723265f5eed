"""Learning rate schedules per parameter group: the papers' steps, and cosine with warm-up.

A schedule counts its own steps. With `steps_per_epoch=1` the trainer calls `step()` once per epoch, otherwise after
every optimizer step; positions are given as fractions of the run (below 1) or as epochs (from 1 on) in both cases.
"""

from __future__ import annotations

import abc
import math
from bisect import bisect_right
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from hyplearn.errors import nearest
from hyplearn.optim.settings import (
    ConstantSchedule,
    CosineSchedule,
    MultiStepSchedule,
    Number,
    ScheduleSettings,
    StepSchedule,
)


class Schedule(LRScheduler, abc.ABC):
    """Each group's initial lr times a factor of the step and the group. All state is plain numbers."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.group_names = [group.get("name") for group in optimizer.param_groups]
        self.held: dict[str, int] = {}
        super().__init__(optimizer)

    def hold(self, steps: Mapping[str, int]) -> None:
        """Let groups stand still, at a rate of 0, for their first steps."""
        self.held = dict(steps)
        for group, rate in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            group["lr"] = rate

    @abc.abstractmethod
    def factor(self, step: int, group: str | None) -> float:
        """Return what multiplies the initial lr of the group of that name, after `step` steps."""

    def get_lr(self) -> list[float | Tensor]:
        """The rates of all groups now."""
        rates = zip(self.base_lrs, self.group_names, strict=True)
        return [base * self._factor(self.last_epoch, name) for base, name in rates]

    def _factor(self, step: int, group: str | None) -> float:
        return 0.0 if group is not None and step < self.held.get(group, 0) else self.factor(step, group)


class Constant(Schedule):
    """Schedule that leaves the rates as they are."""

    def factor(self, step: int, group: str | None) -> float:
        return 1.0


class MultiStep(Schedule):
    """Multiply by gamma at each milestone.

    The papers' run of 200 epochs, milestones 60, 120, 160, gamma 0.2: rates 0.1, 0.02, 0.004, 0.0008 for the weights
    and 0.02, 0.02, 0.004, 0.0008 for the points, whose group starts at lr * gamma and skips the first drop.
    """

    def __init__(self, optimizer: Optimizer, settings: MultiStepSchedule, length: RunLength) -> None:
        self.milestones = [length.steps(milestone) for milestone in settings.milestones]
        if self.milestones != sorted(self.milestones):
            raise ValueError(
                f"optim.schedule.milestones={settings.milestones} must increase; in steps: {self.milestones}"
            )
        self.gamma = float(settings.gamma)
        self.manifold_skips_first_drop = settings.manifold_skips_first_drop
        super().__init__(optimizer)

    def factor(self, step: int, group: str | None) -> float:
        drops = bisect_right(self.milestones, step)
        if group == "manifold" and self.manifold_skips_first_drop:
            drops = max(0, drops - 1)
        return float(self.gamma**drops)


class Step(Schedule):
    """Multiply by gamma every so many epochs (`every`, or a fraction of the run), as HIER and Proxy-Anchor train."""

    def __init__(self, optimizer: Optimizer, settings: StepSchedule, length: RunLength) -> None:
        self.every, self.gamma = length.steps(settings.every), float(settings.gamma)
        super().__init__(optimizer)

    def factor(self, step: int, group: str | None) -> float:
        return float(self.gamma ** (step // self.every))


class Cosine(Schedule):
    """A linear rise over the warm-up, then half a cosine down to `final` of the initial rates."""

    def __init__(self, optimizer: Optimizer, settings: CosineSchedule, length: RunLength) -> None:
        self.total = length.epochs * length.steps_per_epoch
        self.warmup = length.steps(settings.warmup) if settings.warmup else 0
        if settings.warmup >= 1 and self.warmup >= self.total:
            raise ValueError(
                f"optim.schedule.warmup={settings.warmup} must be shorter than the run of {length.epochs} epochs"
            )
        self.final = float(settings.final)
        super().__init__(optimizer)

    def factor(self, step: int, group: str | None) -> float:
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        share = min(1.0, (step - self.warmup) / max(1, self.total - self.warmup))
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * share)) / 2


class RunLength(NamedTuple):
    """How long a run is: epochs, and how often `step()` is called in each."""

    epochs: int
    steps_per_epoch: int

    def steps(self, position: Number) -> int:
        """A fraction of the run or a number of epochs in steps, rounded up: no milestone comes before its time."""
        epochs = position * self.epochs if position < 1 else position
        return math.ceil(round(epochs * self.steps_per_epoch, 6))


def build_schedule(
    optimizer: Optimizer, settings: ScheduleSettings, *, total_epochs: int, steps_per_epoch: int = 1
) -> Schedule:
    """Make the schedule that the settings describe.

    total_epochs, steps_per_epoch: >= 1; the second is the number of times `step()` is called per epoch. Raises a
    ValueError for settings that do not fit a run of this length or the groups of the optimizer.
    """
    for name, value in (("total_epochs", total_epochs), ("steps_per_epoch", steps_per_epoch)):
        if value < 1:
            raise ValueError(f"{name}={value} must be >= 1")
    length = RunLength(total_epochs, steps_per_epoch)
    schedule = _made(optimizer, settings, length)
    names = [name for name in schedule.group_names if name]
    steps = {_known_group(name, names): length.steps(until) for name, until in (settings.hold or {}).items()}
    if steps:
        schedule.hold(steps)
    return schedule


def _made(optimizer: Optimizer, settings: ScheduleSettings, length: RunLength) -> Schedule:
    if isinstance(settings, MultiStepSchedule):
        return MultiStep(optimizer, settings, length)
    if isinstance(settings, StepSchedule):
        return Step(optimizer, settings, length)
    if isinstance(settings, CosineSchedule):
        return Cosine(optimizer, settings, length)
    assert isinstance(settings, ConstantSchedule)
    return Constant(optimizer)


def _known_group(name: str, known: list[str]) -> str:
    if name not in known:
        raise ValueError(
            f"optim.schedule.hold.{name}: no group of parameters has this name.{nearest(name, known)} Choose from "
            f"{', '.join(known) or 'none'}"
        )
    return name

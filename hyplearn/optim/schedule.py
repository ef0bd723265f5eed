"""Learning rate schedules per parameter group: the papers' steps, and cosine with warm-up.

A schedule counts its own steps. With `steps_per_epoch=1` the trainer calls `step()` once per epoch, otherwise after
every optimizer step; positions are given as fractions of the run (below 1) or as epochs (from 1 on) in both cases.
"""

from __future__ import annotations

import abc
import difflib
import inspect
import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


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

    def __init__(self, optimizer: Optimizer, *, total_epochs: int, steps_per_epoch: int) -> None:
        super().__init__(optimizer)

    def factor(self, step: int, group: str | None) -> float:
        return 1.0


class MultiStep(Schedule):
    """Multiply by gamma at each milestone.

    milestones: fractions of the run or epochs, increasing. manifold_skips_first_drop: the group named 'manifold' keeps
    its rate at the first milestone. The papers' run of 200 epochs, milestones 60, 120, 160, gamma 0.2: rates 0.1, 0.02,
    0.004, 0.0008 for the weights and 0.02, 0.02, 0.004, 0.0008 for the points, whose group starts at lr * gamma.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        milestones: Sequence[float],
        gamma: float,
        manifold_skips_first_drop: bool = False,
        total_epochs: int,
        steps_per_epoch: int,
    ) -> None:
        if not 0 < gamma <= 1:
            raise ValueError(f"schedule.gamma={gamma} must be in (0, 1]")
        if not milestones:
            raise ValueError("schedule.milestones must not be empty; schedule.name=constant keeps the rates")
        self.milestones = [_position("milestones", m, total_epochs, steps_per_epoch) for m in milestones]
        if self.milestones != sorted(self.milestones):
            raise ValueError(f"schedule.milestones={list(milestones)} must increase; in steps: {self.milestones}")
        self.gamma, self.manifold_skips_first_drop = float(gamma), manifold_skips_first_drop
        super().__init__(optimizer)

    def factor(self, step: int, group: str | None) -> float:
        drops = bisect_right(self.milestones, step)
        if group == "manifold" and self.manifold_skips_first_drop:
            drops = max(0, drops - 1)
        return float(self.gamma**drops)


class Step(Schedule):
    """Multiply by gamma every so many epochs (`every`, or a fraction of the run), as HIER and Proxy-Anchor train."""

    def __init__(
        self, optimizer: Optimizer, *, every: float, gamma: float, total_epochs: int, steps_per_epoch: int
    ) -> None:
        if not 0 < gamma <= 1:
            raise ValueError(f"schedule.gamma={gamma} must be in (0, 1]")
        self.every, self.gamma = _position("every", every, total_epochs, steps_per_epoch), float(gamma)
        super().__init__(optimizer)

    def factor(self, step: int, group: str | None) -> float:
        return float(self.gamma ** (step // self.every))


class Cosine(Schedule):
    """A linear rise over the warm-up, then half a cosine down to `final` of the initial rates.

    warmup: fraction of the run, or epochs; 0 for none. final: in [0, 1].
    """

    def __init__(
        self, optimizer: Optimizer, *, warmup: float = 0.0, final: float = 0.0, total_epochs: int, steps_per_epoch: int
    ) -> None:
        if not 0 <= final <= 1:
            raise ValueError(f"schedule.final={final} must be in [0, 1]")
        self.total = total_epochs * steps_per_epoch
        self.warmup = _position("warmup", warmup, total_epochs, steps_per_epoch) if warmup else 0
        if warmup >= 1 and self.warmup >= self.total:
            raise ValueError(f"schedule.warmup={warmup} must be shorter than the run of {total_epochs} epochs")
        self.final = float(final)
        super().__init__(optimizer)

    def factor(self, step: int, group: str | None) -> float:
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        share = min(1.0, (step - self.warmup) / max(1, self.total - self.warmup))
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * share)) / 2


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": Constant,
    "step": Step,
    "multistep": MultiStep,
    "cosine": Cosine,
}


def _position(name: str, value: float, total_epochs: int, steps_per_epoch: int) -> int:
    """A fraction of the run or a number of epochs in steps, rounded up: no milestone comes before its time."""
    if value <= 0:
        raise ValueError(f"schedule.{name}={value} must be > 0: a fraction of the run below 1, or epochs from 1 on")
    epochs = value * total_epochs if value < 1 else value
    return math.ceil(round(epochs * steps_per_epoch, 6))


def build_schedule(
    optimizer: Optimizer, settings: Mapping[str, Any], *, total_epochs: int, steps_per_epoch: int = 1
) -> Schedule:
    """The schedule of a config: {'name': 'multistep', 'milestones': [0.3, 0.6, 0.8], 'gamma': 0.2, ...}.

    Every schedule takes `hold`: names of groups with the epochs (or fraction of the run) for which their rate is 0 at
    the beginning, {'backbone': 1} for one epoch in which only the other groups learn.
    total_epochs, steps_per_epoch: >= 1; the second is the number of times `step()` is called per epoch. Raises a
    ValueError for an unknown name or key, with the nearest valid one, and for a value out of range.
    """
    for name, value in (("total_epochs", total_epochs), ("steps_per_epoch", steps_per_epoch)):
        if value < 1:
            raise ValueError(f"{name}={value} must be >= 1")
    given = {key: value for key, value in settings.items() if key not in ("name", "hold")}
    kind = SCHEDULES[_known("schedule.name", settings.get("name"), list(SCHEDULES))]
    parameters = inspect.signature(kind).parameters
    allowed = {key: p for key, p in parameters.items() if key not in ("optimizer", "total_epochs", "steps_per_epoch")}
    for key in given:
        _known(f"key of schedule.name={settings['name']}", key, list(allowed))
    missing = [key for key, p in allowed.items() if p.default is p.empty and key not in given]
    if missing:
        raise ValueError(f"schedule.name={settings['name']} needs {', '.join(f'schedule.{key}' for key in missing)}")
    schedule = kind(optimizer, **given, total_epochs=total_epochs, steps_per_epoch=steps_per_epoch)
    held = settings.get("hold") or {}
    names = [name for name in schedule.group_names if name]
    steps = {
        _known("group in schedule.hold", name, names): _position(f"hold.{name}", epochs, total_epochs, steps_per_epoch)
        for name, epochs in held.items()
    }
    if steps:
        schedule.hold(steps)
    return schedule


def _known(what: str, value: object, allowed: list[str]) -> str:
    if isinstance(value, str) and value in allowed:
        return value
    nearest = difflib.get_close_matches(value, allowed, n=1) if isinstance(value, str) else []
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    raise ValueError(f"{what}: {value!r} is unknown; {hint}choose from {', '.join(allowed) or 'none'}")

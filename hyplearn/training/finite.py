"""Finds what of a training is not finite: weights, state of the optimizer, gradient scale, metrics of an epoch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

SCALER = "MixedPrecision"  # where Lightning keeps the state of the gradient scaler in a checkpoint
NAMED = 4  # tensors that a message names; a report names all


def all_finite(values: Iterable[Tensor]) -> bool:
    """Whether all numbers of all tensors are finite. Waits for the device once, however many tensors there are."""
    there = [value.detach() for value in values if _holds_numbers(value)]
    return not there or math.isfinite(torch.nn.utils.get_total_norm(there, norm_type=math.inf).item())


def non_finite(values: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the tensors that hold a number that is not finite. Waits once where there is none."""
    if all_finite(values.values()):
        return []
    return [name for name, value in values.items() if _holds_numbers(value) and not value.isfinite().all()]


def tensors(state: object, name: str) -> Iterator[tuple[str, Tensor]]:
    """Every tensor and number of a nested state, with where it stands: `optimizer.state.0.exp_avg`."""
    if isinstance(state, Tensor):
        yield name, state
    elif isinstance(state, float):
        yield name, torch.tensor(state, dtype=torch.float64)
    elif isinstance(state, Mapping):
        for key, value in state.items():
            yield from tensors(value, f"{name}.{key}" if name else str(key))
    elif isinstance(state, (list, tuple)):
        for index, value in enumerate(state):
            yield from tensors(value, f"{name}.{index}" if name else str(index))


def non_finite_in(checkpoint: Mapping[str, Any]) -> list[str]:
    """Return the names of what is not finite in the content of a checkpoint file.

    Options of the optimizer and the states of callbacks may mean something by inf.
    """
    optimizers = [one.get("state", {}) for one in checkpoint.get("optimizer_states", [])]
    trained = {"optimizer state": optimizers, "gradient scaler": checkpoint.get(SCALER, {})}
    return non_finite({**dict(tensors(checkpoint.get("state_dict", {}), "")), **dict(tensors(trained, ""))})


def non_finite_training(module: nn.Module, optimizers: Iterable[Optimizer], scale: float | None) -> list[str]:
    """Return the names of weights, buffers and numbers of the optimizers, and of the gradient scale, not finite."""
    values = dict(tensors(module.state_dict(), ""))
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    for optimizer in optimizers:
        for parameter, state in optimizer.state.items():
            values |= dict(tensors(state, f"optimizer state of {names.get(id(parameter), 'a parameter')}"))
    if scale is not None:
        values["gradient scale"] = torch.tensor(scale, dtype=torch.float64)
    return non_finite(values)


def not_finite(numbers: Mapping[str, float]) -> list[str]:
    """Return the names of training, validation and test metrics that are not finite."""
    measured = ("train/", "val/", "test/")
    return [name for name, value in numbers.items() if name.startswith(measured) and not math.isfinite(value)]


def named(names: list[str]) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _holds_numbers(value: Tensor) -> bool:
    return value.numel() > 0 and (value.is_floating_point() or value.is_complex())

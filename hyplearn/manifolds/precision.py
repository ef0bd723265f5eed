"""Where tensors enter the geometry: autocast off, half precision promoted."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from hyplearn.geometry.lorentz import X_T_MAX

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
Value = TypeVar("Value")


def x_t_max_trained_in(precision: str) -> float:
    """Return the largest time of a model that is trained in a precision (32, 64, bf16, fp16; Bdeir Section 3.2).

    In the 16-bit ones the geometry computes in float32.
    """
    return X_T_MAX[torch.float64 if precision == "64" else torch.float32]


def promote(value: Value) -> Value:
    """float16 and bfloat16 tensors as float32; float32, float64 and everything else as it is."""
    if isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16):
        return value.float()  # type: ignore[return-value]
    return value


def full_precision(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Run a function of tensors outside autocast, in float32 or better: float16 holds neither sinh nor x_t^2 - |x|^2.

    The device of the first tensor argument decides which autocast is switched off.
    """

    @functools.wraps(function)
    def wrapped(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        device = next((v.device.type for v in (*args, *kwargs.values()) if isinstance(v, Tensor)), "cpu")
        args, kwargs = tuple(map(promote, args)), {k: promote(v) for k, v in kwargs.items()}  # type: ignore[assignment]
        if device == "meta" or not torch.is_autocast_enabled(device):
            return function(*args, **kwargs)
        with torch.autocast(device, enabled=False):
            return function(*args, **kwargs)

    return wrapped

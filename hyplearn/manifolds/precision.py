"""Where tensors enter the geometry: autocast off, half precision promoted."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from hyplearn.geometry.lorentz import X_T_MAX
from hyplearn.geometry.numerics import common_type

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


def _of_one_type(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments with all floating tensors in one type, float32 or wider."""
    found = [v for v in (*args, *kwargs.values()) if isinstance(v, Tensor) and v.is_floating_point()]
    if not found or {v.dtype for v in found} in ({torch.float32}, {torch.float64}):
        return args, kwargs
    dtype = torch.promote_types(common_type(found), torch.float32)

    def cast(value: Any) -> Any:
        return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value

    return tuple(map(cast, args)), {name: cast(value) for name, value in kwargs.items()}


def full_precision(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Run a function of tensors outside autocast, in float32 or better: float16 holds neither sinh nor x_t^2 - |x|^2.

    Floating tensors of several types are taken in the widest of them.
    The device of the first tensor argument decides which autocast is switched off.
    """

    @functools.wraps(function)
    def wrapped(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        device = next((v.device.type for v in (*args, *kwargs.values()) if isinstance(v, Tensor)), "cpu")
        args, kwargs = _of_one_type(args, kwargs)  # type: ignore[assignment]
        if device == "meta" or not torch.is_autocast_enabled(device):
            return function(*args, **kwargs)
        with torch.autocast(device, enabled=False):
            return function(*args, **kwargs)

    return wrapped

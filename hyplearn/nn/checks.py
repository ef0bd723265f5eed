"""Checks of constructor arguments, and of the types of weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

HALF = (torch.float16, torch.bfloat16)
ADVICE = (
    "keep the model in float32, as model.float() makes it, and compute in half precision by trainer.precision=bf16 or "
    "under torch.autocast"
)


def positive(name: str, value: int) -> None:
    """Raise a ValueError unless value is an integer >= 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}={value!r} must be an integer >= 1")


def any_image(x: Tensor, *, synchronized: bool) -> None:
    """Raise a ValueError if statistics are to be those of a batch without images, and of no other process."""
    if not len(x) and not synchronized:
        raise ValueError(f"x of shape {tuple(x.shape)} has no image: a batch norm that trains needs some")


def in_full_precision(layer: nn.Module, weight: Tensor) -> None:
    """Raise a ValueError if a weight of a layer that computes with it in float32 was made half precision."""
    if weight.dtype in HALF:
        raise ValueError(
            f"the weights of {type(layer).__name__} are {weight.dtype}, too coarse for hyperbolic space: {ADVICE}"
        )


def of_one_type(layer: nn.Module, weight: Tensor, x: Tensor) -> None:
    """Raise a ValueError if a layer's input has another type than its weight, outside of autocast."""
    if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
        half = x.dtype in HALF or weight.dtype in HALF
        raise ValueError(
            f"x is {x.dtype}, the weights of {type(layer).__name__} are {weight.dtype}: "
            + (ADVICE if half else "give both one type, for example by model.double()")
        )

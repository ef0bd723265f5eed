"""Models as their configuration builds them."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from hyplearn.config import build
from hyplearn.config.compose import compose
from hyplearn.config.folders import config_dir, groups
from hyplearn.models import ResNet

ALL = groups([config_dir()])["model"]
RETRIEVAL = [name for name in ALL if name.partition("_")[0] in ("sph", "hyp", "mix", "hier", "lhier")]
NAMES = [name for name in ALL if name not in RETRIEVAL]


@functools.cache
def _config(overrides: tuple[str, ...]) -> dict[str, Any]:
    return compose(list(overrides)).config


def model_of(name: str, *overrides: str, image_size: int = 8, in_channels: int = 3, width: int = 8) -> ResNet:
    """`model=name` with overrides, for images of 10 classes; the same weights every time."""
    torch.manual_seed(0)
    config = _config((f"model={name}", f"model.width={width}", *overrides))
    facts = {"in_channels": in_channels, "num_classes": 10, "image_size": image_size}
    model = build.model(config, facts)
    assert isinstance(model, ResNet)
    return model.to(memory_format=torch.channels_last)


def images(count: int = 4, *, size: int = 8, channels: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(seed))

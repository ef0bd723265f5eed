"""Crops of images of any size, for `train_transform` and `eval_transform`. Random numbers come from torch's stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import RandomResizedCrop
from torchvision.transforms.v2 import functional as tv

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]

UNKNOWN = "{}=null is that of the weights of a backbone, and this model names none: set it"


@dataclass(frozen=True, kw_only=True)
class RandomCrop:
    """A window of random place, area and shape, resized to `size` x `size`.

    scale: its area, least and largest, as a part of the image's. ratio: its width by its height, least and largest.
    interpolation: null in a configuration for that of the backbone's weights.
    """

    size: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: Interpolation | None = "bilinear"

    def __post_init__(self) -> None:
        _check(self.size, self.interpolation)
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale is the least and the largest part of the area, in (0, 1], got {list(self.scale)}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio is the least and the largest width by height, > 0, got {list(self.ratio)}")

    def __call__(self, image: Image.Image) -> Image.Image:
        top, left, height, width = RandomResizedCrop(self.size, self.scale, self.ratio).make_params([image]).values()
        mode = InterpolationMode(self.interpolation)
        return tv.resized_crop(image, top, left, height, width, [self.size] * 2, mode)  # type: ignore[no-any-return]


@dataclass(frozen=True, kw_only=True)
class CenterCrop:
    """The shorter side resized to `resize`, then the `size` x `size` centre. Nothing is stretched.

    resize, interpolation: null in a configuration for what belongs to the backbone's weights.
    """

    resize: int | None
    size: int
    interpolation: Interpolation | None = "bilinear"

    def __post_init__(self) -> None:
        _check(self.size, self.interpolation)
        if self.resize is None:
            raise ValueError(UNKNOWN.format("resize"))
        if self.resize < self.size:
            raise ValueError(f"resize={self.resize} is smaller than the crop, size={self.size}: raise resize")

    def __call__(self, image: Image.Image) -> Image.Image:
        assert self.resize is not None
        resized = tv.resize(image, [self.resize], InterpolationMode(self.interpolation))
        return tv.center_crop(resized, [self.size])  # type: ignore[no-any-return]


def _check(size: int, interpolation: str | None) -> None:
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    if interpolation is None:
        raise ValueError(UNKNOWN.format("interpolation"))
    if interpolation not in ("nearest", "bilinear", "bicubic", "lanczos"):
        raise ValueError(f"interpolation must be nearest, bilinear, bicubic or lanczos, got {interpolation!r}")

"""Augmentation and normalisation of whole batches on the device.

The random numbers are drawn on the CPU from a generator of the batch's own and travel with the images, so a batch looks
the same on any device and in a resumed run. The distribution is that of torchvision's RandomCrop and
RandomHorizontalFlip; a test compares the pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

LARGE = 2**14  # values of an image from which on, on a CPU, one by one is ten times faster than all by a mask


def crop(images: Tensor, offsets: Tensor, *, padding: int) -> Tensor:
    """Windows of the images' own size out of images with `padding` black pixels on each side.

    images: (B, C, H, W) in channels_last. offsets: (B, 2), rows and columns in [0, 2 padding].
    """
    _, _, height, width = images.shape
    padded = F.pad(images.permute(0, 2, 3, 1), (0, 0, padding, padding, padding, padding))
    windows = padded.unfold(1, height, 1).unfold(2, width, 1)  # (B, rows, columns, C, H, W), a view
    chosen = windows.permute(0, 1, 2, 4, 5, 3)[
        torch.arange(len(images), device=images.device), offsets[:, 0], offsets[:, 1]
    ]
    return chosen.permute(0, 3, 1, 2)


def flip(images: Tensor, chosen: Tensor) -> Tensor:
    """Mirror left and right the images (B, C, H, W) where `chosen` (B,) is true."""
    if images.device.type == "cpu" and images.shape[1:].numel() >= LARGE:
        flipped = torch.empty_like(images)
        for image, mirrored, source in zip(flipped, chosen.tolist(), images, strict=True):
            image.copy_(source.flip(-1) if mirrored else source)
        return flipped
    return torch.where(chosen[:, None, None, None], images.flip(-1), images)


def affine(images: Tensor, *, degrees: Tensor, scale: Tensor | None = None, position: Tensor | None = None) -> Tensor:
    """Turn images about the centre of a square window and enlarge it to the whole image: bilinear, black outside.

    images: (B, C, H, W) uint8. degrees: (B,), counter-clockwise. scale: (B,), sides of the windows as parts of the
    image's, None for the whole. position: (B, 2) in [0, 1], where the windows are between top and bottom, left and
    right. Returns (B, C, H, W) uint8 in channels_last.
    """
    height, width = images.shape[-2:]
    angle = degrees.to(torch.float32).deg2rad()
    sin, cos, zero = angle.sin(), angle.cos(), torch.zeros_like(angle)
    size = torch.ones_like(angle) if scale is None else scale
    row, column = (zero, zero) if position is None else ((1 - size) * (2 * position - 1).mT).unbind()
    # Coordinates of grid_sample run from -1 to 1 along each side, whatever its length.
    matrix = torch.stack(
        [size * cos, -size * sin * (height / width), column, size * sin * (width / height), size * cos, row], dim=1
    )
    grid = F.affine_grid(matrix.view(-1, 2, 3), list(images.shape), align_corners=False)
    pixels = F.grid_sample(images.to(torch.float32), grid, padding_mode="zeros", align_corners=False)
    return pixels.round_().to(torch.uint8).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Rotated and resized window of the image, random crop of the padded image, then a horizontal flip.

    crop_padding: black pixels added on each side, 0 for no crop. horizontal_flip: probability in [0, 1].
    rotation: degrees, the angle is uniform in +- rotation. resized_crop: the least and largest part of the image's area
    that a square window takes, in (0, 1]; None for the whole image.
    """

    crop_padding: int = 0
    horizontal_flip: float = 0.0
    rotation: float = 0.0
    resized_crop: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.crop_padding < 0:
            raise ValueError(f"crop_padding must be at least 0, got {self.crop_padding}")
        if not 0 <= self.horizontal_flip <= 1:
            raise ValueError(f"horizontal_flip is a probability in [0, 1], got {self.horizontal_flip}")
        if not 0 <= self.rotation <= 180:
            raise ValueError(f"rotation must be from 0 to 180 degrees, got {self.rotation}")
        if self.resized_crop is not None and not 0 < self.resized_crop[0] <= self.resized_crop[1] <= 1:
            raise ValueError(
                f"resized_crop is the least and the largest part of the area, 0 < least <= largest <= 1, or null, "
                f"got {list(self.resized_crop)}"
            )

    @property
    def _resamples(self) -> bool:
        return self.rotation > 0 or self.resized_crop is not None

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """(count, 3) int64: row offset, column offset, 1 to flip.

        With `rotation` or `resized_crop` (count, 7) float32, then degrees, side of the window, and its place (2).
        """
        offsets = torch.randint(2 * self.crop_padding + 1, (count, 2), generator=generator)
        flips = torch.rand(count, 1, generator=generator) < self.horizontal_flip
        draws = torch.cat([offsets, flips.long()], dim=1)
        if not self._resamples:
            return draws
        least, largest = self.resized_crop or (1.0, 1.0)
        uniform = torch.rand(count, 4, generator=generator)
        degrees = (2 * uniform[:, :1] - 1) * self.rotation
        side = (least + (largest - least) * uniform[:, 1:2]).sqrt()
        return torch.cat([draws.to(torch.float32), degrees, side, uniform[:, 2:]], dim=1)

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """Apply `draws` of `draw` to the images (B, C, H, W)."""
        if self._resamples:
            images = affine(images, degrees=draws[:, 3], scale=draws[:, 4], position=draws[:, 5:7])
        if self.crop_padding:
            images = crop(images, draws[:, :2].long(), padding=self.crop_padding)
        if self.horizontal_flip:
            images = flip(images, draws[:, 2].bool())
        return images


class Normalization:
    """uint8 pixels to (pixel / 255 - mean) / std in float32, in the order of torchvision's ToTensor and Normalize.

    mean, std: one value, or one per channel, in units of the full range (0.5, not 127).
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        if len(mean) != len(std) or not mean:
            raise ValueError(f"mean and std need equally many values, got {list(mean)} and {list(std)}")
        if min(std) <= 0:
            raise ValueError(f"std must be positive, got {list(std)}")
        self.mean = torch.tensor(mean, dtype=torch.float32)[:, None, None]
        self.std = torch.tensor(std, dtype=torch.float32)[:, None, None]

    def __len__(self) -> int:
        return len(self.mean)

    def __call__(self, images: Tensor) -> Tensor:
        """(B, C, H, W) uint8 to float32 of the same memory format."""
        if self.mean.device != images.device:  # once: a copy for every batch would wait for the device
            self.mean, self.std = self.mean.to(images.device), self.std.to(images.device)
        mean, std = self.mean, self.std
        pixels = images.to(torch.float32)
        rows = pixels.permute(0, 2, 3, 1)
        if images.device.type == "cpu" and rows.is_contiguous():
            # Whole rows of pixels against rows of statistics: the same arithmetic, in loops that are not three long.
            width = rows.shape[2]
            mean, std = (self._of_row(values, rows.shape[3], width) for values in (mean, std))
            rows.flatten(2).div_(255).sub_(mean).div_(std)
            return pixels
        return pixels.div_(255).sub_(mean).div_(std)

    @staticmethod
    def _of_row(values: Tensor, channels: int, width: int) -> Tensor:
        """(width * channels,), the statistics of the values of a row in channels_last."""
        return values.flatten().expand(channels).repeat(width)

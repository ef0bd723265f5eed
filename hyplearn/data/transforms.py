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
    return torch.where(chosen[:, None, None, None], images.flip(-1), images)


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random crop of the padded image, then a horizontal flip.

    crop_padding: black pixels added on each side, 0 for no crop. horizontal_flip: probability in [0, 1].
    """

    crop_padding: int = 0
    horizontal_flip: float = 0.0

    def __post_init__(self) -> None:
        if self.crop_padding < 0:
            raise ValueError(f"crop_padding must be at least 0, got {self.crop_padding}")
        if not 0 <= self.horizontal_flip <= 1:
            raise ValueError(f"horizontal_flip is a probability in [0, 1], got {self.horizontal_flip}")

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """(count, 3) int64: row offset, column offset, 1 to flip."""
        offsets = torch.randint(2 * self.crop_padding + 1, (count, 2), generator=generator)
        flips = torch.rand(count, 1, generator=generator) < self.horizontal_flip
        return torch.cat([offsets, flips.long()], dim=1)

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """Apply `draws` (B, 3) to the images (B, C, H, W)."""
        if self.crop_padding:
            images = crop(images, draws[:, :2], padding=self.crop_padding)
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
        return images.to(torch.float32).div_(255).sub_(self.mean).div_(self.std)

"""A data set: shapes that are drawn, so that it needs no files."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from hyplearn.data.reading.images import ImageArrays
from hyplearn.data.sources.base import ImageSource
from hyplearn.data.sources.source import Facts

SHAPES = ("disc", "ring", "square", "cross")


class Shapes(ImageSource):
    """Images of one shape each, of any size at any place, in noise. noise: its standard deviation, of 255."""

    def __init__(
        self, *, image_size: int = 16, train_size: int = 400, test_size: int = 200, noise: float = 30.0, seed: int = 0
    ) -> None:
        self.image_size, self.noise, self.seed = image_size, noise, seed
        self.train_size, self.test_size = train_size, test_size

    def facts(self, root: Path | None) -> Facts:
        """Tell channels, classes, side and names of the classes, before anything is drawn."""
        return Facts(in_channels=1, num_classes=len(SHAPES), image_size=self.image_size, class_names=SHAPES)

    def train(self, root: Path | None) -> ImageArrays:
        """Draw the training images; a part of them validates, see dataset.val_fraction."""
        return self._drawn(self.train_size, seed=2 * self.seed)

    def test(self, root: Path | None) -> ImageArrays:
        """Draw the test images."""
        return self._drawn(self.test_size, seed=2 * self.seed + 1)

    def _drawn(self, count: int, *, seed: int) -> ImageArrays:
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(count) % len(SHAPES)
        radii = (0.15 + 0.15 * torch.rand(count, generator=generator)) * self.image_size
        centres = self.image_size * (0.3 + 0.4 * torch.rand(count, 2, generator=generator))
        images = torch.stack([self._inside(*one) for one in zip(labels.tolist(), radii, centres, strict=True)])
        noisy = 200.0 * images + self.noise * torch.randn(images.shape, generator=generator) + 25
        return ImageArrays(noisy.clamp(0, 255).to(torch.uint8)[..., None], labels)

    def _inside(self, label: int, radius: Tensor, centre: Tensor) -> Tensor:
        """Return which pixels (H, W) a shape covers."""
        places = torch.arange(self.image_size) + 0.5
        y, x = (places - centre[0]).abs()[:, None], (places - centre[1]).abs()[None, :]
        r = (x.square() + y.square()).sqrt()
        covered = {
            "disc": r <= radius,
            "ring": (r <= radius) & (r >= 0.6 * radius),
            "square": torch.maximum(x, y) <= 0.9 * radius,
            "cross": (torch.minimum(x, y) <= 0.3 * radius) & (torch.maximum(x, y) <= radius),
        }
        return covered[SHAPES[label]]

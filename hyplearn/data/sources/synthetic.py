"""Images made of nothing: a smooth pattern for each class, and noise. For benchmarks and tests of configurations."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from hyplearn.data.randomness import generator
from hyplearn.data.reading.images import ImageArrays
from hyplearn.data.sources.source import Facts, unneeded


class Synthetic:
    """`num_classes` random patterns of `image_size` x `image_size` pixels, each seen through noise.

    noise: standard deviation in units of the full range; 0.2 is easy, 1 is hard. Always the same data for one `seed`.
    """

    name = "synthetic"
    in_files = False

    def __init__(
        self,
        *,
        in_channels: int = 3,
        num_classes: int = 10,
        image_size: int = 32,
        train_size: int = 1000,
        test_size: int = 200,
        noise: float = 0.2,
        seed: int = 0,
    ) -> None:
        sizes = {"in_channels": in_channels, "image_size": image_size, "train_size": train_size, "test_size": test_size}
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if num_classes < 2 or noise < 0:
            raise ValueError(f"need num_classes of at least 2 and noise of at least 0, got {num_classes} and {noise}")
        self.in_channels, self.num_classes, self.image_size = in_channels, num_classes, image_size
        self.train_size, self.test_size, self.noise, self.seed = train_size, test_size, noise, seed

    def facts(self, root: Path | None) -> Facts:
        unneeded(root, self.name)
        names = tuple(f"pattern {number}" for number in range(self.num_classes))
        return Facts(self.in_channels, self.num_classes, self.image_size, names)

    def prepare(self, root: Path | None) -> None:
        unneeded(root, self.name)

    def train(self, root: Path | None) -> ImageArrays:
        return self._make("train", self.train_size)

    def validation(self, root: Path | None) -> None:
        return None

    def test(self, root: Path | None) -> ImageArrays:
        return self._make("test", self.test_size)

    def _patterns(self) -> Tensor:
        coarse = torch.rand(self.num_classes, self.in_channels, 4, 4, generator=generator(self.seed, "patterns"))
        return F.interpolate(coarse, size=[self.image_size] * 2, mode="bilinear", align_corners=True)

    def _make(self, part: str, size: int) -> ImageArrays:
        labels = torch.arange(size) % self.num_classes
        pixels = torch.empty(size, self.image_size, self.image_size, self.in_channels, dtype=torch.uint8)
        patterns = self._patterns().permute(0, 2, 3, 1)
        noise = generator(self.seed, "noise", part)
        for chunk in torch.arange(size).split(1024):  # the noise of all images at once would take four times the memory
            shape = (len(chunk), *pixels.shape[1:])
            values = patterns[labels[chunk]] + self.noise * torch.randn(shape, generator=noise)
            pixels[chunk] = values.clamp(0, 1).mul(255).round().to(torch.uint8)
        return ImageArrays(pixels, labels)

"""Images in memory: one uint8 array, batches by index."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from hyplearn.data.errors import DatasetError


class Images(Protocol):
    """Images ready for batches, all of one size and number of channels."""

    @property
    def labels(self) -> Tensor: ...

    def batches(self, order: Sequence[Tensor], *, epoch: int) -> Iterator[Tensor]:
        """Yield for each tensor of ids its images (B, C, H, W), uint8, channels_last."""
        ...

    def batches_of_pass(self, order: Sequence[Tensor], *, epoch: int, pin_memory: bool = False) -> Iterator[Tensor]:
        """Yield the same batches with what may be kept from pass to pass, until `close`."""
        ...

    def close(self) -> None:
        """End what was kept."""
        ...

    def for_evaluation(self) -> Images:
        """Return the same images as evaluation sees them."""
        ...


@dataclass(frozen=True)
class ImageArrays:
    """Images in memory.

    pixels: (N, H, W, C) uint8, the layout in which a batch of rows is a channels_last batch. labels: (N,) int64.
    """

    pixels: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.pixels.ndim != 4 or self.pixels.dtype != torch.uint8 or len(self.pixels) != len(self.labels):
            raise ValueError(
                f"need pixels (N, H, W, C) uint8 and N labels, got {tuple(self.pixels.shape)} {self.pixels.dtype} "
                f"and {len(self.labels)} labels"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def sha256(self) -> str:
        """Hash of shape, pixels and labels."""
        digest = hashlib.sha256(repr(tuple(self.pixels.shape)).encode())
        digest.update(self.pixels.contiguous().numpy().data)
        digest.update(self.labels.contiguous().numpy().data)
        return digest.hexdigest()

    def select(self, ids: Tensor) -> ImageArrays:
        return ImageArrays(self.pixels[ids], self.labels[ids])

    def converted(self, *, channels: int, size: int) -> ImageArrays:
        """Return the images with 1 or 3 channels and `size` x `size` pixels (antialiased).

        Grey is repeated, colour becomes its luma.
        """
        chunks = [_convert(chunk, channels, size) for chunk in self.pixels.split(1024)]
        return ImageArrays(torch.cat(chunks), self.labels)

    def batches(self, order: Sequence[Tensor], *, epoch: int) -> Iterator[Tensor]:
        for ids in order:
            yield self.pixels.index_select(0, ids).permute(0, 3, 1, 2)

    def batches_of_pass(self, order: Sequence[Tensor], *, epoch: int, pin_memory: bool = False) -> Iterator[Tensor]:
        """Yield the batches of `batches`; the loader pins them with the rest."""
        return self.batches(order, epoch=epoch)

    def close(self) -> None:
        """Do nothing: nothing is kept but the images."""

    def for_evaluation(self) -> ImageArrays:
        return self


def _convert(pixels: Tensor, channels: int, size: int) -> Tensor:
    images = pixels.permute(0, 3, 1, 2)
    if images.shape[1] not in (channels, 1, 3):
        raise DatasetError(f"images of {images.shape[1]} channels cannot become images of {channels}")
    if images.shape[1] != channels:
        images = images.expand(-1, 3, -1, -1) if channels == 3 else tv.rgb_to_grayscale(images)
    if images.shape[-2:] != (size, size):
        images = tv.resize(images, [size, size], antialias=True)
    return images.permute(0, 2, 3, 1).contiguous()

"""From a place to a picture, and from a picture to the pixels of a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from hyplearn.data.reading.decoding import Decoding, decode, decode_to_tensor, to_pixels
from hyplearn.data.reading.places import Place, shown

Picture: TypeAlias = Image.Image | Tensor
"""Of any size: a Pillow image, or a tensor (C, H, W) uint8."""

Transform = Callable[[Picture], Picture]


class Pictures(Protocol):
    """N pictures by index, before they are cropped. Crosses to worker processes."""

    def __len__(self) -> int: ...

    def picture(self, index: int) -> Picture: ...

    def path(self, index: int) -> Path:
        """Return the path that messages name the picture by."""
        ...


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """File to pixels (size, size, channels).

    by: what decodes it, and whether the transform is given a Pillow image or a tensor. shorter_side: pictures whose
    shorter side is longer are resized to it first; None for none.
    """

    channels: int
    size: int
    transform: Transform
    by: Decoding = "pillow"
    shorter_side: int | None = None

    def __call__(self, place: Place) -> Tensor:
        return self.transformed(self.picture(place), shown(place))

    def picture(self, place: Place) -> Picture:
        """Return the whole picture. Raises BadImageError."""
        picture: Picture
        if self.by == "torchvision":
            picture = decode_to_tensor(place, channels=self.channels)
        else:
            picture = decode(place, channels=self.channels)
        if self.shorter_side is not None and min(tv.get_size(picture)) > self.shorter_side:
            picture = tv.resize(picture, [self.shorter_side], InterpolationMode.BICUBIC, antialias=True)
        return picture

    def transformed(self, picture: Picture, path: Path) -> Tensor:
        """Return the pixels of a batch; `path` is for the message of a transform that makes another size."""
        return to_pixels(self.transform(picture), path, channels=self.channels, size=self.size)


@dataclass(frozen=True)
class DecodedPictures:
    """Pictures that are decoded whenever they are asked for."""

    places: tuple[Place, ...]
    decoder: Decoder

    def __len__(self) -> int:
        return len(self.places)

    def picture(self, index: int) -> Picture:
        return self.decoder.picture(self.places[index])

    def path(self, index: int) -> Path:
        return shown(self.places[index])

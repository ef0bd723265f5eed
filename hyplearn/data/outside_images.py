"""Images from outside of a data set, seen as the data set's own test images are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from hyplearn.data.datamodule import ImageDataModule
from hyplearn.data.errors import BadImageError, DatasetError
from hyplearn.data.reading.decoding import SUFFIXES, decode, for_each_file, usable_cpus
from hyplearn.data.reading.images import ImageArrays
from hyplearn.data.sources.folder import visible_files

ToPixels = Callable[[Path], Tensor]


class Found(NamedTuple):
    """Image files. names: relative to the folder, or as they were typed. others: files that are no images by name."""

    paths: tuple[Path, ...]
    names: tuple[str, ...]
    others: tuple[Path, ...]


class Labels(NamedTuple):
    """labels: (N,) int64, positions in `names`. in_folders: how many images lie in a folder, which is their class."""

    labels: Tensor
    names: tuple[str, ...]
    in_folders: int


class Chunk(NamedTuple):
    """positions: (n,) of the files that could be read. pixels: (n, H, W, C) uint8. bad: those that could not."""

    positions: Tensor
    pixels: Tensor
    bad: tuple[BadImageError, ...]


def find_images(places: Sequence[Path]) -> Found:
    """The images in folders, at any depth, and the files named themselves. Raises DatasetError if there is none."""
    paths: list[Path] = []
    names: list[str] = []
    others: list[Path] = []
    for place in places:
        if not place.exists():
            raise DatasetError(f"{place} does not exist: name a folder of images, or image files")
        found = visible_files(place) if place.is_dir() else [place]
        images = [path for path in found if path.suffix.lower() in SUFFIXES or not place.is_dir()]
        others += [path for path in found if path.suffix.lower() not in SUFFIXES and place.is_dir()]
        paths += images
        alone = place.is_dir() and len(places) == 1
        names += [path.relative_to(place).as_posix() if alone else path.as_posix() for path in images]
    if not paths:
        raise DatasetError(f"no image in {', '.join(map(str, places))}: looked for {', '.join(sorted(SUFFIXES))}")
    return Found(tuple(paths), tuple(names), tuple(others))


def class_folders(names: Sequence[str]) -> Labels:
    """Classes by the first folder of each name. An image in no folder is a class of its own, called by its name."""
    classes = [name.partition("/")[0] for name in names]
    known = sorted(set(classes))
    number = {name: label for label, name in enumerate(known)}
    return Labels(torch.tensor([number[name] for name in classes]), tuple(known), sum("/" in name for name in names))


@dataclass(frozen=True, kw_only=True)
class SquareDecoder:
    """File to pixels (size, size, channels) as a set in memory converts its own: the centred square, resized.

    native: channels of the set's images, before they are converted.
    """

    native: int
    channels: int
    size: int

    def __call__(self, path: Path) -> Tensor:
        image = decode(path, channels=self.native)
        square = tv.pil_to_tensor(tv.center_crop(image, [min(image.size)] * 2)).permute(1, 2, 0)
        arrays = ImageArrays(square[None], torch.zeros(1, dtype=torch.int64))
        return arrays.converted(channels=self.channels, size=self.size).pixels[0]


def decoder(data: ImageDataModule, *, channels: int, size: int) -> ToPixels:
    """Return a function that makes pixels (size, size, channels) of a file.

    channels, size: what the model was trained on.
    """
    if data.source.in_files:
        return data.reading.decoders(channels=channels, size=size)[1]
    return SquareDecoder(native=data.source.facts(data.root).in_channels, channels=channels, size=size)


def chunks(paths: Sequence[Path], to_pixels: ToPixels, *, size: int) -> Iterator[Chunk]:
    """`size` files at a time, decoded in threads; the next chunk is decoded while this one is used."""
    starts = range(0, len(paths), size)
    with ThreadPoolExecutor(1) as ahead:
        futures = (ahead.submit(_chunk, paths, start, size, to_pixels) for start in starts)
        waiting = next(futures)
        for following in futures:
            yield waiting.result()
            waiting = following
        yield waiting.result()


def _chunk(paths: Sequence[Path], start: int, size: int, to_pixels: ToPixels) -> Chunk:
    part = paths[start : start + size]
    pixels: dict[int, Tensor] = {}

    def work(index: int, path: Path) -> None:
        pixels[index] = to_pixels(path)

    bad = for_each_file(part, work, threads=min(usable_cpus(), 8))
    good = sorted(pixels)
    stacked = torch.stack([pixels[index] for index in good]) if good else torch.empty(0, 0, 0, 0, dtype=torch.uint8)
    return Chunk(torch.tensor(good, dtype=torch.int64) + start, stacked, tuple(bad.values()))

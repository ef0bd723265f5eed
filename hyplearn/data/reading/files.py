"""Images in files: in memory, in a cache on disk, or decoded anew for every batch by worker processes."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from hyplearn.data.errors import BadImageError, BadImagesError, DatasetError
from hyplearn.data.reading.checked import Checked
from hyplearn.data.reading.decoding import (
    Decoding,
    check_there,
    decode,
    for_each_file,
    resize_and_center_crop,
    usable_cpus,
)
from hyplearn.data.reading.disk_cache import DiskCache
from hyplearn.data.reading.images import ImageArrays, Images
from hyplearn.data.reading.pictures import DecodedPictures, Decoder, Pictures, Transform
from hyplearn.data.reading.places import Member, Place, shown, size_of
from hyplearn.data.reading.stream import ImageStream
from hyplearn.errors import one_of, require

log = logging.getLogger(__name__)

Cache = Literal["auto", "memory", "disk", "none"]
OnBadImage = Literal["error", "skip"]
MOST_WORKERS = 16  # of a process: each keeps batches in flight, which take memory


@dataclass(frozen=True)
class ImageFiles:
    """Images in files below `root`. paths: N, relative to it, in a fixed order. labels: (N,) int64.

    members: where the bytes lie if they are not files of their own but parts of shards, by path.
    """

    root: Path
    paths: tuple[str, ...]
    labels: Tensor
    members: tuple[Member, ...] | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def sha256(self) -> str:
        """Hash of relative paths, sizes in bytes (-1 where there is no file) and labels; the bytes are not read."""
        digest = hashlib.sha256()
        for path, place, label in zip(self.paths, self.places(), self.labels.tolist(), strict=True):
            line = f"{path}\0{size_of(place)}\0{label}\n"
            digest.update(line.encode(errors="surrogateescape"))
        return digest.hexdigest()

    def select(self, ids: Tensor) -> ImageFiles:
        chosen = ids.tolist()
        members = None if self.members is None else tuple(self.members[i] for i in chosen)
        return ImageFiles(self.root, tuple(self.paths[i] for i in chosen), self.labels[ids], members)

    def absolute(self) -> list[Path]:
        """Return the paths of the images, those in shards as if the shard was a folder."""
        return [shown(place) for place in self.places()]

    def places(self) -> Sequence[Place]:
        """Return where each image is read from."""
        return [self.root / path for path in self.paths] if self.members is None else self.members


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How image files are read.

    cache: "memory" decodes all files once before training. "none" decodes them for every batch. "disk" decodes them
    once into a file that later runs and all processes share (see `disk_cache`). "auto" is "memory" if the images fit in
    `memory_limit_gib` and the training transform is not random. All give the same pixels.
    cache_side: with cache=disk, pictures whose shorter side is longer are kept resized to it, which saves disk and time
    and changes the pixels. None keeps them as they are.
    cache_folder: of the file of cache=disk; None for .hyplearn_cache in the folder of the images.
    decoder: "pillow" hands Pillow images to the transforms. "torchvision" hands them tensors, which it decodes, crops
    and resizes faster; the pixels differ a little (see docs/howto/data.md), transforms for Pillow alone fail.
    num_workers: decoding threads or processes, None for one per CPU that this process need not share with the others
    of its machine, at most 16. The results do not depend on it.
    prefetch_factor: batches that each worker decodes ahead.
    on_bad_image: "error" stops with the list of all unusable files, "skip" leaves them out and reports them.
    check_images: decode every file before training even where it is not kept in memory, once for each state of a file
    (see `checked`). False saves that time: files are only looked for, and a bad one stops the run when its turn comes.
    train_transform, eval_transform: from PIL image to PIL image or uint8 tensor of the final size, for example a
    torchvision.transforms.v2.RandomResizedCrop; None resizes the shorter side and crops the centre. Random numbers
    that train_transform takes from torch are seeded by (seed, epoch, sample); eval_transform must need none.
    """

    cache: Cache = "auto"
    cache_side: int | None = None
    cache_folder: str | Path | None = None
    decoder: Decoding = "pillow"
    memory_limit_gib: float = 4.0
    num_workers: int | None = None
    prefetch_factor: int = 2
    on_bad_image: OnBadImage = "error"
    check_images: bool = True
    train_transform: Transform | None = None
    eval_transform: Transform | None = None

    def __post_init__(self) -> None:
        one_of("cache", self.cache, Cache)
        one_of("decoder", self.decoder, Decoding)
        one_of("on_bad_image", self.on_bad_image, OnBadImage)
        if self.num_workers is not None and self.num_workers < 0:
            raise ValueError(f"num_workers must be at least 0 or null (one per CPU), got {self.num_workers}")
        if self.memory_limit_gib < 0:
            raise ValueError(f"memory_limit_gib must be at least 0, got {self.memory_limit_gib}")
        require(self.prefetch_factor >= 1, "prefetch_factor", self.prefetch_factor, "at least 1")
        self._check_caching()

    def _check_caching(self) -> None:
        if self.on_bad_image == "skip" and not self.check_images:
            raise ValueError("on_bad_image=skip has to know the bad images beforehand: set check_images=true")
        if self.cache == "memory" and self.train_transform is not None:
            raise ValueError(
                "cache=memory keeps each image as it was decoded once, but train_transform changes it every epoch: "
                "set cache=none, cache=disk (or auto), or leave the transform out and use augmentation"
            )
        if self.cache == "disk":
            require(self.cache_folder != "", "cache_folder", self.cache_folder, "the path of a folder, or null")
            require(
                self.cache_side is None or self.cache_side >= 1, "cache_side", self.cache_side, "at least 1, or null"
            )
        elif self.cache_side is not None or self.cache_folder is not None:
            raise ValueError(
                f"cache_side={self.cache_side} and cache_folder={self.cache_folder} belong to cache=disk, got "
                f"cache={self.cache}: set both to null, or cache=disk"
            )

    def workers(self, processes: int = 1) -> int:
        """How many work for one of the `processes` that this machine runs for a run."""
        if self.num_workers is not None:
            return self.num_workers
        return min(max(usable_cpus() // processes, 1), MOST_WORKERS)

    def in_memory(self, nbytes: int) -> bool:
        if self.cache == "auto":
            return self.train_transform is None and nbytes <= self.memory_limit_gib * 2**30
        return self.cache == "memory"

    def decoders(self, *, channels: int, size: int) -> tuple[Decoder, Decoder]:
        """Return the ways from file to pixels (size, size, channels) for training and for evaluation."""
        default = partial(resize_and_center_crop, size=size)
        evaluation = self.eval_transform or default
        transforms = (self.train_transform or evaluation, evaluation)
        train, test = (
            Decoder(channels=channels, size=size, transform=transform, by=self.decoder, shorter_side=self.cache_side)
            for transform in transforms
        )
        return train, test


def read_files(
    files: ImageFiles, reading: Reading, *, channels: int, size: int, seed: int, processes: int = 1
) -> tuple[Images, tuple[str, ...]]:
    """The images ready for batches, and the relative paths of those left out.

    Decodes every file once (unless not `reading.check_images`), so that no bad one is met later. Raises BadImagesError
    with all of them, unless `reading.on_bad_image` is "skip". processes: of this run on this machine.
    """
    train, evaluation = reading.decoders(channels=channels, size=size)
    if reading.in_memory(len(files) * size * size * channels):
        log.info("decoding %d images below %s", len(files), files.root)
        pixels = torch.empty(len(files), size, size, channels, dtype=torch.uint8)
        good, skipped = _visit(files, reading, lambda index, place: pixels[index].copy_(evaluation(place)))
        return ImageArrays(pixels, files.labels).select(good) if skipped else ImageArrays(pixels, files.labels), skipped
    pictures: Pictures
    if reading.cache == "disk":
        files, skipped, pictures = _cached(files, reading, evaluation)
    else:
        good, skipped = check_files(files, reading, channels=channels)
        files = files.select(good) if skipped else files
        pictures = DecodedPictures(tuple(files.places()), evaluation)
    stream = ImageStream(
        pictures,
        files.labels,
        (train.transformed, evaluation.transformed),
        seed=seed,
        workers=reading.workers(processes),
        prefetch_factor=reading.prefetch_factor,
    )
    stream.check_transforms()
    return stream, skipped


def _cached(files: ImageFiles, reading: Reading, decoder: Decoder) -> tuple[ImageFiles, tuple[str, ...], DiskCache]:
    """The files that are kept, the paths of those left out, and the cache, which is built where it is missing."""
    folder = Path(reading.cache_folder or files.root / ".hyplearn_cache").expanduser()
    cache = DiskCache.of(files.places(), files.paths, decoder, folder)
    bad = cache.ensure(threads=max(reading.workers(), 1))
    good, skipped = _reported(files, reading, bad)
    return (files.select(good), skipped, cache.select(good)) if skipped else (files, skipped, cache)


def check_files(files: ImageFiles, reading: Reading, *, channels: int) -> tuple[Tensor, tuple[str, ...]]:
    """Indices of the good files and paths of the others. Raises BadImagesError unless these are to be skipped.

    Every file is decoded once, or only looked for without `reading.check_images`. What was good is remembered until it
    changes, and where several processes check the same files at a time one does, and the others wait.
    """
    if not reading.check_images:
        return _visit(files, reading, lambda index, place: check_there(place))
    with Checked.below(files.root) as checked:
        unknown = checked.unknown(files.paths, files.places())
        if unknown:
            log.info("checking %d images below %s", len(unknown), files.root)
        places = files.places()
        found = for_each_file(
            [places[index] for index in unknown],
            lambda index, place: decode(place, channels=channels),
            threads=max(reading.workers(), 1),
        )
        bad = {unknown[index]: error for index, error in found.items()}
        checked.remember([index for index in unknown if index not in bad])
    return _reported(files, reading, bad)


def _visit(files: ImageFiles, reading: Reading, work: Callable[[int, Place], object]) -> tuple[Tensor, tuple[str, ...]]:
    """Call `work(index, place)` for every file. Returns the indices of the good files and the paths of the others."""
    return _reported(files, reading, for_each_file(files.places(), work, threads=max(reading.workers(), 1)))


def _reported(files: ImageFiles, reading: Reading, bad: dict[int, BadImageError]) -> tuple[Tensor, tuple[str, ...]]:
    """Indices of the good files and paths of the bad ones, told as `reading.on_bad_image` says."""
    if bad and reading.on_bad_image == "error":
        raise BadImagesError(list(bad.values()), total=len(files))
    for error in bad.values():
        log.warning("left out %s", error)
    good = torch.tensor([index for index in range(len(files)) if index not in bad], dtype=torch.int64)
    if not len(good):
        raise DatasetError(f"none of the {len(files)} images below {files.root} can be used")
    return good, tuple(files.paths[index] for index in bad)

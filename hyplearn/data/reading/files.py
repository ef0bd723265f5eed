"""Images in files: read into memory at once, or decoded anew for every batch by worker processes."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hyplearn.data.errors import BadImageError, BadImagesError, DatasetError
from hyplearn.data.randomness import derived_seed
from hyplearn.data.reading.decoding import (
    check_there,
    decode,
    for_each_file,
    resize_and_center_crop,
    to_pixels,
    usable_cpus,
)
from hyplearn.data.reading.images import ImageArrays, Images
from hyplearn.errors import one_of

log = logging.getLogger(__name__)

Cache = Literal["auto", "memory", "none"]
OnBadImage = Literal["error", "skip"]
Transform = Callable[[Image.Image], Image.Image | Tensor]


@dataclass(frozen=True)
class ImageFiles:
    """Images in files below `root`. paths: N, relative to it, in a fixed order. labels: (N,) int64."""

    root: Path
    paths: tuple[str, ...]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.paths)

    def sha256(self) -> str:
        """Hash of relative paths, sizes in bytes (-1 where there is no file) and labels; the bytes are not read."""
        digest = hashlib.sha256()
        for path, label in zip(self.paths, self.labels.tolist(), strict=True):
            line = f"{path}\0{_size(self.root / path)}\0{label}\n"
            digest.update(line.encode(errors="surrogateescape"))
        return digest.hexdigest()

    def select(self, ids: Tensor) -> ImageFiles:
        return ImageFiles(self.root, tuple(self.paths[i] for i in ids.tolist()), self.labels[ids])

    def absolute(self) -> list[Path]:
        return [self.root / path for path in self.paths]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # reported with all other bad files when they are read
        return -1


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How image files are read.

    cache: "memory" decodes all files once before training. "none" decodes them for every batch. "auto" is "memory" if
    the images fit in `memory_limit_gib` and the training transform is not random; both give the same pixels.
    num_workers: decoding threads or processes, None for one per CPU, at most 8. The results do not depend on it.
    on_bad_image: "error" stops with the list of all unusable files, "skip" leaves them out and reports them.
    check_images: decode every file before training even where it is not kept in memory. False saves that time: files
    are only looked for, and a bad one stops the run when its turn comes.
    train_transform, eval_transform: from PIL image to PIL image or uint8 tensor of the final size, for example a
    torchvision.transforms.v2.RandomResizedCrop; None resizes the shorter side and crops the centre. Random numbers
    that train_transform takes from torch are seeded by (seed, epoch, sample); eval_transform must need none.
    """

    cache: Cache = "auto"
    memory_limit_gib: float = 4.0
    num_workers: int | None = None
    on_bad_image: OnBadImage = "error"
    check_images: bool = True
    train_transform: Transform | None = None
    eval_transform: Transform | None = None

    def __post_init__(self) -> None:
        one_of("cache", self.cache, Cache)
        one_of("on_bad_image", self.on_bad_image, OnBadImage)
        if self.num_workers is not None and self.num_workers < 0:
            raise ValueError(f"num_workers must be at least 0 or null (one per CPU), got {self.num_workers}")
        if self.memory_limit_gib < 0:
            raise ValueError(f"memory_limit_gib must be at least 0, got {self.memory_limit_gib}")
        if self.on_bad_image == "skip" and not self.check_images:
            raise ValueError("on_bad_image=skip has to know the bad images beforehand: set check_images=true")
        if self.cache == "memory" and self.train_transform is not None:
            raise ValueError(
                "cache=memory keeps each image as it was decoded once, but train_transform changes it every epoch: "
                "set cache=none (or auto), or leave the transform out and use augmentation"
            )

    @property
    def workers(self) -> int:
        return min(usable_cpus(), 8) if self.num_workers is None else self.num_workers

    def in_memory(self, nbytes: int) -> bool:
        if self.cache == "auto":
            return self.train_transform is None and nbytes <= self.memory_limit_gib * 2**30
        return self.cache == "memory"


def read_files(
    files: ImageFiles, reading: Reading, *, channels: int, size: int, seed: int
) -> tuple[Images, tuple[str, ...]]:
    """The images ready for batches, and the relative paths of those left out.

    Decodes every file once (unless not `reading.check_images`), so that no bad one is met later. Raises BadImagesError
    with all of them, unless `reading.on_bad_image` is "skip".
    """
    default = partial(resize_and_center_crop, size=size)
    decoder = Decoder(channels=channels, size=size, transform=reading.eval_transform or default)
    if reading.in_memory(len(files) * size * size * channels):
        log.info("decoding %d images below %s", len(files), files.root)
        pixels = torch.empty(len(files), size, size, channels, dtype=torch.uint8)
        good, skipped = _visit(files, reading, lambda index, path: pixels[index].copy_(decoder(path)))
        return ImageArrays(pixels, files.labels).select(good) if skipped else ImageArrays(pixels, files.labels), skipped
    good, skipped = check_files(files, reading, channels=channels)
    files = files.select(good) if skipped else files
    train_decoder = replace(decoder, transform=reading.train_transform or decoder.transform)
    stream = ImageStream(files, train_decoder, decoder, seed=seed, workers=reading.workers)
    stream.check_transforms()
    return stream, skipped


def check_files(files: ImageFiles, reading: Reading, *, channels: int) -> tuple[Tensor, tuple[str, ...]]:
    """Indices of the good files and paths of the others. Raises BadImagesError unless these are to be skipped.

    Every file is decoded once, or only looked for without `reading.check_images`.
    """
    if reading.check_images:
        log.info("checking %d images below %s", len(files), files.root)
        return _visit(files, reading, lambda index, path: decode(path, channels=channels))
    return _visit(files, reading, lambda index, path: check_there(path))


def _visit(files: ImageFiles, reading: Reading, work: Callable[[int, Path], object]) -> tuple[Tensor, tuple[str, ...]]:
    """Call `work(index, path)` for every file. Returns the indices of the good files and the paths of the others."""
    bad = for_each_file(files.absolute(), work, threads=max(reading.workers, 1))
    if bad and reading.on_bad_image == "error":
        raise BadImagesError(list(bad.values()), total=len(files))
    for error in bad.values():
        log.warning("left out %s", error)
    good = torch.tensor([index for index in range(len(files)) if index not in bad], dtype=torch.int64)
    if not len(good):
        raise DatasetError(f"none of the {len(files)} images below {files.root} can be used")
    return good, tuple(files.paths[index] for index in bad)


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """File to pixels (size, size, channels)."""

    channels: int
    size: int
    transform: Transform

    def __call__(self, path: Path) -> Tensor:
        image = self.transform(decode(path, channels=self.channels))
        return to_pixels(image, path, channels=self.channels, size=self.size)


class ImageStream:
    """Images decoded for every batch by worker processes. The pixels depend on (seed, epoch, sample) alone."""

    def __init__(
        self, files: ImageFiles, train_decoder: Decoder, eval_decoder: Decoder, *, seed: int, workers: int
    ) -> None:
        self.files, self.labels, self.seed, self.workers = files, files.labels, seed, workers
        self.train_decoder, self.eval_decoder = train_decoder, eval_decoder
        self._samples = _DecodedFiles(tuple(files.absolute()), train_decoder, seed)

    def check_transforms(self) -> None:
        """Raises ValueError now, not in the first epoch, if a transform makes images of another size."""
        for stream in (self, self.for_evaluation()):
            _ = stream._samples[0, 0]

    def batches(self, order: Sequence[Tensor], *, epoch: int) -> Iterator[Tensor]:
        # Workers live as long as this pass: those kept by a loader end only when it is collected, seconds late.
        loader: DataLoader[Tensor | BadImageError] = DataLoader(
            self._samples,
            batch_sampler=[[(epoch, sample) for sample in ids.tolist()] for ids in order],
            num_workers=min(self.workers, len(order)),
            collate_fn=_collate,
            # A generator of its own: the loader would take a number from torch's global stream for every pass.
            generator=torch.Generator(),
        )
        for pixels in loader:
            if isinstance(pixels, BadImageError):
                raise pixels
            yield pixels

    def for_evaluation(self) -> ImageStream:
        return ImageStream(self.files, self.eval_decoder, self.eval_decoder, seed=self.seed, workers=self.workers)


class _DecodedFiles(Dataset[Tensor | BadImageError]):
    """Sample (epoch, index) of the files, decoded in a worker process.

    A bad file is returned, not raised: across processes only the text of an exception would survive.
    """

    def __init__(self, paths: tuple[Path, ...], decoder: Decoder, seed: int) -> None:
        self.paths, self.decoder, self.seed = paths, decoder, seed

    def __getitem__(self, key: tuple[int, int]) -> Tensor | BadImageError:
        epoch, sample = key
        state = torch.get_rng_state()  # without workers this is the stream of the model's dropout
        torch.default_generator.manual_seed(derived_seed(self.seed, "transform", epoch, sample))
        try:
            return self.decoder(self.paths[sample])
        except BadImageError as error:
            return error
        finally:
            torch.set_rng_state(state)


def _collate(samples: list[Tensor | BadImageError]) -> Tensor | BadImageError:
    pixels = []
    for sample in samples:
        if isinstance(sample, BadImageError):
            return sample
        pixels.append(sample)
    return torch.stack(pixels).permute(0, 3, 1, 2)

"""The data of a run for Lightning: from a source to batches (images, labels, ids) on the device."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor

from hyplearn.data.batches.loader import Batch, ImageLoader
from hyplearn.data.batches.sampler import BatchSampler, OrderedBatches, ShuffledBatches
from hyplearn.data.batches.splits import stratified_split, stratified_subset
from hyplearn.data.batches.transforms import Augmentation, Normalization
from hyplearn.data.errors import BadImageError, BadImagesError
from hyplearn.data.reading.decoding import Decoding
from hyplearn.data.reading.files import Cache, ImageFiles, OnBadImage, Reading, check_files, read_files
from hyplearn.data.reading.images import ImageArrays, Images
from hyplearn.data.reading.pictures import Transform
from hyplearn.data.sources.source import Facts, Source

Split = Literal["train", "val", "test"]


class LookedAt(NamedTuple):
    """Test images before training: those that were found, those that can be used, and the paths of the others."""

    found: ImageArrays | ImageFiles
    good: ImageArrays | ImageFiles
    skipped: tuple[str, ...]


@contextmanager
def collecting(bad: list[BadImageError]) -> Iterator[None]:
    """Add bad images to a list that is reported when all parts have been looked at."""
    try:
        yield
    except BadImagesError as error:
        bad += error.bad


class ImageDataModule(pl.LightningDataModule):
    """Images of `source`, split, augmented and normalised.

    Batches are (images (B, C, H, W) float32 in channels_last, labels (B,), ids (B,)). An id is the position of an image
    in the part of the source that it comes from: training, test, or validation where the source has that. Order and
    augmentation are functions of (`seed`, epoch, batch), the splits of `split_seed`, so that runs with other seeds see
    the same splits.

    batch_size: of the global batch, shared by all processes. eval_batch_size: likewise, None for batch_size.
    mean, std: of the pixels in [0, 1], one value or one per channel; None for both where those of the weights of a
    pretrained model have to be filled in before the first batch. root: folder of the files, None for sets without.
    val_fraction: part of the training images held out for validation; 0 for none, the protocol of the papers. A source
    with validation images of its own gives those instead.
    limit_train: number of training images to use, in proportion from each class; None for all.
    image_size, channels: what the images are converted to, None to leave them as they are.
    drop_last: leave out a smaller last training batch. It is kept by default, unless it is a single image, which a
    batch norm cannot normalise.
    cache to eval_transform: how a source made of image files is read, see `hyplearn.data.reading.files.Reading`.

    Test images make no batch before `setup("test")`; but `setup("fit")` looks at them, so that a broken one stops a run
    before its first epoch.
    """

    def __init__(
        self,
        source: Source,
        *,
        batch_size: int,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        root: str | Path | None = None,
        seed: int = 0,
        split_seed: int = 0,
        eval_batch_size: int | None = None,
        val_fraction: float = 0.1,
        limit_train: int | None = None,
        image_size: int | None = None,
        channels: int | None = None,
        augmentation: Augmentation | None = None,
        drop_last: bool = False,
        cache: Cache = "auto",
        cache_side: int | None = None,
        cache_folder: str | Path | None = None,
        decoder: Decoding = "pillow",
        memory_limit_gib: float = 4.0,
        num_workers: int | None = None,
        prefetch_factor: int = 2,
        on_bad_image: OnBadImage = "error",
        check_images: bool = True,
        train_transform: Transform | None = None,
        eval_transform: Transform | None = None,
    ) -> None:
        super().__init__()
        self.source, self.root = source, None if root is None else Path(root).expanduser()
        self.batch_size, self.eval_batch_size = batch_size, batch_size if eval_batch_size is None else eval_batch_size
        self.seed, self.split_seed = seed, split_seed
        self.val_fraction, self.limit_train, self.drop_last = val_fraction, limit_train, drop_last
        self.image_size_wanted, self.channels_wanted = image_size, channels
        self.augmentation, self.normalization = augmentation, _normalization(mean, std)
        self.reading = Reading(
            cache=cache,
            cache_side=cache_side,
            cache_folder=cache_folder,
            decoder=decoder,
            memory_limit_gib=memory_limit_gib,
            num_workers=num_workers,
            prefetch_factor=prefetch_factor,
            on_bad_image=on_bad_image,
            check_images=check_images,
            train_transform=train_transform,
            eval_transform=eval_transform,
        )
        self._check_options()
        self._images: dict[Split, Images] = {}
        self._ids: dict[Split, Tensor] = {}
        self._sha256: dict[str, str] = {}
        self._skipped: dict[str, list[str]] = {}
        self._facts: Facts | None = None
        self._looked_at: LookedAt | None = None

    def _check_options(self) -> None:
        least = {"batch_size": 2, "eval_batch_size": 1, "limit_train": 1, "image_size_wanted": 8}
        for name, lowest in least.items():
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise ValueError(f"{name.removesuffix('_wanted')} must be at least {lowest}, got {value}")
        if self.channels_wanted not in (None, 1, 3):
            raise ValueError(f"channels must be 1, 3 or null (as the images are), got {self.channels_wanted}")
        if not 0 <= self.val_fraction < 1:
            raise ValueError(f"val_fraction must be in [0, 1), got {self.val_fraction}")
        if not self.source.in_files and self.reading != Reading():
            raise ValueError(
                f"{self.source.name} is not made of image files: leave out {', '.join(vars(self.reading))}"
            )

    # What the data are like

    def facts(self) -> Facts:
        """Channels, classes, image size and class names of the batches, before any image is read.

        Raises ValueError where the options do not fit the source, DatasetError where folders are missing.
        """
        if self._facts is None:
            facts = self._trained_on()
            channels = self.channels_wanted or facts.in_channels
            size = self.image_size_wanted or facts.image_size
            if size is None:
                raise ValueError(f"{self.source.name} has images of any size: set dataset.image_size")
            if self.normalization is not None and len(self.normalization) not in (1, channels):
                raise ValueError(
                    f"mean and std have {len(self.normalization)} values for images of {channels} channels: "
                    "give one, or one per channel"
                )
            self._facts = facts._replace(in_channels=channels, image_size=size)
        return self._facts

    def _trained_on(self) -> Facts:
        return self.source.facts(self.root)

    @property
    def in_channels(self) -> int:
        return self.facts().in_channels

    @property
    def num_classes(self) -> int:
        return self.facts().num_classes

    @property
    def image_size(self) -> int:
        size = self.facts().image_size
        assert size is not None
        return size

    @property
    def class_names(self) -> tuple[str, ...] | None:
        return self.facts().class_names

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Return what identifies the data that have been read so far, in types that JSON knows.

        sha256 is of pixels and labels as the source gives them; for files, of their relative paths, sizes and labels.
        """
        return {
            "name": self.source.name,
            "in_channels": self.in_channels,
            "num_classes": self.num_classes,
            "image_size": self.image_size,
            "counts": {split: len(ids) for split, ids in self._ids.items()},
            "sha256": dict(self._sha256),
            "splits": {split: _digest(ids) for split, ids in self._ids.items()},
            "val_fraction": self.val_fraction,
            "split_seed": self.split_seed,
            "limit_train": self.limit_train,
            "skipped": {part: list(paths) for part, paths in self._skipped.items() if paths},
        }

    # Reading

    def prepare_data(self) -> None:
        self.source.prepare(self.root)

    def setup(self, stage: str) -> None:
        """Read the training and validation images ("fit", "validate"), or the test images ("test"), once."""
        self._facts = None  # class names may stand in files that `prepare_data` has brought
        if stage in ("fit", "validate") and "train" not in self._ids:
            self._setup_train()
        if stage == "test" and "test" not in self._ids:
            self._setup_test()

    def _setup_test(self) -> None:
        self._images["test"] = self._read_test().for_evaluation()
        self._ids["test"] = torch.arange(len(self._images["test"].labels))

    def _read_test(self) -> Images:
        """The test images: of those that were looked at before training, which were decoded then, the good ones."""
        looked_at = self._looked_at
        if looked_at is None:
            return self._read("test", self.source.test(self.root))
        if isinstance(looked_at.found, ImageArrays):
            return self._read("test", looked_at.found)
        known_good = replace(self.reading, check_images=False, on_bad_image="error")
        images = self._read("test", looked_at.good, reading=known_good)
        self._sha256["test"], self._skipped["test"] = looked_at.found.sha256(), list(looked_at.skipped)
        return images

    def _to_be_tested(self) -> ImageArrays | ImageFiles | None:
        """Return the test images, None if none will be read."""
        if self.trainer is not None and self.trainer.limit_test_batches == 0:
            return None
        return self.source.test(self.root)

    def _look_at(self, found: ImageArrays | ImageFiles) -> None:
        """Find now what is wrong with test images. Raises BadImagesError."""
        if isinstance(found, ImageArrays):
            self._looked_at = LookedAt(found, found, ())
            return
        good, skipped = check_files(found, self.reading, channels=self.in_channels)
        self._looked_at = LookedAt(found, found.select(good) if skipped else found, skipped)

    def _setup_train(self) -> None:
        bad: list[BadImageError] = []
        parts: dict[str, ImageArrays | ImageFiles] = {"train": self.source.train(self.root)}
        own = self.source.validation(self.root) if self.val_fraction > 0 else None
        if own is not None:
            parts["val"] = own
        read: dict[str, Images] = {}
        for part, found in parts.items():
            with collecting(bad):
                read[part] = self._read(part, found)
        tested: ImageArrays | ImageFiles | None = None
        with collecting(bad):
            tested = self._to_be_tested()
            if tested is not None:
                self._look_at(tested)
        if bad:
            looked_at = [*parts.values(), *([] if tested is None else [tested])]
            raise BadImagesError(bad, total=sum(map(len, looked_at)))
        images = read["train"]
        if own is None:
            train, val = stratified_split(images.labels, self.val_fraction, seed=self.split_seed, purpose="validation")
            self._images["val"] = images.for_evaluation()
        else:
            self._images["val"] = read["val"].for_evaluation()
            train, val = torch.arange(len(images.labels)), torch.arange(len(self._images["val"].labels))
        if self.limit_train is not None:
            train = train[stratified_subset(images.labels[train], self.limit_train, seed=self.split_seed)]
        self._images["train"] = images
        self._ids["train"], self._ids["val"] = train, val

    def _read(self, part: str, found: ImageArrays | ImageFiles, *, reading: Reading | None = None) -> Images:
        self._sha256[part] = found.sha256()
        if isinstance(found, ImageArrays):
            return found.converted(channels=self.in_channels, size=self.image_size)
        images, skipped = read_files(
            found,
            reading or self.reading,
            channels=self.in_channels,
            size=self.image_size,
            seed=self.seed,
            processes=self._local_processes,
        )
        self._skipped[part] = list(skipped)
        return images

    def teardown(self, stage: str) -> None:
        """End the processes that decode images; another stage starts others."""
        self._end_workers()

    def on_exception(self, exception: BaseException) -> None:
        """End them where a run is stopped, too: Lightning tears nothing down then."""
        self._end_workers()

    def _end_workers(self) -> None:
        for images in self._images.values():
            images.close()

    # Batches

    def train_dataloader(self) -> ImageLoader:
        return self._loader("train", self._train_sampler(), self.augmentation)

    def _train_sampler(self) -> BatchSampler:
        return ShuffledBatches(
            self._ids["train"],
            batch_size=self.batch_size,
            seed=self.seed,
            world_size=self._world_size,
            drop_last=self.drop_last,
        )

    def val_dataloader(self) -> ImageLoader | list[ImageLoader]:
        """An empty list, with which Lightning skips validation, if no image is held out."""
        return self._eval_loader("val") if len(self._ids["val"]) else []

    def test_dataloader(self) -> ImageLoader:
        return self._eval_loader("test")

    def _eval_loader(self, split: Split) -> ImageLoader:
        sampler = OrderedBatches(self._ids[split], batch_size=self.eval_batch_size, world_size=self._world_size)
        return self._loader(split, sampler, None)

    def _loader(self, split: Split, sampler: BatchSampler, augmentation: Augmentation | None) -> ImageLoader:
        trainer = self.trainer
        return ImageLoader(
            self._images[split],
            sampler,
            seed=self.seed,
            augmentation=augmentation,
            rank=0 if trainer is None else trainer.global_rank,
            world_size=self._world_size,
            pin_memory=trainer is not None and trainer.strategy.root_device.type == "cuda",
            keep_workers=trainer is not None,
        )

    def ids(self, split: Split) -> Tensor:
        """(N,), of the images of a split, after `setup`."""
        return self._ids[split]

    def labels(self, split: Split, ids: Tensor) -> Tensor:
        """(n,), of the images `ids` of a split, after `setup`."""
        return self._images[split].labels[ids]

    def thumbnails(self, split: Split, ids: Tensor) -> Tensor:
        """(n, H, W, C) uint8, the images as evaluation sees them before they are normalised, after `setup`."""
        if not len(ids):
            return torch.empty(0, self.image_size, self.image_size, self.in_channels, dtype=torch.uint8)
        (images,) = self._images[split].for_evaluation().batches([ids.cpu()], epoch=0)
        return images.permute(0, 2, 3, 1)

    @property
    def _local_processes(self) -> int:
        """Processes of this run on this machine, which share its CPUs."""
        return 1 if self.trainer is None else max(self.trainer.num_devices, 1)

    @property
    def _world_size(self) -> int:
        return 1 if self.trainer is None else self.trainer.world_size

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> tuple[Tensor, Tensor, Tensor]:
        """Augment and normalise on the device."""
        images, labels, ids = self.finish(batch)
        if self.trainer is not None:  # 64-bit training: Lightning converts before the pixels are floating point
            images = self.trainer.precision_plugin.convert_input(images)
        return images, labels, ids

    def finish(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """(images, labels, ids) of a loader's batch. Raises ValueError while mean and std are None."""
        if self.normalization is None:
            raise ValueError(
                "dataset.mean=null and dataset.std=null stand for those of the weights of a pretrained model, but none "
                "filled them in: give numbers, for example dataset.mean=[0.5] dataset.std=[0.5]"
            )
        images = batch.images
        if self.augmentation is not None and batch.draws is not None:
            images = self.augmentation(images, batch.draws)
        return self.normalization(images), batch.labels, batch.ids

    def batches(
        self, split: Split = "train", *, epoch: int = 0, device: str | torch.device = "cpu"
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The finished batches of an epoch without a trainer, after `setup`."""
        loader = self.train_dataloader() if split == "train" else self._eval_loader(split)
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            moved = (None if part is None else part.to(device, non_blocking=True) for part in batch)
            yield self.finish(Batch(*moved))  # type: ignore[arg-type]


def _normalization(mean: Sequence[float] | None, std: Sequence[float] | None) -> Normalization | None:
    if mean is not None and std is not None:
        return Normalization(mean, std)
    if mean is not None or std is not None:
        raise ValueError(f"mean and std are both numbers or both null (those of the weights), got {mean} and {std}")
    return None


def _digest(ids: Tensor) -> str:
    return hashlib.sha256(ids.contiguous().numpy().data).hexdigest()

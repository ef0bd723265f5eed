"""The data of a metric learning run: batches of several images of each class, evaluation on other classes."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from hyplearn.data.batches.sampler import (
    BatchSampler,
    ClassBalancedBatches,
    UniqueClassBatches,
    check_class_batches,
)
from hyplearn.data.batches.splits import held_out_classes, stratified_subset
from hyplearn.data.batches.transforms import Augmentation
from hyplearn.data.datamodule import ImageDataModule, Split, collecting
from hyplearn.data.errors import BadImageError, BadImagesError, DatasetError, described
from hyplearn.data.reading.decoding import Decoding
from hyplearn.data.reading.files import Cache, ImageFiles, OnBadImage
from hyplearn.data.reading.images import ImageArrays, Images
from hyplearn.data.reading.pictures import Transform
from hyplearn.data.sources.indexed import IndexedSource
from hyplearn.data.sources.retrieval_source import Evaluation, RetrievalImages, RetrievalSource
from hyplearn.data.sources.source import Facts
from hyplearn.errors import one_of

SamplerKind = Literal["unique_class", "class_balanced", "class_balanced_replacement", "shuffled"]

log = logging.getLogger(__name__)


class RetrievalDataModule(ImageDataModule):
    """Images of `source` for metric learning: trained on some classes, evaluated on others.

    Labels of training batches number the classes that are trained on, 0 to num_classes - 1. Labels of validation and
    test are the source's own; `evaluation` tells what they are. The ids of every part are its positions, 0 to N - 1.

    sampler: "unique_class" (every class once an epoch), "class_balanced" (classes drawn for every batch), both with
    `images_per_class` images of each class of a batch, no two of them the same where the class has enough;
    "class_balanced_replacement", in which two may be one image; or "shuffled" (every image once an epoch, without
    images_per_class).
    val_fraction: part of the training classes held out for validation, chosen by `split_seed`; 0 for none, the protocol
    of the papers. A source with validation images of its own gives those instead.
    select_on_test: the test classes are the validation data, so that a checkpoint chosen by them has seen the test;
    `fingerprint` says so. Needs val_fraction=0.
    limit_train: number of training images to use, in proportion from each class; None for all.

    The other arguments are those of `ImageDataModule`. Test images make no batch before `setup("test")`; but where the
    images are files, all of them, those of the test included, are checked before training. Before any is read,
    DatasetError names a validation or test part in which there is nothing to measure.
    """

    source: RetrievalSource

    def __init__(
        self,
        source: RetrievalSource,
        *,
        batch_size: int,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        sampler: SamplerKind = "class_balanced",
        images_per_class: int | None = None,
        select_on_test: bool = False,
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
        self.sampler, self.images_per_class, self.select_on_test = sampler, images_per_class, select_on_test
        super().__init__(
            source,
            batch_size=batch_size,
            mean=mean,
            std=std,
            root=root,
            seed=seed,
            split_seed=split_seed,
            eval_batch_size=eval_batch_size,
            val_fraction=val_fraction,
            limit_train=limit_train,
            image_size=image_size,
            channels=channels,
            augmentation=augmentation,
            drop_last=drop_last,
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
        self._evaluations: dict[Split, Evaluation] = {}

    def _check_options(self) -> None:
        super()._check_options()
        one_of("sampler", self.sampler, SamplerKind)
        if self.sampler == "shuffled":
            if self.images_per_class is not None:
                raise ValueError(
                    "sampler=shuffled takes images as they come: set images_per_class=null, "
                    f"got {self.images_per_class}"
                )
        elif self.images_per_class is None:
            raise ValueError(f"sampler={self.sampler} needs images_per_class, for example 2")
        elif self.drop_last:
            raise ValueError(f"sampler={self.sampler} makes full batches only: set drop_last=false")
        if self.select_on_test and self.val_fraction > 0:
            raise ValueError(
                f"select_on_test=true validates on the test classes, val_fraction={self.val_fraction} on training "
                "classes: set val_fraction=0 with it, or select_on_test=false"
            )

    # What the data are like

    def _trained_on(self) -> Facts:
        facts = self.source.facts(self.root)
        kept, _ = self._classes(facts.num_classes)
        names = None if facts.class_names is None else tuple(facts.class_names[number] for number in kept.tolist())
        return facts._replace(num_classes=len(kept), class_names=names)

    def _classes(self, count: int) -> tuple[Tensor, Tensor]:
        """The numbers of the training classes of the source that are trained on, and those that validate."""
        if self.val_fraction > 0 and self.source.part(self.root, "val") is not None:
            return torch.arange(count), torch.arange(0)
        return held_out_classes(count, self.val_fraction, seed=self.split_seed)

    def check_batches(self, *, processes: int = 1) -> None:
        """Raises ValueError if the classes that are trained on cannot form a batch. Reads no image."""
        if self.images_per_class is not None:
            check_class_batches(
                batch_size=self.batch_size,
                images_per_class=self.images_per_class,
                classes=self.num_classes,
                world_size=processes,
            )

    @property
    def selection(self) -> Literal["validation", "test", "none"]:
        """Which classes a checkpoint of this run was chosen by, known before any image is read."""
        if self.select_on_test:
            return "test"
        return "validation" if self.val_fraction > 0 else "none"

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Return the fingerprint of `ImageDataModule`, the number of classes of each part read, and the selection."""
        classes = {split: len(self._evaluations[split].labels.unique()) for split in self._evaluations}
        return {
            **super().fingerprint,
            "classes": {"train": self.num_classes, **classes},
            "selection": self.selection,
            "sampler": self.sampler,
            "images_per_class": self.images_per_class,
        }

    # Reading

    def _setup_train(self) -> None:
        self.check_batches(processes=self._world_size)
        train, val = self._training_parts()
        test = self._test()
        if val is not None:
            self._check_measurable("val", val)
        self._check_measurable("test", test)
        parts = {"train": train.images, **({} if val is None else {"val": val.images})}
        images = self._read_all(parts, checked=None if self.select_on_test else test.images)
        if self._looked_at is not None:
            self._check_measurable("test", _without(test, self._looked_at.skipped))
        self._images["train"] = images["train"]
        self._ids["train"] = torch.arange(len(images["train"].labels))
        self._warn_of_lost_classes()
        if self.select_on_test:
            if "test" not in self._ids:
                self._setup_test()
            self._images["val"], self._ids["val"] = self._images["test"], self._ids["test"]
            self._evaluations["val"] = self._evaluations["test"]
        elif val is None:
            self._images["val"], self._ids["val"] = images["train"].for_evaluation(), torch.arange(0)
        else:
            self._keep("val", val, images["val"])

    def _setup_test(self) -> None:
        self._keep("test", self._test(), self._read_test())

    def _test(self) -> RetrievalImages:
        test = self.source.part(self.root, "test")
        assert test is not None
        return test

    def _training_parts(self) -> tuple[RetrievalImages, RetrievalImages | None]:
        """The images trained on, labelled from 0 on, and those of classes held out, or that the source sets apart."""
        train = self.source.part(self.root, "train")
        assert train is not None
        own = self.source.part(self.root, "val") if self.val_fraction > 0 else None
        kept, held_out = self._classes(int(train.labels.max()) + 1)
        val = own
        if len(held_out):
            val = train.select(torch.isin(train.labels, held_out).nonzero().squeeze(1))
        train = train.select(torch.isin(train.labels, kept).nonzero().squeeze(1))
        train = replace(train, images=replace(train.images, labels=torch.searchsorted(kept, train.labels)))
        if self.limit_train is not None:
            train = train.select(stratified_subset(train.labels, self.limit_train, seed=self.split_seed))
        return train, val

    def _read_all(
        self, parts: Mapping[str, ImageArrays | ImageFiles], *, checked: ImageArrays | ImageFiles | None
    ) -> dict[str, Images]:
        """Read `parts`, and look through the files of `checked`. Raises BadImagesError with those of all of them."""
        images: dict[str, Images] = {}
        bad: list[BadImageError] = []
        for part, found in parts.items():
            with collecting(bad):
                images[part] = self._read(part, found)
        if checked is not None:
            with collecting(bad):
                self._look_at(checked)
        if bad:
            total = sum(map(len, parts.values())) + (0 if checked is None else len(checked))
            raise BadImagesError(self._with_places(bad), total=total)
        return images

    def _with_places(self, bad: list[BadImageError]) -> list[BadImageError]:
        """Return the errors with the index lines that name the images, where lines do."""
        if not isinstance(self.source, IndexedSource):
            return bad
        index = self.source.index(self.root)
        places = {index.base / path: place for path, place in index.places.items() if place.line is not None}
        lines = [f" (named by {described(*places[b.path])})" if b.path in places else "" for b in bad]
        return [BadImageError(b.path, b.reason + line) for b, line in zip(bad, lines, strict=True)]

    def _keep(self, split: Literal["val", "test"], part: RetrievalImages, images: Images) -> None:
        """Take the images that were read of a part for evaluation."""
        paths = part.images.paths if isinstance(part.images, ImageFiles) else None
        skipped = set(self._skipped.get(split, ()))
        part = _without(part, skipped)
        paths = None if paths is None else tuple(path for path in paths if path not in skipped)
        self._check_measurable(split, part)
        self._images[split], self._ids[split] = images.for_evaluation(), torch.arange(len(part))
        self._evaluations[split] = Evaluation(
            labels=part.labels,
            query=part.query,
            gallery=part.gallery,
            super_labels=part.super_labels,
            class_names=part.class_names,
            super_names=part.super_names,
            paths=paths,
        )

    def _check_measurable(self, split: Literal["val", "test"], part: RetrievalImages) -> None:
        """Raises DatasetError where all models would be equally good."""
        reason = part.nothing_to_measure(split)
        if reason is not None:
            raise DatasetError(f"{self.source.name}: {reason}")

    def _warn_of_lost_classes(self) -> None:
        lost = self.num_classes - len(self._images["train"].labels.unique())
        if lost:
            log.warning("%d of %d training classes have no image left and are not trained on", lost, self.num_classes)

    # Batches and what they are

    def _train_sampler(self) -> BatchSampler:
        if self.images_per_class is None:
            return super()._train_sampler()
        labels, options = (
            self._images["train"].labels,
            {
                "batch_size": self.batch_size,
                "images_per_class": self.images_per_class,
                "seed": self.seed,
                "world_size": self._world_size,
            },
        )
        if self.sampler == "unique_class":
            return UniqueClassBatches(labels, **options)
        return ClassBalancedBatches(labels, **options, replacement=self.sampler == "class_balanced_replacement")

    def evaluation(self, split: Literal["val", "test"]) -> Evaluation:
        """Labels and roles of the images in the order of their ids, after `setup`."""
        if split not in self._evaluations:
            raise ValueError(
                f"there are no {split} images: "
                + ("val_fraction is 0" if split == "val" and "val" in self._ids else f"call setup for {split} first")
            )
        return self._evaluations[split]


def _without(part: RetrievalImages, skipped: Collection[str]) -> RetrievalImages:
    """A part without the files that were left out."""
    if not skipped or not isinstance(part.images, ImageFiles):
        return part
    return part.select(torch.tensor([i for i, path in enumerate(part.images.paths) if path not in set(skipped)]))

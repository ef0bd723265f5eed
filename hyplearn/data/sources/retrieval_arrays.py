"""Digits and Fashion-MNIST for retrieval: classes 0 to 4 train, classes 5 to 9 test."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor

from hyplearn.data.batches.transforms import affine
from hyplearn.data.errors import read_all
from hyplearn.data.randomness import generator
from hyplearn.data.reading.images import ImageArrays
from hyplearn.data.sources.datasets import Digits, FashionMNIST
from hyplearn.data.sources.retrieval_source import ByPart, Part, RetrievalImages
from hyplearn.data.sources.source import Facts

TRAIN_CLASSES = 5
SIDE = 8  # pixels of a digit
TURNS = [(turns, mirrored) for mirrored in (False, True) for turns in range(4)]


class DigitsRetrieval(ByPart):
    """The 1,797 handwritten digits of scikit-learn: 901 of 0 to 4 train, 896 of 5 to 9 test.

    What makes the task harder than a comparison of pixels, which finds 99 % of the plain digits' nearest neighbours:
    rotation: degrees; every image is turned by an angle of its own, uniform in +- rotation.
    field: side of a square, at least 8 pixels, in which every digit has a place of its own; null for the 8 x 8 pixels.
    Angles and places are always the same. What makes it easier to learn from five classes:
    turned_classes: the training digits turned by quarter turns, and their mirror images, are classes of their own: 40.
    """

    name = "digits_retrieval"
    in_files = False

    def __init__(self, *, rotation: float = 0.0, field: int | None = None, turned_classes: bool = False) -> None:
        if not 0 <= rotation <= 180:
            raise ValueError(f"rotation must be from 0 to 180 degrees, got {rotation}")
        if field is not None and field < SIDE:
            raise ValueError(f"field must be at least the {SIDE} pixels of a digit, or null, got {field}")
        self.rotation, self.field, self.turned_classes = rotation, field, turned_classes

    def facts(self, root: Path | None) -> Facts:
        facts = _training_facts(Digits().facts(root))._replace(image_size=self.field or SIDE)
        if not self.turned_classes:
            return facts
        return facts._replace(
            num_classes=len(TURNS) * TRAIN_CLASSES, class_names=_turned_names(facts.class_names or ())
        )

    def prepare(self, root: Path | None) -> None:
        Digits().prepare(root)

    def part(self, root: Path | None, part: Part) -> RetrievalImages | None:
        found = _by_class(_placed_digits(self.rotation, self.field), part, Digits().facts(root).class_names or ())
        if not self.turned_classes or found is None:
            return found
        assert isinstance(found.images, ImageArrays)
        names = _turned_names(found.class_names[:TRAIN_CLASSES]) + found.class_names[TRAIN_CLASSES:]
        if part == "test":  # numbered behind the training classes
            labels = found.images.labels + (len(TURNS) - 1) * TRAIN_CLASSES
            return RetrievalImages.for_all(ImageArrays(found.images.pixels, labels), names)
        return RetrievalImages.for_all(_turned(found.images), names)


@cache
def _placed_digits(rotation: float, field: int | None) -> ImageArrays:
    digits = Digits()
    train, test = digits.train(None), digits.test(None)
    pixels, labels = torch.cat([train.pixels, test.pixels]), torch.cat([train.labels, test.labels])
    if rotation:
        degrees = (2 * torch.rand(len(pixels), generator=generator(0, "digits rotation")) - 1) * rotation
        turned = affine(pixels.permute(0, 3, 1, 2), degrees=degrees)
        pixels = turned.permute(0, 2, 3, 1).contiguous()
    if field is not None:
        free = field - SIDE + 1
        corners = torch.randint(free, (len(pixels), 2), generator=generator(0, "digits place"))
        pixels = _in_field(pixels, corners, field)
    return ImageArrays(pixels, labels)


def _in_field(pixels: Tensor, corners: Tensor, field: int) -> Tensor:
    """(N, 8, 8, 1) to (N, field, field, 1), black around; corners (N, 2): row and column of the upper left pixel."""
    rows, columns = (corners[:, axis, None] + torch.arange(SIDE) for axis in (0, 1))
    image = torch.arange(len(pixels))[:, None, None]
    placed = pixels.new_zeros(len(pixels), field, field, 1)
    placed[image, rows[:, :, None], columns[:, None, :]] = pixels
    return placed


def _turned(images: ImageArrays) -> ImageArrays:
    """Every quarter turn and its mirror image, numbered one after the other."""
    views = []
    for turns, mirrored in TURNS:
        view = images.pixels.rot90(turns, (1, 2))
        views.append(view.flip(2) if mirrored else view)
    labels = torch.cat([images.labels + number * TRAIN_CLASSES for number in range(len(TURNS))])
    return ImageArrays(torch.cat(views).contiguous(), labels)


def _turned_names(names: Sequence[str]) -> tuple[str, ...]:
    kinds = [
        f"{' mirrored' if mirrored else ''}{f' {90 * turns} degrees' if turns else ''}" for turns, mirrored in TURNS
    ]
    return tuple(f"{name}{kind}" for kind in kinds for name in names)


class FashionMNISTRetrieval(ByPart):
    """The 70,000 pictures of Fashion-MNIST, its training and test images together: 35,000 train, 35,000 test."""

    name = "fashion_mnist_retrieval"
    in_files = False

    def facts(self, root: Path | None) -> Facts:
        return _training_facts(FashionMNIST().facts(root))

    def present(self, root: Path) -> bool:
        """Whether the files are there."""
        return FashionMNIST().present(root)

    def prepare(self, root: Path | None) -> None:
        FashionMNIST().prepare(root)

    def part(self, root: Path | None, part: Part) -> RetrievalImages | None:
        if part == "val":
            return None
        fashion = FashionMNIST()
        train, test = read_all([partial(fashion.train, root), partial(fashion.test, root)])
        images = ImageArrays(torch.cat([train.pixels, test.pixels]), torch.cat([train.labels, test.labels]))
        return _by_class(images, part, FashionMNIST().facts(root).class_names or ())


def _training_facts(facts: Facts) -> Facts:
    names = facts.class_names
    return facts._replace(num_classes=TRAIN_CLASSES, class_names=None if names is None else names[:TRAIN_CLASSES])


def _by_class(images: ImageArrays, part: Part, class_names: tuple[str, ...]) -> RetrievalImages | None:
    if part == "val":
        return None
    chosen = images.labels < TRAIN_CLASSES if part == "train" else images.labels >= TRAIN_CLASSES
    return RetrievalImages.for_all(images.select(chosen.nonzero().squeeze(1)), class_names)

"""Digits and Fashion-MNIST for retrieval: classes 0 to 4 train, classes 5 to 9 test."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

from hyplearn.data.datasets import Digits, FashionMNIST
from hyplearn.data.images import ImageArrays
from hyplearn.data.randomness import generator
from hyplearn.data.retrieval_source import ByPart, Part, RetrievalImages
from hyplearn.data.source import Facts
from hyplearn.data.transforms import affine

TRAIN_CLASSES = 5


class DigitsRetrieval(ByPart):
    """The 1,797 handwritten digits of scikit-learn: 901 of 0 to 4 train, 896 of 5 to 9 test.

    rotation: degrees; every image is turned by an angle of its own, uniform in +- rotation and always the same, which
    leaves the digit to be recognised but makes a comparison of raw pixels fail.
    """

    name = "digits_retrieval"
    in_files = False

    def __init__(self, *, rotation: float = 0.0) -> None:
        if not 0 <= rotation <= 180:
            raise ValueError(f"rotation must be from 0 to 180 degrees, got {rotation}")
        self.rotation = rotation

    def facts(self, root: Path | None) -> Facts:
        return _training_facts(Digits().facts(root))

    def prepare(self, root: Path | None) -> None:
        Digits().prepare(root)

    def part(self, root: Path | None, part: Part) -> RetrievalImages | None:
        return _by_class(_turned_digits(self.rotation), part, Digits().facts(root).class_names or ())


@cache
def _turned_digits(rotation: float) -> ImageArrays:
    digits = Digits()
    train, test = digits.train(None), digits.test(None)
    pixels, labels = torch.cat([train.pixels, test.pixels]), torch.cat([train.labels, test.labels])
    if rotation == 0:
        return ImageArrays(pixels, labels)
    degrees = (2 * torch.rand(len(pixels), generator=generator(0, "digits rotation")) - 1) * rotation
    turned = affine(pixels.permute(0, 3, 1, 2), degrees=degrees)
    return ImageArrays(turned.permute(0, 2, 3, 1).contiguous(), labels)


class FashionMNISTRetrieval(ByPart):
    """The 70,000 pictures of Fashion-MNIST, its training and test images together: 35,000 train, 35,000 test."""

    name = "fashion_mnist_retrieval"
    in_files = False

    def facts(self, root: Path | None) -> Facts:
        return _training_facts(FashionMNIST().facts(root))

    def prepare(self, root: Path | None) -> None:
        FashionMNIST().prepare(root)

    def part(self, root: Path | None, part: Part) -> RetrievalImages | None:
        if part == "val":
            return None
        fashion = FashionMNIST()
        train, test = fashion.train(root), fashion.test(root)
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

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from hyplearn.data.datasets import Digits
from hyplearn.data.randomness import generator
from hyplearn.data.retrieval_arrays import DigitsRetrieval, FashionMNISTRetrieval


def test_digits_are_parted_by_class() -> None:
    train, test = (DigitsRetrieval().part(None, part) for part in ("train", "test"))
    assert train is not None and test is not None
    assert train.labels.unique().tolist() == [0, 1, 2, 3, 4]
    assert test.labels.unique().tolist() == [5, 6, 7, 8, 9]
    assert (len(train), len(test)) == (901, 896)
    pixels = torch.cat([train.images.pixels, test.images.pixels]).flatten(1).numpy()  # type: ignore[union-attr]
    official = (load_digits().data * (255 / 16)).round().astype(np.uint8)
    assert sorted(map(bytes, pixels)) == sorted(map(bytes, official))  # every one of them once
    assert DigitsRetrieval().facts(None).class_names == tuple("01234")
    assert DigitsRetrieval().part(None, "val") is None


def test_rotation_turns_every_digit_by_an_angle_of_its_own() -> None:
    plain, turned = (DigitsRetrieval(rotation=degrees).part(None, "test") for degrees in (0.0, 60.0))
    assert plain is not None and turned is not None
    assert plain.labels.equal(turned.labels)
    angles = (2 * torch.rand(1797, generator=generator(0, "digits rotation")) - 1) * 60
    places = (torch.cat([part(None).labels for part in (Digits().train, Digits().test)]) >= 5).nonzero().squeeze(1)
    for number, place in enumerate(places[:50].tolist()):
        before, after = (part.images.pixels[number].permute(2, 0, 1) for part in (plain, turned))  # type: ignore[union-attr]
        expected = tv.rotate(before, angles[place].item(), InterpolationMode.BILINEAR)
        assert (after.int() - expected.int()).abs().max() <= 1
    assert not plain.images.pixels.equal(turned.images.pixels)  # type: ignore[union-attr]


def test_a_rotation_beyond_half_a_turn_is_named() -> None:
    with pytest.raises(ValueError, match="rotation must be from 0 to 180 degrees, got 200"):
        DigitsRetrieval(rotation=200)


def test_fashion_takes_both_of_its_parts(fashion_root: Path) -> None:
    source = FashionMNISTRetrieval()
    source.prepare(fashion_root)
    train, test = (source.part(fashion_root, part) for part in ("train", "test"))
    assert train is not None and test is not None
    assert train.labels.bincount().tolist() == [6] * 5  # 40 and 20 images of 10 classes
    assert test.labels.bincount().tolist() == [0] * 5 + [6] * 5
    assert test.class_names[9] == "Ankle boot"
    assert source.facts(fashion_root).num_classes == 5

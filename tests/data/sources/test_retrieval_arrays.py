from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from hyplearn.data.randomness import generator
from hyplearn.data.sources.datasets import Digits
from hyplearn.data.sources.retrieval_arrays import DigitsRetrieval, FashionMNISTRetrieval


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
    with pytest.raises(ValueError, match=r"field must be at least the 8 pixels of a digit, or null, got 7"):
        DigitsRetrieval(field=7)


def test_every_digit_has_its_own_place_in_a_field() -> None:
    plain, placed = (DigitsRetrieval(field=field).part(None, "test") for field in (None, 12))
    assert DigitsRetrieval(field=12).facts(None).image_size == 12
    assert placed.images.pixels.shape == (896, 12, 12, 1)
    corners = set()
    for small, large in zip(plain.images.pixels[..., 0], placed.images.pixels[..., 0], strict=True):
        assert large.sum() == small.sum()
        found = [(r, c) for r in range(5) for c in range(5) if torch.equal(large[r : r + 8, c : c + 8], small)]
        assert found
        corners.add(found[0])
    assert len(corners) > 20
    again = DigitsRetrieval(field=12).part(None, "test")
    assert torch.equal(again.images.pixels, placed.images.pixels)


def test_turned_digits_are_classes_of_their_own() -> None:
    plain, turned = (DigitsRetrieval(turned_classes=turn) for turn in (False, True))
    assert turned.facts(None).num_classes == 40
    train, test = (turned.part(None, part) for part in ("train", "test"))
    assert train.labels.bincount().tolist() == plain.part(None, "train").labels.bincount().tolist() * 8
    assert test.labels.unique().tolist() == [40, 41, 42, 43, 44]
    assert [test.class_names[label] for label in range(40, 45)] == list("56789")
    assert (train.class_names[0], train.class_names[39]) == ("0", "4 mirrored 270 degrees")
    zero = plain.part(None, "train").images.pixels[0, ..., 0]
    label = int(plain.part(None, "train").labels[0])
    views = train.images.pixels[:: len(plain.part(None, "train")), ..., 0]
    assert torch.equal(views[1], zero.rot90())
    assert torch.equal(views[6], zero.rot90(2).flip(1))
    assert train.labels[:: len(plain.part(None, "train"))].tolist() == [label + 5 * view for view in range(8)]


def test_fashion_takes_both_of_its_parts(fashion_root: Path) -> None:
    source = FashionMNISTRetrieval()
    source.prepare(fashion_root)
    train, test = (source.part(fashion_root, part) for part in ("train", "test"))
    assert train is not None and test is not None
    assert train.labels.bincount().tolist() == [6] * 5  # 40 and 20 images of 10 classes
    assert test.labels.bincount().tolist() == [0] * 5 + [6] * 5
    assert test.class_names[9] == "Ankle boot"
    assert source.facts(fashion_root).num_classes == 5

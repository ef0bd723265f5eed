from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hyplearn.data.sources.synthetic import Synthetic


def test_shapes_and_classes() -> None:
    source = Synthetic(in_channels=2, num_classes=7, image_size=9, train_size=2000, test_size=21)
    train, test = source.train(None), source.test(None)
    assert train.pixels.shape == (2000, 9, 9, 2)
    assert torch.bincount(test.labels).tolist() == [3] * 7
    assert source.facts(None)[:3] == (2, 7, 9)


def test_the_same_seed_gives_the_same_images_and_parts_differ() -> None:
    assert Synthetic(seed=1).train(None).sha256() == Synthetic(seed=1).train(None).sha256()
    assert Synthetic(seed=1).train(None).sha256() != Synthetic(seed=2).train(None).sha256()
    source = Synthetic(train_size=50, test_size=50)
    assert not torch.equal(source.train(None).pixels, source.test(None).pixels)


@pytest.mark.parametrize(("noise", "least", "most"), [(0.2, 0.99, 1.0), (20.0, 0.0, 0.5)])
def test_the_class_can_be_learned_as_far_as_the_noise_lets_it(noise: float, least: float, most: float) -> None:
    source = Synthetic(image_size=8, train_size=400, noise=noise)
    train, test = source.train(None), source.test(None)
    means = torch.stack([train.pixels[train.labels == label].double().mean(0).flatten() for label in range(10)])
    nearest = torch.cdist(test.pixels.double().flatten(1), means).argmin(1)
    assert least <= (nearest == test.labels).double().mean().item() <= most


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 0}, "image_size must be at least 1"),
        ({"num_classes": 1}, "num_classes"),
        ({"noise": -1.0}, "noise"),
    ],
)
def test_impossible_options_are_named(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Synthetic(**options)


def test_it_needs_no_root(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"set dataset\.root=null"):
        Synthetic().prepare(tmp_path)

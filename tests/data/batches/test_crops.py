from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from hyplearn.data.batches.crops import CenterCrop, RandomCrop


@pytest.fixture
def image(rng: np.random.Generator) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (50, 70, 3), dtype=np.uint8))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_the_random_crop_is_that_of_torchvision(image: Image.Image, interpolation: Any) -> None:
    ours = RandomCrop(size=32, scale=(0.2, 1.0), interpolation=interpolation)
    theirs = v2.RandomResizedCrop(32, scale=(0.2, 1.0), interpolation=InterpolationMode(interpolation))
    state = torch.get_rng_state()
    for seed in range(20):
        torch.manual_seed(seed)
        expected = np.asarray(theirs(image))
        torch.manual_seed(seed)
        assert (np.asarray(ours(image)) == expected).all()
    torch.set_rng_state(state)


def test_the_centre_crop_is_that_of_torchvision(image: Image.Image) -> None:
    ours = CenterCrop(resize=40, size=32, interpolation="bicubic")
    theirs = v2.Compose([v2.Resize(40, InterpolationMode.BICUBIC), v2.CenterCrop(32)])
    assert (np.asarray(ours(image)) == np.asarray(theirs(image))).all()
    assert (np.asarray(ours(image)) != np.asarray(CenterCrop(resize=40, size=32)(image))).any()


def test_crops_travel_to_worker_processes() -> None:
    for crop in (RandomCrop(size=8), CenterCrop(resize=9, size=8)):
        assert pickle.loads(pickle.dumps(crop)) == crop


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomCrop(size=0), "size must be at least 1"),
        (lambda: RandomCrop(size=8, scale=(0.0, 1.0)), "part of the area"),
        (lambda: RandomCrop(size=8, ratio=(2.0, 1.0)), "ratio is the least and the largest"),
        (lambda: RandomCrop(size=8, interpolation="cubic"), "interpolation must be .* got 'cubic'"),
        (lambda: CenterCrop(resize=7, size=8), "resize=7 is smaller than the crop, size=8"),
    ],
)
def test_impossible_crops_are_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()

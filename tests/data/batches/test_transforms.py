from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms import functional as tv1
from torchvision.transforms.v2 import functional as tv

from hyplearn.data.batches.transforms import Augmentation, Normalization, affine, crop, flip


@pytest.fixture(params=[1, 3], ids=["grey", "colour"])
def images(request: pytest.FixtureRequest) -> Tensor:
    pixels = torch.randint(0, 256, (81, 11, 9, request.param), dtype=torch.uint8, generator=torch.Generator())
    return pixels.permute(0, 3, 1, 2)


def test_crop_has_the_pixels_of_torchvision_at_every_offset(images: Tensor) -> None:
    offsets = torch.cartesian_prod(torch.arange(9), torch.arange(9))
    cropped = crop(images, offsets, padding=4)
    for image, (top, left), ours in zip(images, offsets.tolist(), cropped, strict=True):
        assert torch.equal(ours, tv.crop(tv.pad(image, [4]), top, left, 11, 9))
    assert cropped.is_contiguous(memory_format=torch.channels_last)


def test_flip_has_the_pixels_of_torchvision(images: Tensor) -> None:
    chosen = torch.arange(len(images)) % 3 == 0
    for image, flipped, ours in zip(images, chosen, flip(images, chosen), strict=True):
        assert torch.equal(ours, tv.horizontal_flip(image) if flipped else image)


def test_offsets_are_uniform_and_independent() -> None:
    draws = Augmentation(crop_padding=2, horizontal_flip=0.5).draw(50_000, torch.Generator().manual_seed(0))
    cells = (draws[:, 0] * 5 + draws[:, 1]) * 2 + draws[:, 2]
    counts = torch.bincount(cells, minlength=50)
    chi_square = ((counts - 1000.0) ** 2 / 1000).sum()
    assert len(counts) == 50
    assert chi_square < 85.4  # the 0.1 % quantile of 49 degrees of freedom


def test_flips_have_the_given_probability() -> None:
    draws = Augmentation(horizontal_flip=0.2).draw(40_000, torch.Generator().manual_seed(1))
    assert draws[:, 2].double().mean().item() == pytest.approx(0.2, abs=0.008)  # four standard deviations
    assert not draws[:, :2].any()


def test_the_distribution_is_that_of_torchvision() -> None:
    """Which outcome torchvision drew is read off an image without symmetry; both must be as frequent, each 1 / 18."""
    image = torch.arange(16, dtype=torch.uint8).reshape(1, 4, 4) + 1
    augmentation = Augmentation(crop_padding=1, horizontal_flip=0.5)
    every = torch.cartesian_prod(torch.arange(3), torch.arange(3), torch.arange(2))
    outcomes = augmentation(image.expand(18, -1, -1, -1), every).flatten(1)
    assert len(outcomes.unique(dim=0)) == 18
    theirs = v2.Compose([v2.RandomCrop(4, padding=1), v2.RandomHorizontalFlip(0.5)])
    state = torch.get_rng_state()
    torch.manual_seed(0)
    drawn = torch.stack([theirs(image).flatten() for _ in range(9_000)])
    torch.set_rng_state(state)
    ours = augmentation(
        image.expand(9_000, -1, -1, -1), augmentation.draw(9_000, torch.Generator().manual_seed(2))
    ).flatten(1)
    for sample in (drawn, ours):
        counts = (sample[:, None] == outcomes).all(-1).sum(0)
        assert counts.sum() == 9_000  # no outcome but these
        assert ((counts - 500.0) ** 2 / 500).sum() < 40.8  # the 0.1 % quantile of 17 degrees of freedom


def test_normalisation_is_bit_for_bit_that_of_torchvision(images: Tensor) -> None:
    mean, std = ([0.5], [0.3]) if images.shape[1] == 1 else ([0.5074, 0.4867, 0.4411], [0.267, 0.256, 0.276])
    theirs = torch.stack([tv1.normalize(tv1.to_tensor(image.permute(1, 2, 0).numpy()), mean, std) for image in images])
    assert torch.equal(Normalization(mean, std)(images), theirs)


def test_one_value_normalises_every_channel() -> None:
    white = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    assert torch.equal(Normalization([0.5], [0.25])(white), torch.full((1, 3, 2, 2), 2.0))


def test_nothing_asked_for_changes_nothing(images: Tensor) -> None:
    augmentation = Augmentation()
    assert augmentation(images, augmentation.draw(len(images), torch.Generator())) is images


@pytest.mark.parametrize(
    ("options", "message"),
    [({"crop_padding": -1}, "crop_padding must be at least 0"), ({"horizontal_flip": 1.5}, "probability in")],
)
def test_impossible_augmentations_are_named(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Augmentation(**options)


@pytest.mark.parametrize(("mean", "std"), [([0.5], [0.1, 0.1]), ([], []), ([0.5], [0.0])])
def test_impossible_normalisations_are_named(mean: list[float], std: list[float]) -> None:
    with pytest.raises(ValueError, match="std"):
        Normalization(mean, std)


def test_rotation_has_the_pixels_of_torchvision() -> None:
    images = torch.randint(0, 256, (12, 3, 17, 17), dtype=torch.uint8, generator=torch.Generator())
    degrees = torch.linspace(-180, 180, 12)
    for image, angle, ours in zip(images, degrees.tolist(), affine(images, degrees=degrees), strict=True):
        theirs = tv.rotate(image, angle, InterpolationMode.BILINEAR)
        assert (ours.int() - theirs.int()).abs().max() <= 1


def test_rotation_keeps_the_shape_of_what_is_not_square() -> None:
    images = torch.randint(0, 256, (1, 1, 9, 15), dtype=torch.uint8, generator=torch.Generator())
    ours, theirs = affine(images, degrees=torch.tensor([90.0])), images[..., 3:12].rot90(1, (-2, -1))
    assert torch.equal(ours[..., 3:12], theirs)
    assert not ours[..., :3].any()


@pytest.mark.parametrize("position", [(0.0, 0.0), (1.0, 0.0), (0.5, 0.5), (0.25, 1.0)])
def test_a_window_has_the_pixels_of_torchvision(position: tuple[float, float]) -> None:
    images = torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator())
    ours = affine(images, degrees=torch.zeros(1), scale=torch.tensor([0.5]), position=torch.tensor([position]))
    top, left = (round(8 * p) for p in position)
    theirs = tv.resized_crop(images, top, left, 8, 8, [16, 16], antialias=False)
    inside = slice(1, 15)  # at the rim torchvision sees the window alone, here the pixels beside it are seen too
    assert (ours.int() - theirs.int())[..., inside, inside].abs().max() <= 1


def test_affine_draws_are_uniform_and_leave_the_others_as_they_were() -> None:
    plain = Augmentation(crop_padding=2, horizontal_flip=0.5)
    full = Augmentation(crop_padding=2, horizontal_flip=0.5, rotation=30, resized_crop=(0.25, 1.0))
    before, draws = (a.draw(20_000, torch.Generator().manual_seed(3)) for a in (plain, full))
    assert before.dtype == torch.int64
    assert torch.equal(draws[:, :3].long(), before)
    angle, area, place = draws[:, 3], draws[:, 4].square(), draws[:, 5:]
    assert (angle >= -30).all() and (angle <= 30).all()
    assert angle.std().item() == pytest.approx(60 / 12**0.5, rel=0.02)
    assert area.min() >= 0.25 and area.max() <= 1
    assert area.mean().item() == pytest.approx(0.625, abs=0.01)
    assert place.mean(0).tolist() == pytest.approx([0.5, 0.5], abs=0.01)


def test_everything_together_stays_in_bytes_and_channels_last(images: Tensor) -> None:
    augmentation = Augmentation(crop_padding=1, horizontal_flip=0.5, rotation=20, resized_crop=(0.5, 1.0))
    changed = augmentation(images, augmentation.draw(len(images), torch.Generator().manual_seed(0)))
    assert changed.dtype == torch.uint8
    assert changed.shape == images.shape
    assert changed.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rotation": 181.0}, "rotation must be from 0 to 180"),
        ({"resized_crop": (0.0, 1.0)}, "resized_crop is the least and the largest"),
        ({"resized_crop": (0.8, 0.5)}, r"got \[0\.8, 0\.5\]"),
    ],
)
def test_impossible_windows_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Augmentation(**options)


@pytest.mark.parametrize("size", [6, 80])
def test_flips_are_those_of_the_mask_whatever_the_size(size: int) -> None:
    images = torch.randint(0, 256, (5, 3, size, size + 2), dtype=torch.uint8).contiguous(
        memory_format=torch.channels_last
    )
    chosen = torch.tensor([True, False, False, True, True])
    flipped = flip(images, chosen)
    assert torch.equal(flipped, torch.where(chosen[:, None, None, None], images.flip(-1), images))
    assert flipped.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("values", [1, 3])
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_normalised_bits_do_not_depend_on_the_memory_format(values: int, memory_format: torch.memory_format) -> None:
    images = torch.randint(0, 256, (2, 3, 9, 7), dtype=torch.uint8).contiguous(memory_format=memory_format)
    mean, std = [0.485, 0.456, 0.406][:values], [0.229, 0.224, 0.225][:values]
    by_hand = images.to(torch.float32) / 255
    by_hand = (by_hand - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    found = Normalization(mean, std)(images)
    assert torch.equal(found, by_hand)
    assert found.is_contiguous(memory_format=memory_format)

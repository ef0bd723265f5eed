from __future__ import annotations

import pytest
import torch

from hyplearn.data.errors import DatasetError
from hyplearn.data.reading.images import ImageArrays


def arrays(*, channels: int = 3, size: int = 8, count: int = 5) -> ImageArrays:
    pixels = torch.randint(0, 256, (count, size, size, channels), dtype=torch.uint8, generator=torch.Generator())
    return ImageArrays(pixels, torch.arange(count))


def test_batches_are_channels_last_views_of_the_rows() -> None:
    images = arrays()
    (batch,) = images.batches([torch.tensor([4, 1])], epoch=0)
    assert batch.shape == (2, 3, 8, 8)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch[1, 2], images.pixels[1, :, :, 2])


def test_grey_is_repeated_and_colour_becomes_luma() -> None:
    grey = arrays(channels=1)
    colour = grey.converted(channels=3, size=8)
    assert torch.equal(colour.pixels, grey.pixels.expand(-1, -1, -1, 3))
    back = colour.converted(channels=1, size=8).pixels
    assert (back.int() - grey.pixels.int()).abs().max() <= 1
    red = ImageArrays(
        torch.tensor([200, 0, 0], dtype=torch.uint8).expand(1, 8, 8, 3), torch.zeros(1, dtype=torch.int64)
    )
    assert red.converted(channels=1, size=8).pixels.unique().item() == 59  # 0.299 of it


def test_resizing_keeps_a_constant_image_and_the_mean() -> None:
    constant = ImageArrays(torch.full((1, 8, 8, 1), 77, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))
    assert constant.converted(channels=1, size=32).pixels.shape == (1, 32, 32, 1)
    assert constant.converted(channels=1, size=32).pixels.unique().tolist() == [77]
    images = arrays(size=32)
    smaller = images.converted(channels=3, size=8).pixels.double()
    assert smaller.mean().item() == pytest.approx(images.pixels.double().mean().item(), abs=1)


def test_nothing_to_convert_keeps_the_pixels() -> None:
    images = arrays()
    assert torch.equal(images.converted(channels=3, size=8).pixels, images.pixels)


def test_two_channels_cannot_become_three() -> None:
    with pytest.raises(DatasetError, match="images of 2 channels cannot become images of 3"):
        arrays(channels=2).converted(channels=3, size=8)


def test_the_hash_sees_pixels_labels_and_shape() -> None:
    images = arrays()
    assert images.sha256() == arrays().sha256()
    pixels, labels = images.pixels.clone(), images.labels.clone()
    pixels[0, 0, 0, 0] ^= 1
    labels[0] = 1
    others = [
        ImageArrays(pixels, images.labels),
        ImageArrays(images.pixels, labels),
        ImageArrays(images.pixels.reshape(5, 4, 16, 3), images.labels),
    ]
    assert len({images.sha256(), *(other.sha256() for other in others)}) == 4


def test_floating_point_pixels_are_refused() -> None:
    with pytest.raises(ValueError, match="need pixels"):
        ImageArrays(torch.zeros(2, 4, 4, 1), torch.zeros(2, dtype=torch.int64))

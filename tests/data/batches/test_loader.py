from __future__ import annotations

from typing import Any

import pytest
import torch

from hyplearn.data.batches.loader import Batch, ImageLoader
from hyplearn.data.batches.sampler import OrderedBatches, ShuffledBatches
from hyplearn.data.batches.transforms import Augmentation
from hyplearn.data.reading.images import ImageArrays

SAMPLES = 26


def loader(
    *, seed: int = 0, batch_size: int = 4, rank: int = 0, world_size: int = 1, samples: int = SAMPLES
) -> ImageLoader:
    pixels = torch.randint(0, 256, (samples, 6, 6, 3), dtype=torch.uint8, generator=torch.Generator())
    return ImageLoader(
        ImageArrays(pixels, torch.arange(samples) % 5),
        ShuffledBatches(torch.arange(samples), batch_size=batch_size, seed=seed, world_size=world_size),
        seed=seed,
        augmentation=Augmentation(crop_padding=2, horizontal_flip=0.5),
        rank=rank,
        world_size=world_size,
    )


def equal(first: Batch, second: Batch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_batch_has_the_images_labels_and_draws_of_its_ids() -> None:
    images = loader()
    batches = list(images)
    assert len(batches) == len(images) == 7
    for batch in batches:
        assert batch.draws is not None
        assert len(batch.images) == len(batch.labels) == len(batch.ids) == len(batch.draws)
        assert torch.equal(batch.labels, batch.ids % 5)
        assert torch.equal(batch.images, images.images.pixels[batch.ids].permute(0, 3, 1, 2))


def test_an_epoch_repeats_and_epochs_differ() -> None:
    first, second = loader(), loader()
    list(first)
    assert all(map(equal, first, second))
    second.sampler.set_epoch(1)
    other = list(second)
    assert not any(map(equal, first, other))


@pytest.mark.parametrize("stop", [0, 1, 3, 6, 7])
def test_a_resumed_epoch_goes_on_with_the_same_batches(stop: int) -> None:
    whole = loader()
    whole.sampler.set_epoch(2)
    expected = list(whole)
    interrupted = loader()
    interrupted.sampler.set_epoch(2)
    iterator = iter(interrupted)
    seen = [next(iterator) for _ in range(stop)]
    resumed = loader()
    resumed.load_state_dict(interrupted.state_dict())
    assert resumed.state_dict()["batch"] == stop
    resumed.sampler.set_epoch(2)
    seen += list(resumed)
    assert len(seen) == 7
    assert all(map(equal, seen, expected))
    assert len(list(resumed)) == 7  # and the position is used once


def test_the_state_is_plain_numbers() -> None:
    images = loader(seed=3)
    images.sampler.set_epoch(4)
    next(iter(images))
    assert images.state_dict() == {"epoch": 4, "batch": 1, "batches": 7, "seed": 3}
    assert len(images) == 7


def test_another_epoch_starts_at_its_beginning() -> None:
    images = loader()
    images.load_state_dict({"epoch": 0, "batch": 5, "batches": 7, "seed": 0})
    images.sampler.set_epoch(1)
    assert len(list(images)) == 7


@pytest.mark.parametrize(("changes", "other"), [({"batch_size": 8}, 4), ({"seed": 1}, 7)])
def test_going_on_in_an_epoch_of_other_batches_is_refused(changes: dict[str, Any], other: int) -> None:
    images = loader(**changes)
    assert len(images) == other
    with pytest.raises(ValueError, match=f"at batch 3 of 7 .* has {other} batches"):
        images.load_state_dict({"epoch": 0, "batch": 3, "batches": 7, "seed": 0})
    images.load_state_dict({"epoch": 0, "batch": 7, "batches": 7, "seed": 0})  # between epochs nothing is lost


@pytest.mark.parametrize("world_size", [2, 4])
def test_the_processes_together_see_the_batches_of_one(world_size: int) -> None:
    alone = list(loader(batch_size=8, samples=32))
    parts = [list(loader(batch_size=8, samples=32, rank=rank, world_size=world_size)) for rank in range(world_size)]
    for number, batch in enumerate(alone):
        together = [torch.cat(fields) for fields in zip(*(part[number] for part in parts), strict=True)]
        assert all(map(torch.equal, together, batch))


def test_evaluation_has_no_draws_and_no_duplicates() -> None:
    images = loader().images
    shards = [
        ImageLoader(
            images, OrderedBatches(torch.arange(SAMPLES), batch_size=8, world_size=3), seed=0, rank=rank, world_size=3
        )
        for rank in range(3)
    ]
    batches = [list(shard) for shard in shards]
    assert {len(part) for part in batches} == {4}
    assert all(batch.draws is None for part in batches for batch in part)
    ids = torch.cat([batch.ids for part in batches for batch in part])
    assert torch.equal(ids.sort().values, torch.arange(SAMPLES))

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyplearn.data.batches.sampler import (
    ClassBalancedBatches,
    OrderedBatches,
    ShuffledBatches,
    UniqueClassBatches,
    check_class_batches,
    share,
)


def test_every_sample_comes_once_an_epoch_in_a_new_order() -> None:
    ids = torch.arange(100, 153)
    sampler = ShuffledBatches(ids, batch_size=10, seed=1)
    epochs = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        batches = sampler.batches()
        assert [len(batch) for batch in batches] == [10] * 5 + [3]
        assert len(sampler) == 6
        epochs.append(torch.cat(batches))
        assert epochs[-1].sort().values.equal(ids)
    assert not epochs[0].equal(epochs[1])


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    first, second = (ShuffledBatches(torch.arange(50), batch_size=50, seed=1) for _ in range(2))
    other = ShuffledBatches(torch.arange(50), batch_size=50, seed=2)
    second.batches()  # drawing moves no state
    second.set_epoch(7)
    first.set_epoch(7)
    other.set_epoch(7)
    assert first.batches()[0].equal(second.batches()[0])
    assert not first.batches()[0].equal(other.batches()[0])


@pytest.mark.parametrize(
    ("samples", "drop_last", "world_size", "sizes"),
    [
        (21, False, 1, [10, 10]),  # a single image, which a batch norm cannot normalise
        (22, False, 1, [10, 10, 2]),
        (22, True, 1, [10, 10]),
        (25, False, 2, [10, 10, 4]),  # equal shares
        (23, False, 2, [10, 10]),  # 1 for each process
    ],
)
def test_the_last_batch(samples: int, drop_last: bool, world_size: int, sizes: list[int]) -> None:
    sampler = ShuffledBatches(torch.arange(samples), batch_size=10, seed=0, world_size=world_size, drop_last=drop_last)
    assert [len(batch) for batch in sampler.batches()] == sizes
    assert len(sampler) == len(sizes)


@pytest.mark.parametrize(("batch_size", "world_size"), [(1, 1), (10, 4), (4, 4)])
def test_batch_sizes_that_cannot_be_shared_are_named(batch_size: int, world_size: int) -> None:
    with pytest.raises(ValueError, match=f"multiple of the {world_size} processes .* got {batch_size}"):
        ShuffledBatches(torch.arange(100), batch_size=batch_size, seed=0, world_size=world_size)


def test_an_epoch_without_a_batch_is_an_error() -> None:
    with pytest.raises(ValueError, match="9 training samples do not fill one batch"):
        ShuffledBatches(torch.arange(9), batch_size=10, seed=0, drop_last=True)


@given(samples=st.integers(1, 100), batch_size=st.integers(1, 64), world_size=st.integers(1, 5), training=st.booleans())
@settings(deadline=None, max_examples=80)
def test_shares_in_rank_order_are_the_batches(samples: int, batch_size: int, world_size: int, training: bool) -> None:
    ids = torch.arange(samples)
    try:
        sampler = (
            ShuffledBatches(ids, batch_size=batch_size, seed=0, world_size=world_size)
            if training
            else OrderedBatches(ids, batch_size=batch_size, world_size=world_size)
        )
    except ValueError:
        return
    seen = []
    for batch in sampler.batches():
        parts = [batch[share(batch, rank=rank, world_size=world_size)] for rank in range(world_size)]
        assert torch.cat(parts).equal(batch)
        assert len(batch) <= batch_size
        assert min(map(len, parts)) >= (2 if training else 1)  # no process waits for another
        assert not training or len(set(map(len, parts))) == 1
        seen.append(batch)
    everything = torch.cat(seen).sort().values
    if training:
        assert len(everything.unique()) == len(everything)
        assert samples - len(everything) < 2 * world_size
    else:
        assert everything.equal(ids)


def test_evaluation_that_cannot_be_shared_is_an_error() -> None:
    with pytest.raises(ValueError, match="3 samples in batches of 8 cannot be shared by 4 processes"):
        OrderedBatches(torch.arange(3), batch_size=8, world_size=4)


def test_evaluation_of_nothing_has_no_batch() -> None:
    sampler = OrderedBatches(torch.arange(0), batch_size=8)
    assert (len(sampler), sampler.batches()) == (0, [])


CLASS_SAMPLERS = [UniqueClassBatches, ClassBalancedBatches]
# Classes 0 to 5 of 12, 12, 12, 3, 1 and 20 images, in no order.
SIZES = [12, 12, 12, 3, 1, 20]
LABELS = torch.arange(6).repeat_interleave(torch.tensor(SIZES))[torch.randperm(60, generator=torch.Generator())]


@pytest.mark.parametrize("kind", CLASS_SAMPLERS)
def test_class_batches_hold_as_many_images_of_each_class_side_by_side(kind: type[UniqueClassBatches]) -> None:
    sampler = kind(LABELS, batch_size=12, images_per_class=4, seed=3)
    for epoch in range(20):
        sampler.set_epoch(epoch)
        batches = sampler.batches()
        assert len(batches) == len(sampler)
        for batch in batches:
            rows = LABELS[batch].reshape(3, 4)
            assert (rows == rows[:, :1]).all()
            assert len(rows[:, 0].unique()) == 3
            for ids, label in zip(batch.reshape(3, 4), rows[:, 0].tolist(), strict=True):
                _, times = ids.unique(return_counts=True)
                assert len(times) == min(SIZES[label], 4)  # without replacement where there are enough
                assert times.max() - times.min() <= 1


@pytest.mark.parametrize("kind", CLASS_SAMPLERS)
def test_class_batches_are_a_function_of_seed_and_epoch(kind: type[UniqueClassBatches]) -> None:
    first, second = (kind(LABELS, batch_size=8, images_per_class=4, seed=1) for _ in range(2))
    other = kind(LABELS, batch_size=8, images_per_class=4, seed=2)
    second.batches()
    for sampler in (first, second, other):
        sampler.set_epoch(5)
    assert torch.cat(first.batches()).equal(torch.cat(second.batches()))
    assert not torch.cat(first.batches()).equal(torch.cat(other.batches()))
    second.set_epoch(6)
    assert not torch.cat(first.batches()).equal(torch.cat(second.batches()))


@pytest.mark.parametrize("kind", CLASS_SAMPLERS)
def test_class_batches_do_not_depend_on_the_number_of_processes(kind: type[UniqueClassBatches]) -> None:
    samplers = [kind(LABELS, batch_size=12, images_per_class=4, seed=1, world_size=size) for size in (1, 2, 3)]
    expected = torch.cat(samplers[0].batches())
    for sampler in samplers[1:]:
        assert torch.cat(sampler.batches()).equal(expected)


def test_an_epoch_of_unique_classes_has_each_class_once_but_for_the_remainder() -> None:
    sampler = UniqueClassBatches(LABELS, batch_size=16, images_per_class=4, seed=0)
    left_out = set()
    for epoch in range(30):
        sampler.set_epoch(epoch)
        (batch,) = sampler.batches()  # 4 of the 6 classes
        assert len(LABELS[batch].unique()) == 4
        left_out |= set(range(6)) - set(LABELS[batch].tolist())
    assert left_out == set(range(6))
    assert len(UniqueClassBatches(LABELS, batch_size=12, images_per_class=4, seed=0)) == 2


def test_unique_classes_draw_every_image_and_class_with_equal_frequency() -> None:
    sampler = UniqueClassBatches(LABELS, batch_size=12, images_per_class=4, seed=0)
    counts = torch.zeros(60)
    for epoch in range(600):
        sampler.set_epoch(epoch)
        counts += torch.bincount(torch.cat(sampler.batches()), minlength=60)
    for label, size in enumerate(SIZES):
        expected = 600 * 4 / size
        assert counts[label == LABELS].sum() == 600 * 4  # two batches of three classes: all six
        deviation = (counts[label == LABELS] - expected).abs().max()
        assert deviation < 4.5 * expected**0.5


def test_an_epoch_of_balanced_classes_has_as_many_batches_as_the_images_fill() -> None:
    sampler = ClassBalancedBatches(LABELS, batch_size=8, images_per_class=4, seed=0)
    assert len(sampler) == 60 // 8
    classes = torch.cat([LABELS[batch][::4] for batch in sampler.batches()])
    assert len(classes) == 14
    drawn = torch.zeros(6)
    for epoch in range(300):
        sampler.set_epoch(epoch)
        drawn += torch.bincount(torch.cat([LABELS[batch][::4] for batch in sampler.batches()]), minlength=6)
    assert (drawn - 700).abs().max() < 4.5 * 700**0.5  # whatever the size of the class


def test_with_replacement_both_images_of_a_pair_are_one_as_often_as_chance_has_it() -> None:
    """A pair of a class of n images is one image with probability 1 / n, as in HIER."""
    sampler = ClassBalancedBatches(LABELS, batch_size=12, images_per_class=2, seed=0, replacement=True)
    same, pairs = torch.zeros(6), torch.zeros(6)
    for epoch in range(400):
        sampler.set_epoch(epoch)
        for batch in sampler.batches():
            one, two = batch.reshape(6, 2).unbind(1)
            assert LABELS[one].equal(LABELS[two])
            assert len(LABELS[one].unique()) == 6
            pairs += torch.bincount(LABELS[one], minlength=6)
            same += torch.bincount(LABELS[one][one == two], minlength=6)
    expected = 1 / torch.tensor(SIZES)
    spread = (expected * (1 - expected) / pairs).sqrt()
    assert ((same / pairs - expected).abs() <= 4.5 * spread).all()
    sampler.set_epoch(3)
    assert all(map(torch.equal, sampler.batches(), sampler.batches()))


def test_classes_without_an_image_are_not_drawn() -> None:
    labels = torch.tensor([0, 0, 2, 2, 5, 5])
    sampler = UniqueClassBatches(labels, batch_size=6, images_per_class=2, seed=0)
    assert sorted(labels[sampler.batches()[0]].tolist()) == [0, 0, 2, 2, 5, 5]


@pytest.mark.parametrize("kind", CLASS_SAMPLERS)
@pytest.mark.parametrize(
    ("batch_size", "images_per_class", "world_size", "message"),
    [
        (28, 4, 1, "a batch of 28 with images_per_class=4 needs 7 classes, but 6 are trained on: set batch_size to 24"),
        (10, 4, 1, "multiple of images_per_class=4, and hold at least 2 classes, got 10: try 8"),
        (4, 4, 1, "got 4: try 8"),
        (20, 4, 3, "of the 3 processes, .* got 20: try 24"),
        (8, 1, 1, "images_per_class must be at least 2"),
    ],
)
def test_class_batches_that_cannot_be_formed_are_named(
    kind: type[UniqueClassBatches], batch_size: int, images_per_class: int, world_size: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        kind(LABELS, batch_size=batch_size, images_per_class=images_per_class, seed=0, world_size=world_size)
    with pytest.raises(ValueError, match=message):  # the same, before any label is known
        check_class_batches(batch_size=batch_size, images_per_class=images_per_class, classes=6, world_size=world_size)


def test_too_few_images_for_a_balanced_epoch_are_named() -> None:
    with pytest.raises(ValueError, match="6 training samples do not fill one batch of 8: set images_per_class to 2"):
        ClassBalancedBatches(torch.tensor([0, 0, 0, 1, 1, 1]), batch_size=8, images_per_class=4, seed=0)


@pytest.mark.parametrize("images_per_class", [2, 3, 4, 32])
@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize(("classes", "each"), [(2, 6), (2, 2), (3, 5), (5, 3), (9, 4)])
def test_advice_about_a_batch_that_is_too_large_can_be_followed(
    classes: int, each: int, world_size: int, images_per_class: int
) -> None:
    labels = torch.arange(classes).repeat_interleave(each)
    options = {"images_per_class": images_per_class, "world_size": world_size, "seed": 0}
    with pytest.raises(ValueError, match=r"images_per_class|batch") as refused:
        ClassBalancedBatches(labels, batch_size=40 * images_per_class * world_size, **options)
    advised = re.search(r"(?:images_per_class to (\d+) and )?batch_size to (\d+)", str(refused.value))
    if advised is None:
        assert re.search("use fewer processes|add images", str(refused.value))
        assert min(classes * 2, classes * each) < 2 * max(2, world_size)
        return
    followed = options | {"images_per_class": int(advised[1] or images_per_class)}
    assert len(ClassBalancedBatches(labels, batch_size=int(advised[2]), **followed)) >= 1

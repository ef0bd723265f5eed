from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyplearn.data.sampler import OrderedBatches, ShuffledBatches, share


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

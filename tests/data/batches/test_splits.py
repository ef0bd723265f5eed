from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hyplearn.data.batches.splits import held_out_classes, stratified_split, stratified_subset

label_lists = st.lists(st.integers(0, 6), min_size=20, max_size=120).map(torch.tensor)


@given(labels=label_lists, fraction=st.floats(0.05, 0.5), seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=50)
def test_a_split_is_a_partition_in_proportion(labels: Tensor, fraction: float, seed: int) -> None:
    kept, held_out = stratified_split(labels, fraction, seed=seed, purpose="validation")
    assert torch.equal(torch.cat([kept, held_out]).sort().values, torch.arange(len(labels)))
    assert len(held_out) == round(fraction * len(labels))
    expected = fraction * torch.bincount(labels, minlength=7)
    # A class is off by less than one image for itself, and the total by what the other classes' rounding leaves.
    assert ((torch.bincount(labels[held_out], minlength=7) - expected).abs() <= 1.5).all()
    assert (torch.bincount(labels[kept], minlength=7) > 0).equal(torch.bincount(labels, minlength=7) > 0)


def test_equal_classes_are_split_equally() -> None:
    _, held_out = stratified_split(torch.arange(1000) % 10, 0.1, seed=1, purpose="validation")
    assert torch.bincount(torch.arange(1000)[held_out] % 10).tolist() == [10] * 10


def test_a_class_of_one_image_stays_in_training() -> None:
    kept, _ = stratified_split(torch.tensor([0] * 9 + [1]), 0.8, seed=0, purpose="validation")
    assert 9 in kept


def test_a_split_depends_on_seed_and_purpose() -> None:
    labels = torch.arange(200) % 4
    splits = [
        stratified_split(labels, 0.2, seed=seed, purpose=purpose)[1]
        for seed, purpose in ((0, "test"), (0, "test"), (1, "test"), (0, "validation"))
    ]
    assert splits[0].equal(splits[1])
    assert not splits[0].equal(splits[2])
    assert not splits[0].equal(splits[3])


def test_fraction_zero_holds_nothing_out() -> None:
    kept, held_out = stratified_split(torch.arange(5), 0.0, seed=0, purpose="validation")
    assert kept.tolist() == [0, 1, 2, 3, 4]
    assert len(held_out) == 0


@pytest.mark.parametrize("fraction", [-0.1, 1.0])
def test_impossible_fractions_are_named(fraction: float) -> None:
    with pytest.raises(ValueError, match="validation fraction must be in"):
        stratified_split(torch.arange(5), fraction, seed=0, purpose="validation")


def test_a_fraction_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"0\.01 of 20 samples is none"):
        stratified_split(torch.zeros(20, dtype=torch.int64), 0.01, seed=0, purpose="validation")


@given(labels=label_lists, seed=st.integers(0, 1000), data=st.data())
@settings(deadline=None, max_examples=50)
def test_a_subset_has_the_count_and_every_class(labels: Tensor, seed: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(len(labels.unique()), len(labels)))
    chosen = stratified_subset(labels, count, seed=seed)
    assert len(chosen.unique()) == count
    assert labels[chosen].unique().equal(labels.unique())


def test_a_subset_of_equal_classes_is_equal() -> None:
    labels = torch.arange(100) % 5
    assert torch.bincount(labels[stratified_subset(labels, 20, seed=3)]).tolist() == [4] * 5


@pytest.mark.parametrize("count", [4, 101])
def test_a_subset_outside_the_range_is_named(count: int) -> None:
    with pytest.raises(ValueError, match=f"limit_train must be from 5 .* to 100 .*, got {count}"):
        stratified_subset(torch.arange(100) % 5, count, seed=0)


def test_held_out_classes_are_a_share_that_the_seed_chooses() -> None:
    kept, held_out = held_out_classes(100, 0.1, seed=0)
    assert (len(kept), len(held_out)) == (90, 10)
    assert torch.cat([kept, held_out]).sort().values.equal(torch.arange(100))
    assert kept.equal(kept.sort().values)
    assert not held_out_classes(100, 0.1, seed=1)[1].equal(held_out)
    assert held_out_classes(3, 0.0, seed=0)[0].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("count", "fraction", "message"),
    [
        (10, 0.1, r"of 10 training classes holds out 1 and keeps 9, .* set val_fraction=0\.2 or set val_fraction=0 "),
        (10, 0.01, "holds out 0 and keeps 10"),
        (10, 0.9, "holds out 9 and keeps 1"),
        (3, 0.5, "at least 2 of each: set val_fraction=0 to validate on nothing"),
    ],
)
def test_a_single_class_on_one_side_is_an_error(count: int, fraction: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        held_out_classes(count, fraction, seed=0)

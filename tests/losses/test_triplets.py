from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from hyplearn.losses.triplets import draw_triplets, generator_on, reciprocal_neighbours, reciprocal_triplets


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_distances(size: int, seed: int = 0) -> Tensor:
    x = torch.randn(size, 8, dtype=torch.float64, generator=seeded(seed))
    return torch.cdist(x, x)


def brute_force_sets(distances: Tensor, labels: list[int] | None, k: int) -> list[set[int]]:
    """Reciprocal neighbours by the words of the definition."""
    size = len(distances)
    nearest = []
    for i in range(size):
        mate = [labels is not None and labels[i] == labels[j] for j in range(size)]
        order = sorted(range(size), key=lambda j: (not mate[j], distances[i, j].item()))
        nearest.append(set(order[:k]))
    return [{j for j in nearest[i] if i in nearest[j] and j != i} for i in range(size)]


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize(("size", "k"), [(30, 5), (30, 1), (12, 20)])
def test_reciprocal_neighbours_are_those_of_a_brute_force(labelled: bool, size: int, k: int) -> None:
    distances = random_distances(size)
    labels = torch.arange(size) % 10 if labelled else None
    neighbours, mutual = reciprocal_neighbours(distances, labels, topk=k)
    found = [
        {j for j, m in zip(*row, strict=True) if m} for row in zip(neighbours.tolist(), mutual.tolist(), strict=True)
    ]
    assert found == brute_force_sets(distances, None if labels is None else labels.tolist(), k)


@pytest.mark.parametrize("labelled", [False, True])
def test_triplets_are_drawn_uniformly_from_the_sets(labelled: bool) -> None:
    distances, draws = random_distances(24), 6000
    labels = torch.arange(24) % 8 if labelled else None
    related = brute_force_sets(distances, None if labels is None else labels.tolist(), 4)
    triplets = reciprocal_triplets(distances, labels, topk=4, per_anchor=draws, generator=seeded())
    kept = [i for i in range(24) if len(related[i]) >= 2]
    assert 0 < len(kept) < 24 or labelled
    assert triplets.anchor.unique(return_counts=True)[0].tolist() == kept
    for i in kept:
        mine = triplets.anchor == i
        assert int(mine.sum()) == draws
        for drawn, allowed in (
            (triplets.partner[mine], related[i]),
            (triplets.other[mine], set(range(24)) - related[i] - {i}),
        ):
            values, counts = drawn.unique(return_counts=True)
            assert set(values.tolist()) == allowed
            expected = draws / len(allowed)
            assert float(((counts - expected).square() / expected).sum()) < 3 * len(allowed) + 20  # chi square


def test_the_anchor_is_never_its_own_partner_or_negative() -> None:
    triplets = reciprocal_triplets(random_distances(40), None, topk=5, per_anchor=500, generator=seeded())
    assert len(triplets.anchor) > 1000
    assert not (triplets.anchor == triplets.other).any()
    assert not (triplets.anchor == triplets.partner).any()
    assert not (triplets.partner == triplets.other).any()


def test_coincident_points_are_no_trouble() -> None:
    triplets = reciprocal_triplets(torch.zeros(50, 50), None, topk=5, per_anchor=3, generator=seeded())
    assert not (triplets.anchor == triplets.partner).any()


@pytest.mark.parametrize(
    ("distances", "topk"),
    [(torch.zeros(1, 1), 5), (random_distances(6), 1), (random_distances(6), 6)],
    ids=["one point", "only itself", "nothing is unrelated"],
)
def test_where_no_point_qualifies_there_is_no_triplet(distances: Tensor, topk: int) -> None:
    triplets = reciprocal_triplets(distances, None, topk=topk, per_anchor=50, generator=seeded())
    assert [index.shape for index in triplets.indices] == [(0,)] * 3


def test_triplets_are_a_function_of_the_generator() -> None:
    draw = lambda seed: reciprocal_triplets(random_distances(30), None, topk=8, per_anchor=5, generator=seeded(seed))  # noqa: E731
    for first, again, different in zip(draw(1).indices, draw(1).indices, draw(2).indices, strict=True):
        assert_close(first, again)
        assert first.shape == different.shape
    assert not torch.equal(draw(1).other, draw(2).other)


def test_the_same_number_of_random_numbers_is_taken_whatever_the_distances() -> None:
    after = []
    for seed in (3, 4):
        generator = seeded()
        reciprocal_triplets(random_distances(30, seed), None, topk=4, per_anchor=5, generator=generator)
        after.append(torch.rand((), generator=generator))
    assert_close(*after)


def test_draws_respect_the_masks_of_a_rectangle() -> None:
    related = torch.tensor([[0, 1, 0, 0, 1], [0, 0, 0, 0, 0], [1, 0, 0, 0, 0]], dtype=torch.bool)
    unrelated = torch.tensor([[1, 0, 1, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]], dtype=torch.bool)
    triplets = draw_triplets(related, unrelated, per_anchor=300, generator=seeded())
    assert [index.unique().tolist() for index in triplets.indices] == [[0], [1, 4], [0, 2]]


def test_a_generator_of_the_device_is_used_itself() -> None:
    generator = seeded()
    assert generator_on(generator, torch.device("cpu")) is generator


@pytest.mark.gpu
def test_a_generator_of_the_cpu_serves_a_gpu() -> None:
    distances = random_distances(30).cuda()
    drawn = [reciprocal_triplets(distances, None, topk=8, per_anchor=5, generator=seeded(1)) for _ in range(2)]
    assert drawn[0].anchor.is_cuda
    for first, again in zip(*(one.indices for one in drawn), strict=True):
        assert_close(first, again)

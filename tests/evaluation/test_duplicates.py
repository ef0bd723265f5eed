from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from hyplearn.evaluation import duplicates
from hyplearn.evaluation.duplicates import groups_of, row_hashes
from hyplearn.evaluation.metric import Embeddings, Metric
from hyplearn.evaluation.neighbours import neighbours


def by_definition(points: list[Tensor]) -> list[int]:
    """The first row that equals each."""
    rows = np.concatenate([x.double().numpy() for x in points], 1)
    return [next(j for j, other in enumerate(rows) if (other == row).all()) for row in rows]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("collide", [False, True])
def test_equal_rows_are_one_group(dtype: torch.dtype, collide: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "COMPARED", 20)
    points = [torch.randint(-1, 2, (90, n)).to(dtype) * torch.tensor([1.0, -1.0]).to(dtype)[:n] for n in (1, 2)]
    hashes = row_hashes(points)
    if collide:
        hashes = hashes % 3
    groups = groups_of(points, hashes)
    assert groups.first[groups.number].tolist() == by_definition(points)
    assert (groups.first.diff() > 0).all()


def test_zero_is_zero_whatever_its_sign() -> None:
    assert row_hashes([torch.tensor([[0.0, 1.0]])]) == row_hashes([torch.tensor([[-0.0, 1.0]])])


def test_different_rows_have_different_hashes() -> None:
    """Among numbers of few bits, too, as features after rounding are."""
    x = torch.cartesian_prod(*[torch.arange(-20.0, 20.0)] * 3)
    assert len(row_hashes([x]).unique()) == len(x)
    assert len(row_hashes([x.double()]).unique()) == len(x)


def test_a_hash_is_the_same_number_everywhere() -> None:
    """Ranks and devices can compare them."""
    assert row_hashes([torch.tensor([[1.0, 2.0]])]).item() == HASH_OF_ONE_AND_TWO


HASH_OF_ONE_AND_TWO = 1104707502655668224


@pytest.mark.gpu
def test_a_gpu_hashes_as_a_cpu() -> None:
    x = torch.randn(1000, 17)
    assert torch.equal(row_hashes([x.cuda()]).cpu(), row_hashes([x]))


@pytest.mark.parametrize("index", ["faiss", "torch"])
def test_collisions_do_not_change_neighbours(index: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(30, 4)[torch.randint(0, 3, (400,))]
    x[200:] = torch.randn(200, 4)
    plain = neighbours(Embeddings(x, Metric("euclidean")), Embeddings(x, Metric("euclidean")), 9, index=index)
    monkeypatch.setattr(Embeddings, "hashes", property(lambda self: torch.zeros(len(self), dtype=torch.int64)))
    found = neighbours(Embeddings(x, Metric("euclidean")), Embeddings(x, Metric("euclidean")), 9, index=index)
    assert torch.equal(found.indices, plain.indices)


def test_coordinates_are_hashed_once_for_all_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = []
    monkeypatch.setattr("hyplearn.evaluation.metric.row_hashes", lambda points: hashed.append(1) or row_hashes(points))
    trained = Embeddings([torch.randn(50, 3), torch.randn(50, 2)], [Metric("euclidean"), Metric("sphere")])
    neighbours(trained, trained, 2)
    beside = trained.under(Metric("sphere"))
    neighbours(beside.select(torch.arange(0, 50, 2)), beside, 2)
    assert hashed == [1]
    assert torch.equal(beside.hashes, row_hashes(beside.points))

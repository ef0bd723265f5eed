from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from hyplearn.evaluation.clustering import clustering, flattened
from hyplearn.evaluation.metric import Embeddings, Metric
from hyplearn.geometry import lorentz, poincare
from hyplearn.geometry.isometry import lorentz_to_poincare


def test_tangent_vectors_keep_the_distance_to_the_origin() -> None:
    x = torch.randn(10, 3, dtype=torch.float64)
    on_hyperboloid = flattened(Embeddings(x, Metric("lorentz", 0.5)))
    in_ball = flattened(Embeddings(lorentz_to_poincare(x, c=0.5), Metric("poincare", 0.5)))
    assert_close(on_hyperboloid.norm(dim=-1), lorentz.dist0(x, c=0.5))
    assert_close(in_ball, on_hyperboloid)


def test_several_spaces_stand_side_by_side_weighted_as_their_dissimilarities() -> None:
    x, y = torch.randn(6, 2), torch.randn(6, 3)
    embeddings = Embeddings((x, y), (Metric("sphere", weight=2.0), Metric("euclidean", weight=3.0)))
    vectors = flattened(embeddings)
    assert_close(vectors[:, 2:], 3 * y.double())
    on_sphere = Embeddings(x, Metric("sphere", weight=2.0))
    first, second = torch.arange(3), torch.arange(3, 6)
    weighted = on_sphere.direct(first, on_sphere, second)  # 2 (2 - 2 cos)
    assert_close((vectors[:3, :2] - vectors[3:, :2]).square().sum(-1), weighted)


@pytest.mark.parametrize("metric", [Metric("poincare", 0.1), Metric("sphere")], ids=str)
def test_separate_classes_are_found_and_mixed_ones_are_not(metric: Metric) -> None:
    labels = torch.arange(4).repeat(15)
    centres = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    apart = poincare.expmap0(centres[labels] + 0.05 * torch.randn(60, 2), c=0.1)
    assert clustering(Embeddings(apart, metric), labels, seed=0) == pytest.approx({"nmi": 1.0, "ami": 1.0})
    mixed = clustering(Embeddings(apart, metric), labels[torch.randperm(60)], seed=0)
    assert mixed["nmi"] < 0.4
    assert mixed["ami"] < 0.2


def test_agreement_below_chance_is_negative() -> None:
    x = torch.tensor([[0.0], [1], [10], [11]])
    assert clustering(Embeddings(x, Metric("euclidean")), torch.tensor([0, 1, 0, 1]), seed=0)["ami"] < -0.1


def test_the_seed_decides() -> None:
    embeddings, labels = Embeddings(torch.randn(80, 4), Metric("euclidean")), torch.randint(0, 10, (80,))
    first = clustering(embeddings, labels, seed=3)
    assert clustering(embeddings, labels, seed=3) == first
    assert any(clustering(embeddings, labels, seed=seed) != first for seed in (4, 5))


def test_collapsed_embeddings_have_clusters_too() -> None:
    result = clustering(Embeddings(torch.ones(8, 2), Metric("euclidean")), torch.arange(4).repeat(2), seed=0)
    assert result["nmi"] == pytest.approx(0.0)


@pytest.mark.parametrize("size", [1e11, 1e20, 1e38, 1e70])
def test_embeddings_whose_squares_overflow_float32_have_clusters(size: float) -> None:
    labels = torch.arange(4).repeat(15)
    centres = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]], dtype=torch.float64)
    apart = Embeddings(size * (centres[labels] + 0.05 * torch.randn(60, 2)), Metric("euclidean"))
    assert clustering(apart, labels, seed=0) == pytest.approx({"nmi": 1.0, "ami": 1.0})

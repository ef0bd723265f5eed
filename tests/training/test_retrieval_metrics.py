"""Ranking is a function of embeddings, of the images they are of, and of what they are compared by."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hyplearn.data.sources.retrieval_source import Evaluation
from hyplearn.losses import PairwiseCrossEntropy
from hyplearn.manifolds import PoincareBall, Sphere
from hyplearn.nn.space import Space
from hyplearn.training.retrieval_metrics import NOTHING_RANKED, Compared, Embedded, rank
from hyplearn.training.settings import EvaluationSettings

LABELS = torch.tensor([0, 0, 1, 1, 2, 2])


def embedded() -> Embedded:
    """Each image is nearest to the other one of its class."""
    x = torch.nn.functional.normalize(torch.eye(3).repeat_interleave(2, 0) + 0.01 * torch.arange(18).reshape(6, 3) / 18)
    return Embedded(torch.arange(6), (x, 0.5 * x), x)


def evaluation(**changes: Any) -> Evaluation:
    everything = torch.ones(6, dtype=torch.bool)
    data = Evaluation(LABELS, everything, everything, None, ("a", "b", "c"), None, None)
    return data._replace(**changes)


def compared(**settings: Any) -> Compared:
    spaces = [Space(Sphere()), Space(PoincareBall(0.1))]
    evaluating = EvaluationSettings(k=[1, 2], index="torch", **settings)
    return Compared(spaces, PairwiseCrossEntropy(), evaluating, torch.device("cpu"), 0, 0)


def no_pixels(ids: Tensor) -> Tensor:
    raise AssertionError("nobody asked for pixels")


def test_the_test_is_ranked_by_the_trained_metric_and_by_those_beside_it() -> None:
    found = rank(embedded(), evaluation(), stage="test", compared=compared(), thumbnails=no_pixels)
    assert found.metrics["recall@1"] == found.metrics["cosine/recall@1"] == found.metrics["backbone/recall@1"] == 100
    assert {"sphere/recall@1", "poincare/recall@1", "euclidean/recall@1"} <= set(found.metrics)
    assert found.ranked is not None
    assert len(found.ranked.embeddings.points) == 2


def test_validation_is_ranked_by_the_trained_metric_alone() -> None:
    found = rank(embedded(), evaluation(), stage="val", compared=compared(), thumbnails=no_pixels)
    assert not any("/" in name for name in found.metrics)
    assert found.metrics["queries"] == 6


def test_ranking_twice_gives_the_same_and_changes_nothing() -> None:
    images, by = embedded(), compared(metrics=["pixels"])
    before = [x.clone() for x in (images.ids, *images.points, images.features)]

    def pixels(ids: Tensor) -> Tensor:
        return (LABELS[ids] * 40).to(torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 2, 2, 1)

    first, second = (rank(images, evaluation(), stage="test", compared=by, thumbnails=pixels) for _ in range(2))
    assert first.metrics == second.metrics
    assert first.metrics["pixels/recall@1"] == 100
    assert all(map(torch.equal, before, (images.ids, *images.points, images.features)))


@pytest.mark.parametrize("changes", [{"query": torch.zeros(6, dtype=torch.bool)}, {"labels": torch.arange(6)}])
def test_where_nothing_can_be_found_nothing_is_ranked(changes: dict[str, Any]) -> None:
    found = rank(embedded(), evaluation(**changes), stage="test", compared=compared(), thumbnails=no_pixels)
    assert found == NOTHING_RANKED

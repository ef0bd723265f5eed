from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from hyplearn.evaluation.metric import Embeddings, Metric
from hyplearn.plots.umap_layout import trained_distances, umap_layout


def test_distances_are_those_that_were_trained() -> None:
    points = 0.4 * torch.randn(30, 4, dtype=torch.float64)
    embeddings = Embeddings((points, points), (Metric("sphere"), Metric("poincare", 0.3, weight=2.5)))
    rows, columns = torch.cartesian_prod(torch.arange(30), torch.arange(30)).T
    expected = embeddings.direct(rows, embeddings, columns).view(30, 30).fill_diagonal_(0.0)
    assert_close(trained_distances(embeddings), expected, rtol=1e-7, atol=1e-7)


class Stub:
    """Stands for umap.UMAP, and keeps what it was asked."""

    asked: dict[str, Any]

    def __init__(self, **asked: Any) -> None:
        Stub.asked = asked

    def fit_transform(self, distances: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return distances[:, :2]


def test_umap_gets_the_distances_themselves_and_a_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=Stub))
    distances = torch.rand(9, 9)
    assert_close(umap_layout(distances, seed=4), distances[:, :2])
    assert (Stub.asked["metric"], Stub.asked["random_state"], Stub.asked["n_neighbors"]) == ("precomputed", 4, 8)
    with pytest.raises(ValueError, match="UMAP needs at least 5 points, got 4"):
        umap_layout(torch.zeros(4, 4), seed=0)


@pytest.mark.slow
def test_clusters_stay_apart_and_the_layout_repeats() -> None:
    pytest.importorskip("umap")
    labels = torch.arange(90) // 30
    points = 5 * torch.eye(3)[labels] + 0.1 * torch.randn(90, 3)
    distances = torch.cdist(points, points)
    layout = umap_layout(distances, seed=0)
    assert torch.equal(layout, umap_layout(distances, seed=0))
    nearest = (torch.cdist(layout, layout) + 1e9 * torch.eye(90)).argmin(1)
    assert (labels[nearest] == labels).all()

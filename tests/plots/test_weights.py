"""Weights of negatives from a stored batch."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
import torch

from hyplearn.evaluation.metric import Metric
from hyplearn.evaluation.store import Stored
from hyplearn.geometry import poincare
from hyplearn.plots.weights import check, curve, draw_weights, mean_weights

C, TAU, LAMBDA = 0.02, 0.05, 3.0  # a curvature that no default bound would admit


def batch(*, per_class: int = 2, tau: float = TAU) -> Stored:
    """Five classes on the sphere and in the ball."""
    count = 5 * per_class
    points = torch.randn(count, 3, generator=torch.Generator().manual_seed(1))
    everything = torch.ones(count, dtype=torch.bool)
    return Stored(
        points=(torch.nn.functional.normalize(points), points),
        labels=torch.arange(count) % 5,
        ids=100 + torch.arange(count),
        query=everything,
        gallery=everything,
        metrics=(Metric("sphere", weight=1 / tau), Metric("poincare", C, weight=LAMBDA / tau)),
    )


def exponents(stored: Stored, anchor: int) -> list[float]:
    """-D/tau of Yue Eq. 10."""
    sphere, ball = (x.double() for x in stored.points)
    return [
        -(2 - 2 * float(sphere[anchor] @ sphere[i]) + LAMBDA * float(poincare.dist(ball[anchor], ball[i], c=C))) / TAU
        for i in range(len(sphere))
    ]


def test_weights_are_those_of_the_loss() -> None:
    stored = batch()
    found = curve(stored, 3)
    e = exponents(stored, 3)
    positive = 8  # the other image of class 3
    negatives = sorted((i for i in range(10) if i not in (3, positive)), key=lambda i: -e[i])
    total = sum(math.exp(e[i]) for i in (positive, *negatives))
    assert found.negatives.tolist() == negatives
    assert found.weights.tolist() == pytest.approx([math.exp(e[i]) / total for i in negatives], rel=1e-6)


def test_the_mean_is_by_rank() -> None:
    stored = batch()
    each = torch.stack([curve(stored, anchor).weights for anchor in range(10)])
    assert mean_weights(stored) == pytest.approx(each.mean(0).tolist())


def test_a_small_temperature_listens_to_the_nearest() -> None:
    assert mean_weights(batch(tau=0.05))[0] > mean_weights(batch(tau=5.0))[0]


def test_every_weight_is_saved_with_its_distances(tmp_path: Path) -> None:
    one, other = batch(), batch(tau=0.2)
    written = draw_weights(tmp_path / "weights.png", {"one": one, "other": other}, [103, 107], title="Weights")
    assert [path.name for path in written] == ["weights.png", "weights.csv"]
    rows = list(csv.DictReader((tmp_path / "weights.csv").read_text().splitlines()))
    assert len(rows) == 2 * (2 * 8 + 8)
    mine = [row for row in rows if row["run"] == "one" and row["anchor"] == "103"]
    found = curve(one, 3)
    assert [int(row["negative"]) - 100 for row in mine] == found.negatives.tolist()
    assert {row["positive"] for row in mine} == {"108"}
    assert [float(row["weight"]) for row in mine] == pytest.approx(found.weights.tolist(), rel=1e-5)
    for row in mine:
        fused = float(row["distance_sphere"]) + LAMBDA * float(row["distance_poincare"])
        assert -fused / TAU == pytest.approx(exponents(one, 3)[int(row["negative"]) - 100], rel=1e-5)
    means = [float(row["weight"]) for row in rows if row["run"] == "other" and row["anchor"] == "mean"]
    assert means == pytest.approx(mean_weights(other), rel=1e-5)


def test_a_batch_needs_as_many_images_of_each_class() -> None:
    whole = batch(per_class=3)
    check(whole)
    kept = Stored(
        points=tuple(x[:14] for x in whole.points),
        labels=whole.labels[:14],
        ids=whole.ids[:14],
        query=whole.query[:14],
        gallery=whole.gallery[:14],
        metrics=whole.metrics,
    )
    with pytest.raises(ValueError, match="every class must have the same number"):
        check(kept)

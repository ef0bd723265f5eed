"""The weights of the negatives against loops, and as what they are: the gradient of the loss in its distances."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch
from torch import Tensor

from hyplearn.losses import PairwiseCrossEntropy
from hyplearn.losses.hard_negatives import hard_negatives, weight_curve
from hyplearn.losses.pairwise import pair_losses
from hyplearn.manifolds import Lorentz, PoincareBall, Sphere
from hyplearn.nn.space import Space, distances, space_names

F64 = torch.float64


def mix(m: int = 3, classes: int = 5) -> tuple[list[Tensor], Tensor, list[Space]]:
    ball = PoincareBall(0.1, learned=False)
    labels = torch.arange(classes).repeat(m)[torch.randperm(m * classes)]
    z = torch.nn.functional.normalize(torch.randn(2, m * classes, 4, dtype=F64), dim=-1)
    return [z[0], ball.expmap0(1.5 * z[1])], labels, [Space(Sphere()), Space(ball, weight=2.0)]


def loops(points: list[Tensor], labels: Tensor, spaces: list[Space], scales: list[float]) -> list[list[float]]:
    """p of the negatives of every anchor with every positive."""
    logits = -sum(s * d for s, d in zip(scales, distances(points, points, spaces), strict=True))
    assert isinstance(logits, Tensor)
    classes = [(labels == label).nonzero().flatten().tolist() for label in labels.unique()]
    found = []
    for i, j in permutations(range(len(classes[0])), 2):
        for own in classes:
            others = [c[i] for c in classes if c is not own] + [c[j] for c in classes if c is not own]
            terms = [math.exp(logits[own[i], k]) for k in others]
            found.append([t / (math.exp(logits[own[i], own[j]]) + sum(terms)) for t in terms])
    return found


@pytest.mark.parametrize("m", [2, 3])
def test_statistics_are_their_definitions(m: int) -> None:
    points, labels, spaces = mix(m)
    scales = [3.0, 1.2]
    found = hard_negatives(points, labels, spaces, scales, top=(1, 3, 100))
    for weights, used in ((found.fused, [0, 1]), (found.single["sphere"], [0]), (found.single["poincare"], [1])):
        p = loops([points[s] for s in used], labels, [spaces[s] for s in used], [scales[s] for s in used])
        q = [sorted((value / sum(row) for value in row), reverse=True) for row in p]
        entropies = [-sum(value * math.log(value) for value in row) for row in q]
        assert weights.total == pytest.approx(sum(map(sum, p)) / len(p))
        assert weights.largest == pytest.approx(max(map(max, p)))
        assert weights.entropy == pytest.approx(sum(entropies) / len(p))
        assert weights.effective == pytest.approx(sum(map(math.exp, entropies)) / len(p))
        assert weights.top == pytest.approx(
            {1: sum(r[0] for r in q) / len(q), 3: sum(sum(r[:3]) for r in q) / len(q), 100: 1}
        )


@pytest.mark.parametrize("m", [2, 4])
def test_weights_are_the_gradient_of_the_loss(m: int) -> None:
    """Eq. 9: the derivative of an anchor's loss in -D_k / tau is p_k, in -D_+ / tau minus their sum."""
    logits = torch.randn(m, 6, m, 6, dtype=F64, requires_grad=True)
    losses = pair_losses(logits)
    (gradient,) = torch.autograd.grad(losses[0, 1, 2], logits)
    terms = [logits[0, 2, s, b].exp().item() for s in (0, 1) for b in range(6) if b != 2]
    positive = logits[0, 2, 1, 2].exp().item()
    expected = [t / (positive + sum(terms)) for t in terms]
    got = [gradient[0, 2, s, b].item() for s in (0, 1) for b in range(6) if b != 2]
    assert got == pytest.approx(expected)
    assert gradient[0, 2, 1, 2].item() == pytest.approx(-sum(expected))
    assert gradient.count_nonzero() == 11  # 2 N - 1 terms


def test_overlap_counts_what_two_geometries_have_in_common() -> None:
    points, labels, spaces = mix()
    found = hard_negatives(points, labels, spaces, [1.0, 1.0], nearest=4)
    shares, unions = [], []
    for anchor in range(len(labels)):
        sets = []
        for d in distances(points, points, spaces):
            others = [k for k in range(len(labels)) if labels[k] != labels[anchor]]
            sets.append(set(sorted(others, key=lambda k: d[anchor, k].item())[:4]))
        shares.append(len(sets[0] & sets[1]) / 4)
        unions.append(len(sets[0] & sets[1]) / len(sets[0] | sets[1]))
    pair = ("sphere", "poincare")
    assert found.overlap == {pair: pytest.approx(sum(shares) / len(shares))}
    assert found.jaccard == {pair: pytest.approx(sum(unions) / len(unions))}
    assert 0 < found.overlap[pair] < 1


def test_equal_geometries_have_the_same_hard_sets_and_lower_temperatures_fewer_negatives() -> None:
    points, labels, spaces = mix()
    twice = hard_negatives([points[0]] * 2, labels, [spaces[0]] * 2, [1.0, 5.0])
    assert twice.overlap == {("sphere", "sphere2"): 1}
    assert twice.single["sphere2"].effective < twice.single["sphere"].effective < 8
    assert twice.single["sphere2"].top[1] > twice.single["sphere"].top[1] > 1 / 8


def test_row_of_one_and_of_two_spaces() -> None:
    points, labels, spaces = mix()
    names = ["total", "largest", "entropy", "effective", "top1", "top5", "top10"]
    row = hard_negatives(points[:1], labels, spaces[:1], [2.0]).as_row()
    assert list(row) == [f"hard_negatives/{name}" for name in names]
    assert all(type(value) is float for value in row.values())
    both = hard_negatives(points, labels, spaces, [2.0, 2.0]).as_row()
    expected = [*names, *(f"{n}_{s}" for s in ("sphere", "poincare") for n in names)]
    expected += ["overlap_sphere_poincare", "jaccard_sphere_poincare"]
    assert list(both) == [f"hard_negatives/{name}" for name in expected]
    assert both["hard_negatives/entropy_sphere"] == pytest.approx(row["hard_negatives/entropy"])


def test_extreme_exponents_stay_finite() -> None:
    points, labels, spaces = mix()
    row = hard_negatives([x.float() for x in points], labels, spaces, [1e4, 1e4]).as_row()
    assert all(math.isfinite(value) for value in row.values())


def test_half_precision_embeddings_are_taken_in_float32() -> None:
    points, labels, spaces = mix()
    half = [x.bfloat16() for x in points]
    rows = [hard_negatives(x, labels, spaces, [1.7, 0.3]).as_row() for x in (half, [x.float() for x in half])]
    assert rows[0] == rows[1]


def test_scales_are_those_of_the_loss() -> None:
    points, labels, spaces = mix()
    loss = PairwiseCrossEntropy(tau=[0.1, 0.4], reduction="mean")
    total = hard_negatives(points, labels, spaces, loss.distance_weights(spaces)).fused.total
    p = loops(points, labels, spaces, [1 / 0.1, 2 / 0.4])
    assert total == pytest.approx(sum(map(sum, p)) / len(p), rel=1e-6)


def test_curve_of_one_anchor() -> None:
    points, labels, spaces = mix(m=2)
    scales = [4.0, 1.0]
    own = (labels == labels[3]).nonzero().flatten().tolist()
    curve = weight_curve(points, labels, spaces, scales, anchor=3)
    assert (curve.anchor, curve.positive) == (3, own[1 - own.index(3)])
    assert sorted(curve.negatives.tolist()) == sorted(set(range(10)) - set(own))
    matrices = distances(points, points, spaces)
    for s, d in enumerate(matrices):
        assert curve.distances[s].tolist() == pytest.approx(d[3, curve.negatives].tolist())
        assert curve.positive_distances[s].item() == pytest.approx(d[3, curve.positive].item())
    total = [4 * matrices[0][3, k].item() + matrices[1][3, k].item() for k in curve.negatives.tolist()]
    assert total == sorted(total)
    rows = loops(points, labels, spaces, scales)
    assert any(sorted(row, reverse=True) == pytest.approx(curve.weights.tolist()) for row in rows)


def test_curve_takes_the_negatives_of_its_two_slots() -> None:
    points, labels, spaces = mix(m=3)
    own = (labels == labels[0]).nonzero().flatten().tolist()
    curve = weight_curve(points, labels, spaces, [1.0, 1.0], anchor=own[2], positive=own[0])
    places = [(labels[: int(k) + 1] == labels[k]).sum().item() - 1 for k in curve.negatives]
    assert sorted(places) == [0] * 4 + [2] * 4


def test_wrong_arguments_are_named() -> None:
    points, labels, spaces = mix(m=2)
    other = int((labels != labels[0]).nonzero()[0])
    with pytest.raises(ValueError, match="anchor=10 must be an index in the batch of 10"):
        weight_curve(points, labels, spaces, [1.0, 1.0], anchor=10)
    with pytest.raises(ValueError, match=f"positive={other} must be another image of the class of anchor=0"):
        weight_curve(points, labels, spaces, [1.0, 1.0], anchor=0, positive=other)
    with pytest.raises(ValueError, match="nearest=9 must lie between 1 and 8"):
        hard_negatives(points, labels, spaces, [1.0, 1.0], nearest=9)
    with pytest.raises(ValueError, match=r"top=\(0, 1\) must be numbers of negatives"):
        hard_negatives(points, labels, spaces, [1.0, 1.0], top=(0, 1))


def test_names_of_spaces() -> None:
    lorentz, sphere = Space(Lorentz(1.0)), Space(Sphere())
    assert space_names([sphere, lorentz]) == ["sphere", "lorentz"]
    assert space_names([lorentz, sphere, lorentz]) == ["lorentz", "sphere", "lorentz2"]

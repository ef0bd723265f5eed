from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch
from pytorch_metric_learning import losses as pml
from pytorch_metric_learning.miners import MultiSimilarityMiner
from torch import Tensor
from torch.testing import assert_close

from hyplearn.losses import Contrastive, CrossBatchMemory, FastAP, Margin, MultiSimilarity, ProxyAnchor
from hyplearn.losses.base import EmbeddingLoss
from hyplearn.manifolds import Lorentz, PoincareBall
from hyplearn.nn.space import Space
from tests.support.loss_zoo import LABELS, SIZES, points_of, seeded, spaces_of, vectors_of


def points(kind: str, seed: int = 0) -> list[Tensor]:
    return [x.detach() for x in points_of(vectors_of(kind, seed=seed, dtype=torch.float64), spaces_of(kind))]


def similarities(kind: str, x: list[Tensor], y: list[Tensor]) -> Tensor:
    """1 - u of the geometry, scale 4.6."""
    spaces = spaces_of(kind)
    weights = [space.weight.item() / sum(s.weight.item() for s in spaces) for space in spaces]
    scales = [2.0 if space.name == "sphere" else 4.6 for space in spaces]
    u = sum(w / r * s.distance(a, b) for w, r, s, a, b in zip(weights, scales, spaces, x, y, strict=True))
    assert isinstance(u, Tensor)
    return 1 - u


def contrastive(s: Tensor, labels: list[int], others: list[int], itself: list[int]) -> float:
    """Margins 1 and 0.5, mean over the pairs that are worth something."""
    pos, neg = [], []
    for i, y in enumerate(labels):
        for j, z in enumerate(others):
            if y == z and j != itself[i]:
                pos.append(max(0.0, 1 - s[i, j].item()))
            if y != z:
                neg.append(max(0.0, s[i, j].item() - 0.5))
    means = [sum(kept) / len(kept) if (kept := [v for v in values if v > 0]) else 0.0 for values in (pos, neg)]
    return sum(means)


def multi_similarity(s: Tensor, labels: list[int]) -> float:
    total = 0.0
    for i, y in enumerate(labels):
        pos = sum(math.exp(-2 * (s[i, j].item() - 0.5)) for j, z in enumerate(labels) if y == z and i != j)
        neg = sum(math.exp(50 * (s[i, j].item() - 0.5)) for j, z in enumerate(labels) if y != z)
        total += (math.log1p(pos) / 2 + math.log1p(neg) / 50) / len(labels)
    return total


@pytest.mark.parametrize("kind", SIZES)
def test_contrastive_and_multi_similarity_are_their_definitions(kind: str) -> None:
    x, spaces, labels = points(kind), spaces_of(kind), LABELS.tolist()
    s = similarities(kind, x, x)
    value = Contrastive(similarity="geometry")(x, LABELS, spaces)
    assert value.item() == pytest.approx(contrastive(s, labels, labels, list(range(24))), rel=1e-6)
    value = MultiSimilarity(similarity="geometry")(x, LABELS, spaces)
    assert value.item() == pytest.approx(multi_similarity(s, labels), rel=1e-6)


def test_with_a_miner_multi_similarity_is_that_of_pml() -> None:
    (x,), spaces = points("sphere"), spaces_of("sphere")
    expected = pml.MultiSimilarityLoss()(x, LABELS, MultiSimilarityMiner(epsilon=0.1)(x, LABELS))
    assert_close(MultiSimilarity(epsilon=0.1)([x], LABELS, spaces), expected)
    assert not torch.isclose(MultiSimilarity()([x], LABELS, spaces), expected)


@pytest.mark.parametrize("num_bins", [5, 10])
def test_fast_ap_on_the_sphere_is_that_of_pml(num_bins: int) -> None:
    (x,), spaces = points("sphere"), spaces_of("sphere")
    assert_close(FastAP(num_bins=num_bins)([x], LABELS, spaces), pml.FastAPLoss(num_bins=num_bins)(x, LABELS))


def test_fast_ap_counts_what_is_beyond_the_last_bin_in_it() -> None:
    """Positives at 0, negatives far outside: a perfect order. With positives as far as negatives it is chance."""
    (space,) = spaces_of("lorentz")
    labels = torch.tensor([0, 0, 1, 1])
    x = torch.tensor([[1e3, 0.0], [1e3, 0.0], [-1e3, 0.0], [-1e3, 0.0]])
    assert FastAP(similarity="geometry", scale=2.0)([x], labels, [space]).item() == pytest.approx(0, abs=1e-3)
    far = FastAP(similarity="geometry", scale=2.0)([x[[0, 2, 0, 2]]], labels, [space]).item()
    assert far == pytest.approx(1 - 1 / 3, abs=1e-3)


@pytest.mark.parametrize("learned", [False, True])
def test_margin_is_the_mean_of_its_hinges_over_drawn_triplets(learned: bool) -> None:
    (x,), spaces = points("sphere"), spaces_of("sphere")
    loss = Margin(triplets=4000, learn_beta=learned, nu=0.5 if learned else 0.0)
    d = torch.cdist(x, x)
    hinges, active = 0.0, 0.0
    for i, y in enumerate(LABELS.tolist()):
        for j, z in enumerate(LABELS.tolist()):
            if i != j:
                share = 1 / 2 if y == z else 1 / 21  # of the draws of anchor i
                value = max(0.0, (d[i, j].item() - 1.2) * (1 if y == z else -1) + 0.2)
                hinges, active = hinges + share * value, active + share * (value > 0)
    expected = hinges / active + (0.5 * 1.2 if learned else 0.0)
    value = loss([x], LABELS, spaces, generator=seeded())
    assert value.item() == pytest.approx(expected, rel=0.02)
    assert len(list(loss.parameters())) == learned
    with pytest.raises(ValueError, match="generator=None: Margin draws"):
        loss([x], LABELS, spaces)


def memory(kind: str, size: int, base: Any = None) -> CrossBatchMemory:
    base = base or functools.partial(Contrastive, similarity="geometry")
    return CrossBatchMemory(spaces=spaces_of(kind), sizes=SIZES[kind], base=base, size=size).double()


@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize("size", [24, 60, 500])
def test_the_memory_holds_the_latest_points_and_no_copy_of_oneself(kind: str, size: int) -> None:
    """Against a plain list: before it is full, when it wraps around within a batch, and for many rounds."""
    loss, spaces = memory(kind, size), spaces_of(kind)
    kept: list[tuple[list[Tensor], int]] = []
    for step in range(5):
        x, labels = points(kind, step), LABELS.roll(step)
        kept += [([block[i] for block in x], y) for i, y in enumerate(labels.tolist())]
        kept = kept[-size:]
        others = [torch.stack(block) for block in zip(*(rows for rows, _ in kept), strict=True)]
        itself = list(range(len(kept) - 24, len(kept)))
        expected = contrastive(similarities(kind, x, others), labels.tolist(), [y for _, y in kept], itself)
        assert loss(x, labels, spaces).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("size", [30, 100])
def test_on_the_sphere_the_memory_is_that_of_pml(size: int) -> None:
    spaces = spaces_of("sphere")
    ours = memory("sphere", size, functools.partial(MultiSimilarity, epsilon=0.1))
    theirs = pml.CrossBatchMemory(
        pml.MultiSimilarityLoss(), 5, memory_size=size, miner=MultiSimilarityMiner(epsilon=0.1)
    )
    for step in range(6):
        x = points("sphere", step)[0].requires_grad_()
        values = ours([x], LABELS, spaces), theirs(x, LABELS)
        assert_close(*values)
        assert_close(*(torch.autograd.grad(value, x)[0] for value in values))


@pytest.mark.parametrize("manifold", [PoincareBall, Lorentz])
def test_what_is_kept_moves_with_the_curvature(manifold: Any) -> None:
    space = Space(manifold(0.5))
    loss = CrossBatchMemory(spaces=[space], sizes=[5], base=Contrastive, size=48).double()
    v = vectors_of("lorentz", dtype=torch.float64)[0].detach()
    loss([space.manifold.expmap0(v)], LABELS, [space])
    with torch.no_grad():
        for parameter in space.manifold.parameters():
            parameter.mul_(0.5)
    assert space.c != 0.5
    assert_close(loss.memory[:24], v)


@pytest.mark.parametrize("kind", ["sphere", "lorentz"])
def test_the_memory_resumes_where_it_was(kind: str) -> None:
    first, second, spaces = memory(kind, 60), memory(kind, 60), spaces_of(kind)
    for step in range(3):
        first(points(kind, step), LABELS, spaces)
    second.load_state_dict(first.state_dict())
    for step in range(3, 6):
        values = [loss(points(kind, step), LABELS, spaces) for loss in (first, second)]
        assert_close(*values)


def test_evaluation_neither_reads_nor_writes_the_memory() -> None:
    loss, spaces, x = memory("sphere", 60), spaces_of("sphere"), points("sphere")
    loss(points("sphere", 1), LABELS, spaces)
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    value = loss.eval()(x, LABELS, spaces)
    assert_close(value, loss.base(x, LABELS, spaces))
    for name, kept in loss.state_dict().items():
        assert_close(kept, before[name])


def test_margin_takes_its_triplets_from_the_memory() -> None:
    loss, spaces = memory("sphere", 48, functools.partial(Margin, triplets=200)), spaces_of("sphere")
    values = [loss(points("sphere", 0), LABELS, spaces, generator=seeded()).item() for _ in range(2)]
    assert values[0] != values[1]  # the second batch finds its own copies from the first at distance 0


def test_sizes_and_bases_that_do_not_work_are_named() -> None:
    spaces = spaces_of("sphere")
    with pytest.raises(ValueError, match="size=0 must be >= 1"):
        memory("sphere", 0)
    with pytest.raises(ValueError, match="size=23 of the memory must be at least the batch, 24 points"):
        memory("sphere", 23)(points("sphere"), LABELS, spaces)
    base: Any = functools.partial(ProxyAnchor, num_classes=3)
    with pytest.raises(ValueError, match="base=ProxyAnchor has no form with a memory; take Contrastive"):
        memory("sphere", 60, base)
    with pytest.raises(ValueError, match="triplets=0 must be >= 1"):
        Margin(triplets=0)
    with pytest.raises(ValueError, match="num_bins=0 must be >= 1"):
        FastAP(num_bins=0)


def test_the_memory_trains_the_metric_of_its_base() -> None:
    loss = memory("two", 60)
    base: EmbeddingLoss = loss.base
    assert (
        loss.distance_weights(spaces_of("two"))
        == base.distance_weights(spaces_of("two"))
        == pytest.approx((1 / 2, 3 / 4.6))
    )
    assert loss.proxies() == {}
    assert "size=60" in repr(loss)

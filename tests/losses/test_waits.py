"""No loss waits for the device, and the way without waiting gives the same numbers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import hyplearn.losses
from hyplearn.losses import (
    HIER,
    ConvexCombination,
    CrossBatchMemory,
    CrossEntropy,
    HierarchicalLoss,
    Margin,
    MultiSimilarity,
    PairwiseCrossEntropy,
    ProxyAnchor,
)
from hyplearn.losses import host as host_labels
from hyplearn.losses.base import build_part
from hyplearn.losses.hier import hierarchical
from hyplearn.losses.triplets import Triplets, draw_triplets, reciprocal_triplets
from hyplearn.manifolds import Lorentz
from tests.support import loss_zoo as zoo
from tests.support.waits import HYPERBOLIC_DISTANCES, Waits, as_on_a_gpu

HIERARCHY = functools.partial(HIER, proxies=40, topk=6, triplets=9)
MINED = functools.partial(MultiSimilarity, epsilon=0.1)

LOSSES: dict[str, Any] = {
    **zoo.ZOO,
    "learned_margin": functools.partial(Margin, learn_beta=True, nu=0.1),
    "mined_memory": functools.partial(CrossBatchMemory, base=MINED, size=60),
    "margin_memory": functools.partial(CrossBatchMemory, base=Margin, size=60),
    "pairwise": PairwiseCrossEntropy,
    "learned_tau": functools.partial(PairwiseCrossEntropy, learned_tau=True),
    "hier": HIERARCHY,
    "tangent_hier": functools.partial(HIERARCHY, parametrization="tangent"),
    "lhier": functools.partial(HierarchicalLoss, base=ProxyAnchor, hier=functools.partial(HIERARCHY, rescale=True)),
}
HYPERBOLIC_ALONE = ("hier", "tangent_hier", "lhier")
CASES = [
    (name, kind)
    for name in LOSSES
    for kind in zoo.SIZES
    if not (name in HYPERBOLIC_ALONE and kind in ("sphere", "euclidean"))
]


def made(name: str, kind: str, spaces: Any) -> Any:
    torch.manual_seed(0)
    return build_part(LOSSES[name], spaces=spaces, sizes=zoo.SIZES[kind], num_classes=zoo.CLASSES)


def kind_of(part: Any) -> Any:
    return part.func if isinstance(part, functools.partial) else part


def test_every_registered_loss_is_here() -> None:
    """Those of embeddings; the classifier's and the convex combination have tests of their own below."""
    kinds = {kind_of(part) for part in LOSSES.values()}
    registered = {getattr(hyplearn.losses, name) for name in hyplearn.losses.__all__}
    assert registered == kinds | {CrossEntropy, ConvexCombination}


def steps(loss: Any, kind: str, spaces: Any, labels: Tensor, *, count: int = 3) -> list[list[Tensor]]:
    """Value and gradients of some steps, of points and of what the loss learns."""
    found = []
    for step in range(count):
        vectors = zoo.vectors_of(kind, seed=step)
        loss.zero_grad()
        value = loss(zoo.points_of(vectors, spaces), labels, spaces, generator=zoo.seeded(step))
        value.backward()
        found.append([value.detach(), *(v.grad for v in vectors), *(p.grad for p in loss.parameters())])
    return [[x.clone() for x in one if x is not None] for one in found]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_step_waits_for_nothing(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spaces = zoo.spaces_of(kind)
    loss = made(name, kind, spaces)
    as_on_a_gpu(monkeypatch)
    with Waits(allowed=HYPERBOLIC_DISTANCES) as waits:
        steps(loss, kind, spaces, zoo.LABELS)
    assert not waits.found


DRAWN_IN_ONE_STREAM = ("lhier", "hier", "tangent_hier")  # noise of the second term comes after that of the first


@pytest.mark.parametrize("labels", [zoo.LABELS, torch.arange(24) // 3], ids=["interleaved", "in order"])
@pytest.mark.parametrize(("name", "kind"), [case for case in CASES if case[0] not in DRAWN_IN_ONE_STREAM])
def test_without_waiting_the_numbers_are_the_same(
    name: str, kind: str, labels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    spaces = zoo.spaces_of(kind)
    here = steps(made(name, kind, spaces), kind, spaces, labels)
    as_on_a_gpu(monkeypatch)
    there = steps(made(name, kind, spaces), kind, spaces, labels)
    for one, other in zip(here, there, strict=True):
        assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_triplets_that_do_not_count_change_nothing(masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One term of HIER, whose noise comes in the order of the triplets: those that count first."""
    x = torch.randn(30, 4, generator=zoo.seeded(), dtype=torch.float64)
    distances = torch.cdist(x, x[:12]).requires_grad_()
    drawn = reciprocal_triplets(torch.cdist(x, x), None, topk=6, per_anchor=7, generator=zoo.seeded(1))
    options: dict[str, Any] = {"tau": 0.1, "margin": 0.1, "masked": masked}
    value = hierarchical(distances, drawn, **options, generator=zoo.seeded(2))
    (gradient,) = torch.autograd.grad(value, distances)
    as_on_a_gpu(monkeypatch)
    more = torch.arange(20)
    count = len(drawn.anchor)
    padded = Triplets(
        torch.cat([drawn.anchor, more]),
        torch.cat([drawn.partner, more + 1]),
        torch.cat([drawn.other, more + 2]),
        torch.arange(count + 20) < count,
    )
    again = hierarchical(distances, padded, **options, generator=zoo.seeded(2))
    assert_close(again, value)
    assert_close(torch.autograd.grad(again, distances)[0], gradient)


def test_rows_that_qualify_have_the_same_triplets(monkeypatch: pytest.MonkeyPatch) -> None:
    related = torch.tensor([[0, 1, 0, 0, 1], [0, 0, 0, 0, 0], [1, 0, 0, 0, 0]], dtype=torch.bool)
    unrelated = torch.tensor([[1, 0, 1, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]], dtype=torch.bool)
    here = draw_triplets(related, unrelated, per_anchor=30, generator=zoo.seeded())
    as_on_a_gpu(monkeypatch)
    there = draw_triplets(related, unrelated, per_anchor=30, generator=zoo.seeded())
    assert there.counted is not None
    assert len(there.anchor) == 90
    for one, other in zip(here.indices, there.indices, strict=True):
        assert_close(one, other[there.counted])


@pytest.mark.parametrize("name", ["hier", "lhier"])
def test_hier_without_waiting_is_as_good_an_estimate(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The noise is another one where points without triplets draw some: the mean over many draws agrees."""
    spaces = zoo.spaces_of("lorentz")
    points, loss = zoo.points_of(zoo.vectors_of("lorentz"), spaces), made(name, "lorentz", spaces)

    def mean() -> tuple[Tensor, Tensor]:
        values = torch.stack([loss(points, zoo.LABELS, spaces, generator=zoo.seeded(i)).detach() for i in range(200)])
        return values.mean(), values.std() / len(values) ** 0.5

    here, error = mean()
    as_on_a_gpu(monkeypatch)
    there, _ = mean()
    assert abs(here - there) < 5 * error


def test_the_other_losses_wait_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    spaces, labels = zoo.spaces_of("two"), zoo.LABELS
    as_on_a_gpu(monkeypatch)
    points = zoo.points_of(zoo.vectors_of("two"), spaces)
    logits = torch.randn(24, zoo.CLASSES, requires_grad=True)
    with Waits(allowed=HYPERBOLIC_DISTANCES) as waits:
        ConvexCombination(first=PairwiseCrossEntropy(), second=PairwiseCrossEntropy())(
            points, labels, spaces
        ).backward()
        CrossEntropy(label_smoothing=0.1)(logits, labels).backward()
    assert not waits.found


WAITING: dict[str, Callable[[Tensor], Any]] = {
    "item": lambda x: x.sum().item(),
    "bool": lambda x: bool((x > 0).any()),
    "nonzero": lambda x: (x > 0).nonzero(),
    "boolean index": lambda x: x[x > 0],
    "boolean assignment": lambda x: x.index_put_((x > 0,), torch.zeros(())),
    "unique": lambda x: x.unique(),
    "hyperbolic distances": lambda x: Lorentz().cdist(x[:, None], x[:, None]),
    "masked_select": lambda x: x.masked_select(x > 0),
}


@pytest.mark.parametrize("what", WAITING)
def test_the_counter_sees_what_waits(what: str) -> None:
    with Waits() as waits:
        WAITING[what](torch.randn(5))
    assert waits.found.total() >= 1


def test_labels_are_read_where_they_stayed() -> None:
    device, here = torch.tensor([3, 3, 4, 4]), torch.tensor([0, 0, 1, 1])
    assert host_labels.values(device).tolist() == [3, 3, 4, 4]
    host_labels.remember(device, here)
    assert host_labels.values(device).tolist() == [0, 0, 1, 1]
    host_labels.remember(here, here)
    assert host_labels.values(here) is not None

"""The ablation that adds losses, each in its own geometry, instead of distances."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from hyplearn.losses import ConvexCombination, PairwiseCrossEntropy
from hyplearn.losses.base import EmbeddingLoss
from hyplearn.manifolds import PoincareBall, Sphere
from hyplearn.nn.space import Space

BALL = PoincareBall(0.1, learned=False)


def mix() -> tuple[list[Tensor], Tensor, list[Space]]:
    z = torch.nn.functional.normalize(torch.randn(12, 5), dim=-1)
    return [z, BALL.expmap0(z)], torch.arange(6).repeat(2), [Space(Sphere()), Space(BALL, weight=1.5)]


def parts() -> tuple[PairwiseCrossEntropy, PairwiseCrossEntropy]:
    return PairwiseCrossEntropy(tau=0.1), PairwiseCrossEntropy(tau=0.2)


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_it_is_the_weighted_sum_of_the_two_losses(lam: float) -> None:
    points, labels, spaces = mix()
    first, second = parts()
    expected = (1 - lam) * first(points[:1], labels, spaces[:1]) + lam * second(points[1:], labels, spaces[1:])
    assert_close(ConvexCombination(first=first, second=second, lam=lam)(points, labels, spaces), expected)


def test_it_is_not_equation_10() -> None:
    points, labels, spaces = mix()
    first, second = parts()
    added = PairwiseCrossEntropy(tau=[0.1, 0.2])(points, labels, spaces)
    combined = ConvexCombination(first=first, second=second, lam=0.5)(points, labels, spaces)
    assert abs(added - combined) > 0.1


def test_metric_is_that_of_the_parts_in_their_shares() -> None:
    first, second = parts()
    loss = ConvexCombination(first=first, second=second, lam=0.25)
    assert loss.distance_weights(mix()[2]) == pytest.approx((0.75 / 0.1, 0.25 * 1.5 / 0.2))
    assert (loss.least_per_class, loss.equal_per_class) == (2, True)


class WithProxies(EmbeddingLoss):
    def __init__(self, *groups: str) -> None:
        super().__init__()
        self.table = torch.nn.ParameterDict({group: torch.nn.Parameter(torch.ones(2)) for group in groups})

    def compute(self, points: object, labels: Tensor, spaces: object, *, generator: torch.Generator | None) -> Tensor:
        assert generator is not None
        return sum(p.sum() for p in self.table.values()) * torch.rand((), generator=generator)

    def proxies(self) -> dict[str, list[torch.nn.Parameter]]:
        return {group: [parameter] for group, parameter in self.table.items()}


def test_proxies_and_generator_belong_to_both() -> None:
    points, labels, spaces = mix()
    loss = ConvexCombination(first=WithProxies("class"), second=WithProxies("class", "tree"))
    assert {group: len(found) for group, found in loss.proxies().items()} == {"class": 2, "tree": 1}
    first, second = torch.rand(2, generator=torch.Generator().manual_seed(3)).tolist()
    value = loss(points, labels, spaces, generator=torch.Generator().manual_seed(3))
    assert value.item() == pytest.approx(0.5 * 2 * first + 0.5 * 4 * second)


@pytest.mark.parametrize("lam", [-0.1, 1.1, float("nan")])
def test_share_out_of_range_is_named(lam: float) -> None:
    first, second = parts()
    with pytest.raises(ValueError, match=r"lam=.* must lie in \[0, 1\]"):
        ConvexCombination(first=first, second=second, lam=lam)


def test_models_of_one_space_are_refused() -> None:
    points, labels, spaces = mix()
    first, second = parts()
    loss = ConvexCombination(first=first, second=second)
    with pytest.raises(ValueError, match=r"needs a model of two spaces, as mix_\*, not of 1 \(sphere\)"):
        loss(points[:1], labels, spaces[:1])
    with pytest.raises(ValueError, match=r"not of 1 \(poincare\)"):
        loss.distance_weights(spaces[1:])

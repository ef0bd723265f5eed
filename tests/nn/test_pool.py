"""Global pooling by centroid."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from hyplearn.manifolds import Lorentz
from hyplearn.nn.pool import LorentzGlobalPool
from tests.support.gradients import assert_same, random


@pytest.mark.parametrize("c", [0.05, 1.0, 20.0])
def test_pool_is_the_centroid_of_all_positions(c: float) -> None:
    manifold, x = Lorentz(c).double(), random(2, 4, 3, 5).requires_grad_()
    leaves = [x, manifold.curvature.raw]
    points = lambda: x.permute(0, 2, 3, 1).reshape(2, 15, 4)  # noqa: E731
    assert_same(
        lambda: LorentzGlobalPool(manifold)(x), lambda: manifold.centroid(points(), dim=1), leaves, tolerance=1e-10
    )


def test_one_position_and_one_repeated_point_stay_what_they_are() -> None:
    pool, x = LorentzGlobalPool(Lorentz()), torch.randn(3, 4, 1, 1)
    assert_close(pool(x), x.flatten(1))
    assert_close(pool(x.expand(-1, -1, 4, 4)), x.flatten(1))


def test_a_boost_of_all_points_boosts_the_pooled_one() -> None:
    manifold, x, b = Lorentz(0.7).double(), random(2, 4, 3, 5), random(4, seed=1)
    moved = manifold.boost(x.movedim(1, -1), b).movedim(-1, 1)
    pool = LorentzGlobalPool(manifold)
    assert_close(pool(moved), manifold.boost(pool(x), b))


def test_far_points_pool_without_losing_precision() -> None:
    manifold = Lorentz()
    far = 1.5e3 * torch.nn.functional.normalize(torch.randn(2, 6, 1, 1), dim=1)
    x = (far * (1 + 1e-3 * torch.rand(2, 1, 3, 3))).requires_grad_()
    pooled = LorentzGlobalPool(manifold)(x)
    exact = LorentzGlobalPool(Lorentz().double())(x.detach().double())
    assert_close(pooled.double(), exact, rtol=1e-5, atol=0)
    pooled.sum().backward()
    assert x.grad.isfinite().all()

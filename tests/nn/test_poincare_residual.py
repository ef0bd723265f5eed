from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck
from torch.testing import assert_close

from hyplearn.manifolds import PoincareBall
from hyplearn.nn.poincare_pool import PoincareGlobalPool
from hyplearn.nn.poincare_residual import PoincareResidual
from tests.support import reference_poincare as reference


def features(seed: int) -> torch.Tensor:
    return torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def points(v: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    return reference.expmap0(v.permute(0, 2, 3, 1), c)


@pytest.mark.parametrize("c", [0.05, 1.0, 4.0])
def test_the_residual_is_the_moebius_sum(c: float) -> None:
    ball = PoincareBall(c=c).double()
    f, shortcut = 0.4 * features(0), 0.4 * features(1)
    exact = ball.c.detach()
    expected = reference.logmap0(reference.mobius_add(points(f, exact), points(shortcut, exact), exact), exact)
    assert_close(PoincareResidual(ball)(f, shortcut).permute(0, 2, 3, 1), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("c", [0.05, 1.0, 4.0])
def test_the_pool_is_the_midpoint(c: float) -> None:
    ball, v = PoincareBall(c=c).double(), 0.4 * features(0)
    exact = ball.c.detach()
    expected = [reference.logmap0(reference.midpoint(x.flatten(0, 1), exact), exact) for x in points(v, exact)]
    assert_close(PoincareGlobalPool(ball)(v), torch.stack(expected), rtol=1e-9, atol=1e-12)


def test_gradients() -> None:
    ball = PoincareBall(c=0.7).double()
    residual, pool = PoincareResidual(ball), PoincareGlobalPool(ball)
    f, shortcut = features(0).requires_grad_(), features(1).requires_grad_()
    assert gradcheck(residual, (f, shortcut))
    assert gradcheck(pool, (f,))
    pool(residual(f, shortcut)).sum().backward()
    gradient = next(ball.parameters()).grad
    assert gradient is not None
    assert gradient != 0


def test_origin_and_opposite_points_have_finite_gradients() -> None:
    ball = PoincareBall(c=1.0)
    for f, shortcut in (
        (torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)),
        (torch.ones(1, 3, 2, 2), -torch.ones(1, 3, 2, 2)),
    ):
        f.requires_grad_()
        out = PoincareResidual(ball)(f, shortcut)
        assert_close(out, torch.zeros_like(out), rtol=0, atol=1e-5)
        PoincareGlobalPool(ball)(out).sum().backward()
        assert f.grad is not None
        assert f.grad.isfinite().all()


def test_far_vectors_are_clipped_and_stay_finite() -> None:
    ball = PoincareBall(c=4.0)
    far = torch.full((1, 3, 1, 1), 1e4)
    assert PoincareResidual(ball)(far, far).isfinite().all()
    assert PoincareGlobalPool(ball)(far).norm() < 4

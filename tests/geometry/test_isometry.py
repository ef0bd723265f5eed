"""The isometry between ball and hyperboloid: round trips, tangent maps as differentials, metrics."""

from __future__ import annotations

import torch
from hypothesis import given
from torch import Tensor
from torch.testing import assert_close

from hyplearn.geometry import isometry, lorentz, poincare
from tests.support.strategies import ball_points, hyperbolic_points, tangents

F64 = torch.float64
Scene = tuple[Tensor, tuple[Tensor, ...]]


@given(scene=hyperbolic_points(count=1), v=tangents())
def test_round_trip_from_the_hyperboloid(scene: Scene, v: Tensor) -> None:
    c, (x,) = scene
    p = isometry.lorentz_to_poincare(x, c=c)
    assert c * p.square().sum() < 1
    rtol = 1e-13 * poincare.conformal_factor(p, c=c).item()
    assert_close(isometry.poincare_to_lorentz(p, c=c), x, rtol=rtol, atol=1e-15)
    u = isometry.lorentz_to_poincare_tangent(x, v, c=c)
    back = isometry.poincare_to_lorentz_tangent(p, u, c=c)
    assert_close(back, v, rtol=0, atol=rtol * poincare.conformal_factor(p, c=c).item() * v.norm().item() + 1e-15)


@given(scene=ball_points(count=2))
def test_distances_are_kept(scene: Scene) -> None:
    c, (p, q) = scene
    x, y = isometry.poincare_to_lorentz(p, c=c), isometry.poincare_to_lorentz(q, c=c)
    rtol = 1e-12 * (poincare.conformal_factor(p, c=c) + poincare.conformal_factor(q, c=c)).item()
    # near points amplify the rounding of the map itself
    assert_close(lorentz.dist(x, y, c=c), poincare.dist(p, q, c=c), rtol=rtol, atol=rtol * c.rsqrt().item())


def test_tangent_maps_are_the_differentials() -> None:
    c = torch.tensor(0.6, dtype=F64)
    x, v = torch.randn(2, 3, dtype=F64)
    p = isometry.lorentz_to_poincare(x, c=c)
    _, push = torch.func.jvp(lambda x: isometry.lorentz_to_poincare(x, c=c), (x,), (v,))
    assert_close(isometry.lorentz_to_poincare_tangent(x, v, c=c), push)
    _, back = torch.func.jvp(lambda p: isometry.poincare_to_lorentz(p, c=c), (p,), (push,))
    assert_close(isometry.poincare_to_lorentz_tangent(p, push, c=c), back)
    assert_close(back, v)


def test_straight_lines_through_the_origin_and_the_origin_are_kept() -> None:
    x = torch.tensor([3.0, 0.0, -4.0], dtype=F64)
    p = isometry.lorentz_to_poincare(x, c=1.0)
    assert_close(p / p.norm(), x / x.norm())
    assert isometry.lorentz_to_poincare(torch.zeros(3), c=1.0).eq(0).all()
    assert isometry.poincare_to_lorentz(torch.zeros(3), c=1.0).eq(0).all()

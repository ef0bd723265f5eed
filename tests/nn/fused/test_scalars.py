"""Radial factors against the geometry they stand for, and their slopes against autograd."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from hyplearn.geometry import lorentz
from hyplearn.manifolds import Lorentz
from hyplearn.nn.fused.scalars import Limits, dot, floored, radial

CURVATURES = [0.05, 0.3, 1.0, 4.0, 20.0]
KINDS = ["rescale", "rescale0", "expmap0", "logmap0"]
RADII = torch.tensor([1e-6, 1e-3, 0.1, 1.0, 3.0, 8.0], dtype=torch.float64)


def limits(c: Tensor | float, s: float = 2.0) -> Limits:
    return Limits.of(torch.as_tensor(c, dtype=torch.float64), s=s, x_t_max=2e3)


def by_geometry(kind: str, x: Tensor, c: float) -> Tensor:
    if kind in ("rescale", "rescale0"):
        return getattr(lorentz, kind)(x, c=c, s=2.0, x_t_max=2e3)
    return getattr(lorentz, kind)(x, c=c)


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("kind", KINDS)
def test_factors_are_those_of_the_geometry(kind: str, c: float) -> None:
    x = torch.nn.functional.normalize(torch.randn(len(RADII), 4, dtype=torch.float64), dim=-1)
    x = x * (RADII / c**0.5).unsqueeze(-1)
    factor = radial(c * x.square().sum(-1), kind, limits(c)).factor
    assert_close(factor.unsqueeze(-1) * x, by_geometry(kind, x, c), rtol=1e-9, atol=0)


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("kind", KINDS)
def test_slopes_are_those_of_autograd(kind: str, c: float) -> None:
    q, g = RADII.square().requires_grad_(), torch.randn(len(RADII), dtype=torch.float64)
    curvature = torch.tensor(c, dtype=torch.float64, requires_grad=True)
    plain = radial(q, kind, limits(curvature))
    in_q, in_c = torch.autograd.grad(plain.factor, (q, curvature), g, allow_unused=True)
    made = radial(q.detach(), kind, limits(c), want_slope=True)
    assert_close(made.factor, plain.factor.detach())
    assert_close(made.vjp(g)[1:], in_q[1:], rtol=1e-8, atol=1e-10)
    limited = made.limits_vjp(g)
    assert_close(torch.zeros(()).double() if limited is None else limited / (2 * c),
                 torch.zeros(()).double() if in_c is None else in_c)  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_at_the_origin_factor_and_gradient_are_finite(kind: str, dtype: torch.dtype) -> None:
    made = radial(torch.zeros(3, dtype=dtype), kind, Limits.of(torch.ones((), dtype=dtype), s=2.0, x_t_max=2e3),
                  want_slope=True)  # fmt: skip
    slope_at_zero = {"expmap0": 1.0, "logmap0": 1.0}.get(kind, math.atanh(0.99) / 2)
    assert_close(made.factor, torch.full((3,), slope_at_zero, dtype=dtype))
    assert made.slope is not None and made.slope.isfinite().all()


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("s", [1.0, 2.0, 3.0])
def test_limit_is_met_to_one_percent_at_s_times_it(c: float, s: float) -> None:
    """Bdeir's stated limit of Eq. (3): f(s D) = 0.99 D; and nothing gets beyond D."""
    bound, k = limits(c, s), c**-0.5
    at = torch.tensor([s * float(bound.d_max), 40.0], dtype=torch.float64)
    moved = at * radial(at.square(), "rescale0", bound).factor * k
    d_max = lorentz.d_max(c=c, dtype=torch.float64, x_t_max=2e3)
    assert_close(moved[0], 0.99 * d_max)
    assert moved[1] <= d_max


def test_slope_at_the_origin_is_as_derived() -> None:
    """2.647 / s: with the paper's s = 2 short vectors get longer."""
    for s in (1.0, 2.0, 2.647):
        factor = radial(torch.tensor(1e-12, dtype=torch.float64), "rescale", limits(1.0, s)).factor
        assert_close(factor.item(), 2.6467 / s, rtol=1e-4, atol=0)


@pytest.mark.parametrize("c", CURVATURES)
def test_limits_are_those_of_the_geometry_and_lengths_do_not_depend_on_c(c: float) -> None:
    curvature = torch.tensor(c, dtype=torch.float64, requires_grad=True)
    made = Limits.of(curvature, s=2.0, x_t_max=2e3)
    length, rate = made.d_max * curvature.rsqrt(), made.r * curvature.sqrt()
    expected, expected_rate = lorentz.limit_and_rate(curvature.detach(), 2.0, 2e3)
    assert_close(length, expected)
    assert_close(rate, expected_rate)
    assert_close(made.t_max, 2e3 * curvature.detach().sqrt())
    for value in (length, rate):
        (g,) = torch.autograd.grad(value, curvature, retain_graph=True)
        assert_close(g, torch.zeros_like(g), rtol=0, atol=1e-12)


def test_limits_of_a_manifold_take_its_options_or_its_precision() -> None:
    assert Limits.of_manifold(Lorentz(4.0)).t_max.item() == 4e3
    assert_close(Limits.of_manifold(Lorentz(4.0).double()).t_max.item(), 2e8)
    own = Limits.of_manifold(Lorentz(1.0, x_t_max=50.0, s=3.0))
    assert_close(own.d_max.item(), math.acosh(50.0), rtol=1e-6, atol=0)
    assert_close(own.r.item(), math.atanh(0.99) / (3 * math.acosh(50.0)), rtol=1e-6, atol=0)
    detached = Limits.of_manifold(Lorentz()).detach()
    assert not detached.d_max.requires_grad and not detached.r.requires_grad


def test_floor_and_dot() -> None:
    assert floored(torch.zeros(2)).gt(0).all()
    assert_close(floored(torch.ones(2)), torch.ones(2), rtol=0, atol=0)
    assert_close(dot(torch.ones(2, 3), 2 * torch.ones(2, 3)), torch.tensor(12.0))

"""Curvature moves of parameters and their momentum, limits, and the modes of both hyperbolic models."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from hyplearn.geometry import isometry
from hyplearn.manifolds import CurvedManifold, Lorentz, PoincareBall, Sphere

MODELS = [Lorentz, PoincareBall]


@pytest.mark.parametrize("model", MODELS)
def test_change_curvature_moves_point_and_tangents_in_place(model: type[CurvedManifold]) -> None:
    """Bdeir Algorithm 1: distance and direction to the origin stay, and so does the length of the momentum."""
    manifold = model(1.0)
    point, u, v = manifold.random(5, 3), torch.randn(5, 3), torch.randn(5, 3)
    before = manifold.logmap0(point), manifold.norm(point, u), manifold.inner(point, u, v)
    pointers = point.data_ptr(), u.data_ptr(), v.data_ptr()
    c_old = manifold.c.detach().clone()
    with torch.no_grad():
        manifold.curvature.raw.fill_(0.4)
    manifold.change_curvature_(point, [u, v], c_old)
    assert (point.data_ptr(), u.data_ptr(), v.data_ptr()) == pointers
    after = manifold.logmap0(point), manifold.norm(point, u), manifold.inner(point, u, v)
    for got, expected in zip(after, before, strict=True):
        assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_scale_mode_multiplies(model: type[CurvedManifold]) -> None:
    manifold = model(0.5, mode="scale")
    point, v = manifold.random(5, 3), torch.randn(5, 3)
    expected = 2**0.5 * point, 2**0.5 * v
    manifold.change_curvature_(point, [v], 1.0)
    assert_close((point, v), expected)


@pytest.mark.parametrize("model", MODELS)
def test_nothing_moves_while_the_curvature_stays(model: type[CurvedManifold]) -> None:
    manifold = model(0.7)
    point, v = manifold.random(5, 3), torch.randn(5, 3)
    expected = point.clone(), v.clone()
    manifold.change_curvature_(point, [v], manifold.c)
    assert_close((point, v), expected)


def test_rescaling_uses_the_limits_of_the_object() -> None:
    x = 1e6 * torch.randn(5, 3)
    loose, tight = Lorentz(s=2.0), Lorentz(s=2.0, x_t_max=8.0)
    assert loose.time(loose.rescale(x)).max() > 1000
    assert tight.time(tight.rescale(x)).max() < 8
    assert_close(loose.rescale0(loose.logmap0(x)), loose.logmap0(loose.rescale(x)))
    assert tight.rescale0(x).norm(dim=-1).max() < 2.77  # arccosh 8 = 2.769


def test_lorentz_and_ball_are_the_same_space() -> None:
    hyperboloid, ball = Lorentz(0.6), PoincareBall(0.6)
    p, q = ball.random(2, 5, 3)
    x, y = (isometry.poincare_to_lorentz(t, c=0.6) for t in (p, q))
    assert_close(hyperboloid.dist(x, y), ball.dist(p, q))
    assert_close(hyperboloid.to_ambient(x)[..., 0], hyperboloid.time(x))
    assert_close(ball.conformal_factor(p), 2 / (1 - 0.6 * p.square().sum(-1)))
    assert_close(ball.mobius_add(p, q), ball.boost(q, p))


def test_a_long_step_stays_inside_the_ball() -> None:
    ball = PoincareBall(2.0)
    x = ball.retr(ball.random(4, 3), torch.full((4, 3), 50.0))
    assert ball.check_point_on_manifold(x)
    assert ball.dist0(x).isfinite().all()
    assert not ball.check_point_on_manifold(torch.ones(2, 3))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"c": 0.01}, r"c=0\.01 must lie in bounds"),
        ({"s": 0.0}, r"s=0\.0 must be > 0"),
        ({"x_t_max": 4.0}, r"x_t_max=4 must exceed 1/sqrt\(c\) = 4\.472"),
        ({"bounds": (1e-8, 9.0)}, r"x_t_max=2000 must exceed 1/sqrt\(c\) = 1e\+04"),
        ({"mode": "exp"}, "mode='exp' must be 'logexp' or 'scale'"),
    ],
)
def test_wrong_arguments_are_named(model: type[CurvedManifold], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model(**arguments)


def test_representation_shows_the_curvature() -> None:
    assert repr(Lorentz(0.5)) == "Lorentz(c=0.5, learned as K, bounds=(0.05, 20.0), s=2.0) manifold"


# Random points


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("n", [2, 512, 100_000, 1_000_000])
@pytest.mark.parametrize("c", [1e-4, 0.05, 1.0, 20.0, 1e4])
@pytest.mark.parametrize("model", [Lorentz, PoincareBall])
def test_random_points_are_finite_and_inside_or_refused(
    model: type[CurvedManifold], c: float, n: int, dtype: torch.dtype
) -> None:
    manifold = model(c, bounds=(1e-4, 1e4))
    try:
        x = manifold.random(3, n, dtype=dtype)
    except ValueError as error:
        advised = float(re.search(r"give std=(\S+) or less", str(error)).group(1))
        x = manifold.random(3, n, std=advised, dtype=dtype)
    assert x.isfinite().all()
    manifold.assert_check_point_on_manifold(x)
    assert (model is Lorentz) or (c * x.double().square().sum(-1) < 1).all()
    for distance in (manifold.dist0(x), manifold.dist(x, x.roll(1, 0)), manifold.logmap0(x)):
        assert distance.isfinite().all()


@pytest.mark.parametrize("n", [100_000, 1_000_000])
def test_points_of_the_sphere_have_length_1_in_many_dimensions(n: int) -> None:
    assert_close(Sphere().random(3, n).double().norm(dim=-1), torch.ones(3).double(), rtol=0, atol=3e-7)

"""The hyperboloid: properties in float64, the definitions in ambient coordinates, geoopt as a second opinion."""

from __future__ import annotations

import math

import pytest
import torch
from geoopt.manifolds.lorentz import math as geoopt_lorentz
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.testing import assert_close

from hyplearn.geometry import lorentz
from tests.support.strategies import curvatures, hyperbolic_points, tangents

F64 = torch.float64


def minkowski(x: Tensor, y: Tensor) -> Tensor:
    """<x, y>_L of ambient vectors."""
    return (x[..., 1:] * y[..., 1:]).sum(-1) - x[..., 0] * y[..., 0]


def close(got: Tensor, expected: Tensor, *, scale: Tensor | float = 1.0, tolerance: float = 1e-9) -> None:
    """|got - expected| <= tolerance x scale, elementwise; scale is what rounding is relative to."""
    assert_close(got / scale, expected / scale, rtol=0, atol=tolerance)


def size(c: Tensor, *points: Tensor) -> Tensor:
    """The largest time, in units of the radius: rounding in space coordinates grows with it."""
    return torch.stack([lorentz.time(p, c=c) * c.sqrt() for p in points]).max()


# Points


@given(scene=hyperbolic_points(count=1))
def test_ambient_points_satisfy_the_constraint(scene: tuple[Tensor, tuple[Tensor, ...]]) -> None:
    c, (x,) = scene
    ambient = lorentz.to_ambient(x, c=c)
    assert ambient[0] > 0
    close(c * minkowski(ambient, ambient), torch.tensor(-1.0, dtype=F64), scale=size(c, x) ** 2, tolerance=1e-14)
    assert torch.equal(lorentz.from_ambient(ambient), x)


def test_the_constraint_has_the_sign_that_the_paper_misprints() -> None:
    """Bdeir Section 3.1 prints <x,x>_L = 1/K and the origin (sqrt K, 0), which contradict each other."""
    origin = lorentz.to_ambient(torch.zeros(3, dtype=F64), c=0.25)
    assert origin.tolist() == [2.0, 0.0, 0.0, 0.0]
    assert minkowski(origin, origin) == -4


# Exponential and logarithm


@given(v=tangents(), c=curvatures())
def test_logmap0_inverts_expmap0(v: Tensor, c: Tensor) -> None:
    assert_close(lorentz.logmap0(lorentz.expmap0(v, c=c), c=c), v, rtol=1e-9, atol=1e-12)


@given(v=tangents(), c=curvatures())
def test_expmap0_keeps_the_length(v: Tensor, c: Tensor) -> None:
    assert_close(lorentz.dist0(lorentz.expmap0(v, c=c), c=c), v.norm(), rtol=1e-12, atol=1e-15)


@given(scene=hyperbolic_points(count=2))
def test_expmap_inverts_logmap(scene: tuple[Tensor, tuple[Tensor, ...]]) -> None:
    c, (x, y) = scene
    back = lorentz.expmap(x, lorentz.logmap(x, y, c=c), c=c)
    close(back * c.sqrt(), y * c.sqrt(), scale=size(c, x, y) ** 3, tolerance=1e-13)


@given(scene=hyperbolic_points(count=2))
def test_logmap_is_as_long_as_the_distance(scene: tuple[Tensor, tuple[Tensor, ...]]) -> None:
    c, (x, y) = scene
    assert_close(lorentz.norm(lorentz.logmap(x, y, c=c), x, c=c), lorentz.dist(x, y, c=c), rtol=1e-8, atol=1e-13)


@given(scene=hyperbolic_points(count=1), v=tangents(longest=3.0))
def test_expmap_matches_its_ambient_definition(scene: tuple[Tensor, tuple[Tensor, ...]], v: Tensor) -> None:
    c, (x,) = scene
    length = lorentz.norm(v, x, c=c) * c.sqrt()
    v = v / length.clamp_min(1) * 3
    a = lorentz.norm(v, x, c=c) * c.sqrt()
    expected = a.cosh() * x + (a.sinh() / a if a > 0 else 1) * v
    close(lorentz.expmap(x, v, c=c), expected, scale=expected.norm() + x.norm() + v.norm() + 1e-9, tolerance=1e-11)


def test_maps_at_the_origin_are_those_of_any_point() -> None:
    v, x = torch.randn(5, 3, dtype=F64), torch.randn(5, 3, dtype=F64)
    zero = torch.zeros(3, dtype=F64)
    assert_close(lorentz.expmap(zero, v, c=0.7), lorentz.expmap0(v, c=0.7))
    assert_close(lorentz.logmap(zero, x, c=0.7), lorentz.logmap0(x, c=0.7))
    assert_close(lorentz.transp(zero, x, v, c=0.7), lorentz.transp0(x, v, c=0.7))
    assert_close(lorentz.transp(x, zero, v, c=0.7), lorentz.transp0back(x, v, c=0.7))
    assert_close(lorentz.dist(zero, x, c=0.7), lorentz.dist0(x, c=0.7))


# Distances


@given(scene=hyperbolic_points(count=2))
def test_dist_matches_arccosh_where_that_is_accurate(scene: tuple[Tensor, tuple[Tensor, ...]]) -> None:
    c, (x, y) = scene
    ratio = -c * minkowski(lorentz.to_ambient(x, c=c), lorentz.to_ambient(y, c=c))
    distance = lorentz.dist(x, y, c=c)
    close((distance * c.sqrt()).cosh(), ratio, scale=size(c, x, y) ** 2, tolerance=1e-13)
    assert_close(distance, lorentz.dist(y, x, c=c), rtol=1e-12, atol=0)


@given(scene=hyperbolic_points(count=3))
def test_dist_satisfies_the_triangle_inequality(scene: tuple[Tensor, tuple[Tensor, ...]]) -> None:
    c, (x, y, z) = scene
    direct = lorentz.dist(x, z, c=c)
    assert direct <= (lorentz.dist(x, y, c=c) + lorentz.dist(y, z, c=c)) * (1 + 1e-9)


@given(scene=hyperbolic_points(count=1))
def test_dist_of_a_point_to_itself_is_zero_with_zero_gradient(scene: tuple[Tensor, tuple[Tensor, ...]]) -> None:
    c, (x,) = scene
    x = x.requires_grad_()
    distance = lorentz.dist(x, x.detach(), c=c)
    assert distance == 0
    assert torch.autograd.grad(distance, x)[0].eq(0).all()


# Tangent vectors


@given(scene=hyperbolic_points(count=1), u=tangents(), v=tangents())
def test_inner_matches_the_ambient_product(scene: tuple[Tensor, tuple[Tensor, ...]], u: Tensor, v: Tensor) -> None:
    c, (x,) = scene
    x_t = lorentz.time(x, c=c)
    expected = (u * v).sum() - (x * u).sum() * (x * v).sum() / x_t**2
    close(lorentz.inner(u, v, x, c=c), expected, scale=u.norm() * v.norm() + 1e-12, tolerance=1e-13)
    assert lorentz.inner(u, u, x, c=c) >= 0
    assert_close(lorentz.norm(u, x, c=c) ** 2, lorentz.inner(u, u, x, c=c), rtol=1e-12, atol=0)


@given(scene=hyperbolic_points(count=2), u=tangents(), v=tangents())
def test_transport_keeps_inner_products(scene: tuple[Tensor, tuple[Tensor, ...]], u: Tensor, v: Tensor) -> None:
    c, (x, y) = scene
    before = lorentz.inner(u, v, x, c=c)
    moved = lorentz.inner(lorentz.transp(x, y, u, c=c), lorentz.transp(x, y, v, c=c), y, c=c)
    close(moved, before, scale=u.norm() * v.norm() * size(c, x, y) ** 2 + 1e-12, tolerance=1e-12)


@given(scene=hyperbolic_points(count=2))
def test_transport_turns_the_logarithm_around(scene: tuple[Tensor, tuple[Tensor, ...]]) -> None:
    c, (x, y) = scene
    there, back = lorentz.logmap(x, y, c=c), lorentz.logmap(y, x, c=c)
    close(lorentz.transp(x, y, there, c=c), -back, scale=(there.norm() + back.norm()) * size(c, x, y) + 1e-12)


@given(scene=hyperbolic_points(count=1), v=tangents())
def test_transport_to_the_origin_and_back(scene: tuple[Tensor, tuple[Tensor, ...]], v: Tensor) -> None:
    c, (x,) = scene
    at_origin = lorentz.transp0back(x, v, c=c)
    close(lorentz.transp0(x, at_origin, c=c), v, scale=v.norm() * size(c, x) + 1e-12, tolerance=1e-12)
    close(at_origin.norm(), lorentz.norm(v, x, c=c), scale=v.norm() + 1e-12, tolerance=1e-12)


@given(scene=hyperbolic_points(count=1, reach=3.0), g=tangents(), v=tangents())
def test_riemannian_gradient_represents_the_differential(
    scene: tuple[Tensor, tuple[Tensor, ...]], g: Tensor, v: Tensor
) -> None:
    c, (x,) = scene
    gradient = lorentz.egrad2rgrad(x, g, c=c)
    close(
        lorentz.inner(gradient, v, x, c=c), (g * v).sum(), scale=g.norm() * v.norm() * size(c, x) ** 2 + 1e-12,
        tolerance=1e-11,
    )  # fmt: skip


def test_riemannian_gradient_of_the_distance_is_the_unit_vector_away() -> None:
    x, y = torch.randn(6, 4, dtype=F64, requires_grad=True), torch.randn(6, 4, dtype=F64)
    (g,) = torch.autograd.grad(lorentz.dist(x, y, c=0.4).sum(), x)
    away = -lorentz.logmap(x, y, c=0.4) / lorentz.dist(x, y, c=0.4, keepdim=True)
    assert_close(lorentz.egrad2rgrad(x, g, c=0.4), away)


# Boost


@given(scene=hyperbolic_points(count=3, reach=4.0))
def test_boost_is_an_isometry_that_takes_the_origin_to_b(scene: tuple[Tensor, tuple[Tensor, ...]]) -> None:
    c, (x, y, b) = scene
    close(lorentz.boost(torch.zeros_like(b), b, c=c), b, scale=b.norm() + 1e-12, tolerance=1e-13)
    moved = lorentz.dist(lorentz.boost(x, b, c=c), lorentz.boost(y, b, c=c), c=c)
    close(moved * c.sqrt(), lorentz.dist(x, y, c=c) * c.sqrt(), scale=size(c, x, y, b) ** 2, tolerance=1e-12)


@given(scene=hyperbolic_points(count=2, reach=4.0))
def test_boost_by_minus_b_is_the_inverse(scene: tuple[Tensor, tuple[Tensor, ...]]) -> None:
    c, (x, b) = scene
    back = lorentz.boost(lorentz.boost(x, b, c=c), -b, c=c)
    close(back * c.sqrt(), x * c.sqrt(), scale=size(c, b) ** 2 * size(c, x), tolerance=1e-13)


@given(scene=hyperbolic_points(count=2, reach=4.0))
def test_boosted_logarithm_is_the_transported_one(scene: tuple[Tensor, tuple[Tensor, ...]]) -> None:
    """geometry.md: log_0(boost_{-m}(x)) = transport(m -> 0)(log_m x)."""
    c, (x, m) = scene
    boosted = lorentz.logmap0(lorentz.boost(x, -m, c=c), c=c)
    transported = lorentz.transp0back(m, lorentz.logmap(m, x, c=c), c=c)
    close(boosted * c.sqrt(), transported * c.sqrt(), scale=size(c, x, m) ** 2, tolerance=1e-12)


def test_boost_matches_the_velocity_form_of_the_paper() -> None:
    """Bdeir Section 3.3 with v = tanh(phi) e, gamma = cosh(phi), in ambient coordinates, c = 1."""
    x, direction, rapidity = torch.randn(7, 3, dtype=F64), torch.tensor([0.6, 0.0, 0.8], dtype=F64), 1.3
    v, gamma = math.tanh(rapidity) * direction, math.cosh(rapidity)
    x_t = lorentz.time(x, c=1.0, keepdim=True)
    expected = x + ((gamma - 1) / (v @ v) * (x @ v).unsqueeze(-1) + gamma * x_t) * v
    assert_close(lorentz.boost(x, math.sinh(rapidity) * direction, c=1.0), expected)


# Centroid


@given(scene=hyperbolic_points(count=4), weights=st.lists(st.floats(0.1, 3.0), min_size=4, max_size=4))
def test_centroid_matches_its_ambient_definition(
    scene: tuple[Tensor, tuple[Tensor, ...]], weights: list[float]
) -> None:
    c, points = scene
    x, w = torch.stack(points), torch.tensor(weights, dtype=F64)
    m = (w.unsqueeze(-1) * lorentz.to_ambient(x, c=c)).sum(0)
    expected = m[1:] / (c * -minkowski(m, m)).sqrt()
    # the definition subtracts squares: rounding in it is relative to the largest time squared
    close(lorentz.centroid(x, c=c, weights=w), expected, scale=x.norm(dim=-1).max() * size(c, *points) ** 2 + 1e-12)


def test_centroid_weights_and_dimensions() -> None:
    x = torch.randn(2, 3, 5, 4, dtype=F64)
    both = lorentz.centroid(x, c=0.5, dim=(0, 2))
    assert_close(both, lorentz.centroid(x.transpose(0, 1).reshape(3, 10, 4), c=0.5))
    ones = torch.full((5,), 0.3, dtype=F64)
    assert_close(lorentz.centroid(x, c=0.5, weights=ones), lorentz.centroid(x, c=0.5))
    assert_close(lorentz.centroid(x, c=0.5, weights=torch.tensor([0.0, 0, 1, 0, 0])), x[:, :, 2])


def test_centroid_of_one_point_is_the_point_and_of_two_their_midpoint() -> None:
    x, y = torch.randn(4, dtype=F64), torch.randn(4, dtype=F64)
    assert_close(lorentz.centroid(x.expand(3, 4), c=2.0), x)
    middle = lorentz.expmap(x, lorentz.logmap(x, y, c=2.0) / 2, c=2.0)
    assert_close(lorentz.centroid(torch.stack([x, y]), c=2.0), middle)


# Maximum distance rescaling


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 8.294049640102028), (torch.float64, 19.113827924512312)])
def test_d_max_is_arccosh_of_the_largest_time(dtype: torch.dtype, limit: float) -> None:
    """Bdeir Eq. (1): x_t_max = 2000 gives 8.294 at c = 1; the paper prints 9.1."""
    assert lorentz.d_max(c=1.0, dtype=dtype).item() == pytest.approx(limit, rel=1e-6)
    assert lorentz.d_max(c=1.0, dtype=torch.float16).item() == pytest.approx(math.acosh(22), rel=2e-3)
    assert lorentz.d_max(c=1.0, dtype=torch.bfloat16).item() == pytest.approx(math.acosh(8), rel=1e-2)


@given(c=curvatures(), s=st.floats(0.5, 4.0))
def test_rescaling_reaches_99_percent_of_the_limit_at_s_times_the_limit(c: Tensor, s: float) -> None:
    """Bdeir Eq. (3) read as r = atanh(0.99)/(s D); the printed atanh(0.99/(s D)) misses its own limit."""
    limit = lorentz.d_max(c=c, dtype=F64, x_t_max=2e3)
    direction = torch.tensor([0.6, 0.0, 0.8], dtype=F64)
    out = lorentz.rescale0(s * limit * direction, c=c, s=s, x_t_max=2e3)
    assert_close(out, 0.99 * limit * direction, rtol=1e-12, atol=0)
    small = lorentz.rescale0(1e-6 * limit * direction, c=c, s=s, x_t_max=2e3)
    assert small.norm().item() == pytest.approx(1e-6 * limit.item() * math.atanh(0.99) / s, rel=1e-9)


@given(scene=hyperbolic_points(count=1), s=st.floats(1.0, 3.0))
def test_rescaling_of_points_is_that_of_their_logarithms(scene: tuple[Tensor, tuple[Tensor, ...]], s: float) -> None:
    c, (x,) = scene
    expected = lorentz.expmap0(lorentz.rescale0(lorentz.logmap0(x, c=c), c=c, s=s), c=c)
    out = lorentz.rescale(x, c=c, s=s)
    assert_close(out, expected, rtol=1e-8, atol=1e-12)
    assert lorentz.dist0(out, c=c) <= lorentz.d_max(c=c, dtype=F64)


def test_limits_carry_no_gradient_to_the_curvature() -> None:
    c = torch.tensor(0.7, dtype=F64, requires_grad=True)
    assert not lorentz.d_max(c=c, dtype=F64).requires_grad
    v = torch.randn(3, dtype=F64)
    assert not lorentz.rescale0(v, c=c, s=2.0).requires_grad
    assert lorentz.rescale(v, c=c, s=2.0).requires_grad


def test_rescaling_refuses_a_tightness_that_is_not_positive() -> None:
    with pytest.raises(ValueError, match=r"s=0\.0 must be > 0"):
        lorentz.rescale0(torch.ones(2), c=1.0, s=0.0)


# Moves between curvatures


@given(scene=hyperbolic_points(count=1), c_new=curvatures(), v=tangents())
def test_curvature_move_keeps_distance_direction_and_tangent_length(
    scene: tuple[Tensor, tuple[Tensor, ...]], c_new: Tensor, v: Tensor
) -> None:
    c, (x,) = scene
    x = lorentz.expmap0(lorentz.logmap0(x, c=c).clamp(-1, 1), c=c)
    moved = lorentz.change_curvature(x, c_old=c, c_new=c_new)
    assert_close(lorentz.logmap0(moved, c=c_new), lorentz.logmap0(x, c=c), rtol=1e-9, atol=1e-12)
    u = lorentz.change_curvature_tangent(x, v, c_old=c, c_new=c_new)
    close(
        lorentz.norm(u, moved, c=c_new), lorentz.norm(v, x, c=c), scale=v.norm() * size(c_new, moved) + 1e-12,
        tolerance=1e-11,
    )  # fmt: skip


def test_scaling_move_keeps_distances_in_units_of_the_radius() -> None:
    """curvature-paper.md section 2: from K = 1 to K = 1.7 every distance grows by 1.304."""
    x, y = torch.randn(2, 5, 3, dtype=F64)
    move = {"c_old": 1.0, "c_new": 1 / 1.7, "mode": "scale"}
    moved = lorentz.dist(lorentz.change_curvature(x, **move), lorentz.change_curvature(y, **move), c=1 / 1.7)
    assert_close(moved, 1.7**0.5 * lorentz.dist(x, y, c=1.0))
    assert_close(lorentz.change_curvature_tangent(x, y, **move), 1.7**0.5 * y)


def test_curvature_move_names_its_modes() -> None:
    for move in (lorentz.change_curvature, lambda x, **k: lorentz.change_curvature_tangent(x, x, **k)):
        with pytest.raises(ValueError, match="mode='exp' must be 'logexp'"):
            move(torch.zeros(2), c_old=1.0, c_new=2.0, mode="exp")


# Multinomial logistic regression


@given(scene=hyperbolic_points(count=1, reach=4.0), z=tangents(longest=3.0), a=st.floats(-1.0, 1.0))
def test_mlr_matches_the_four_term_formula(scene: tuple[Tensor, tuple[Tensor, ...]], z: Tensor, a: float) -> None:
    """The published form sign(alpha) beta k |asinh(alpha/(beta k))| with beta = sqrt(|w|^2 - w_t^2)."""
    c, (x,) = scene
    k, length = c.rsqrt(), z.norm()
    if length == 0:
        return
    a = a * k
    w, w_t = (a / k).cosh() * z, (a / k).sinh() * length
    alpha, beta = (w * x).sum() - w_t * lorentz.time(x, c=c), (w.square().sum() - w_t**2).sqrt()
    expected = alpha.sign() * beta * k * (alpha / (beta * k)).asinh().abs()
    got = lorentz.mlr(x, z.unsqueeze(0), a.reshape(1), c=c)
    close(got[0], expected, scale=length * k * size(c, x), tolerance=1e-12)


def test_mlr_is_the_distance_to_the_hyperplane() -> None:
    """Unit z: |logit| is the distance from x to the nearest point of the hyperplane, found by sampling it."""
    c, a = 0.6, torch.tensor(0.3, dtype=F64)
    z = torch.tensor([1.0, 0.0], dtype=F64)
    x = torch.tensor([[1.2, 0.7]], dtype=F64)
    base = lorentz.expmap0(a * z, c=c)
    along = lorentz.transp0(base, torch.tensor([0.0, 1.0], dtype=F64), c=c)
    line = lorentz.expmap(base, torch.linspace(-4, 4, 20001, dtype=F64).unsqueeze(-1) * along, c=c)
    assert_close(lorentz.mlr(line, z[None], a[None], c=c), torch.zeros(20001, 1, dtype=F64), rtol=0, atol=1e-9)
    nearest = lorentz.dist(x, line, c=c).min()
    assert_close(lorentz.mlr(x, z[None], a[None], c=c).squeeze(), nearest, rtol=1e-6, atol=0)


def test_mlr_has_a_gradient_where_the_logit_is_zero() -> None:
    x = torch.zeros(1, 3, dtype=F64, requires_grad=True)
    z, a = torch.randn(2, 3, dtype=F64), torch.zeros(2, dtype=F64)
    logits = lorentz.mlr(x, z, a, c=1.0)
    assert logits.abs().max() == 0
    assert_close(torch.autograd.grad(logits[0, 0], x)[0][0], z[0])


# Gradients


SMOOTH = {
    "time": lambda x, y, v, c: lorentz.time(x, c=c),
    "squared_chord": lambda x, y, v, c: lorentz.squared_chord(x, y, c=c),
    "inner": lambda x, y, v, c: lorentz.inner(v, y, x, c=c),
    "expmap0": lambda x, y, v, c: lorentz.expmap0(v, c=c),
    "logmap0": lambda x, y, v, c: lorentz.logmap0(x, c=c),
    "expmap": lambda x, y, v, c: lorentz.expmap(x, v, c=c),
    "logmap": lambda x, y, v, c: lorentz.logmap(x, y, c=c),
    "transp": lambda x, y, v, c: lorentz.transp(x, y, v, c=c),
    "transp0": lambda x, y, v, c: lorentz.transp0(x, v, c=c),
    "transp0back": lambda x, y, v, c: lorentz.transp0back(x, v, c=c),
    "egrad2rgrad": lambda x, y, v, c: lorentz.egrad2rgrad(x, v, c=c),
    "boost": lambda x, y, v, c: lorentz.boost(x, y, c=c),
    "centroid": lambda x, y, v, c: lorentz.centroid(torch.stack([x, y, v]), c=c, dim=0),
    "rescale0": lambda x, y, v, c: lorentz.rescale0(v, c=0.7, s=2.0),
    "rescale": lambda x, y, v, c: lorentz.rescale(x, c=0.7, s=2.0),
    "change_curvature": lambda x, y, v, c: lorentz.change_curvature(x, c_old=c, c_new=1.3),
    "change_curvature_tangent": lambda x, y, v, c: lorentz.change_curvature_tangent(x, v, c_old=0.4, c_new=c),
    "mlr": lambda x, y, v, c: lorentz.mlr(x, torch.ones(2, 3, dtype=F64), v[:2, 0], c=c),
}


def special_scene() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, y, v, c whose rows are: generic, x at the origin, x = y, v = 0, everything at the origin, far out."""
    x, y, v = torch.randn(3, 6, 3, dtype=F64)
    x[1], y[2], v[3] = 0, x[2], 0
    x[4], y[4], v[4] = 0, 0, 0
    x[5], y[5] = 20 * x[5], -20 * y[5]
    return x, y, v, torch.tensor(0.7, dtype=F64)


def test_gradient_of_the_distance_holds_for_points_of_one_radius() -> None:
    """There the rounding of x_t - y_t and of |x|^2 - |y|^2 may differ in sign."""
    x, y = 3 * torch.nn.functional.normalize(torch.randn(2, 200, 3, dtype=F64), dim=-1).requires_grad_()
    (gradient,) = torch.autograd.grad(lorentz.dist(x, y, c=1.0).sum(), x)
    unit = -lorentz.logmap(x, y, c=1.0) / lorentz.dist(x, y, c=1.0, keepdim=True)
    assert_close(lorentz.egrad2rgrad(x, gradient, c=1.0), unit)


@pytest.mark.parametrize("name", SMOOTH)
def test_gradients_are_exact_also_at_the_origin_and_at_coincident_points(name: str) -> None:
    inputs = [t.requires_grad_() for t in special_scene()]
    assert gradcheck(SMOOTH[name], inputs, rtol=1e-4)
    assert gradgradcheck(SMOOTH[name], inputs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["dist", "dist0", "norm"])
def test_gradients_of_lengths_are_exact_where_they_exist_and_finite_where_not(name: str) -> None:
    functions = {
        "dist": lambda x, y, v, c: lorentz.dist(x, y, c=c),
        "dist0": lambda x, y, v, c: lorentz.dist0(x, c=c),
        "norm": lambda x, y, v, c: lorentz.norm(v, x, c=c),
    }
    inputs = [t.requires_grad_() for t in special_scene()]
    values = functions[name](*inputs)
    gradients = torch.autograd.grad(values.sum(), inputs, materialize_grads=True)
    assert all(gradient.isfinite().all() for gradient in gradients)
    generic = [t.detach()[[0, 5]].requires_grad_() for t in inputs[:3]]
    assert gradcheck(functions[name], (*generic, inputs[3]), rtol=1e-4)


# geoopt in ambient coordinates


@settings(max_examples=50)
@given(scene=hyperbolic_points(count=2, reach=3.0), v=tangents(longest=2.0))
def test_agreement_with_geoopt(scene: tuple[Tensor, tuple[Tensor, ...]], v: Tensor) -> None:
    c, (x, y) = scene
    k, scale = 1 / c, size(c, x, y) ** 3 * c.rsqrt()
    v = v * c.rsqrt() / size(c, x)
    a_x, a_y = lorentz.to_ambient(x, c=c), lorentz.to_ambient(y, c=c)
    a_v = torch.cat([((x * v).sum() / a_x[0]).reshape(1), v])
    close(lorentz.dist(x, y, c=c), geoopt_lorentz.dist(a_x, a_y, k=k), scale=scale, tolerance=1e-6)
    close(lorentz.expmap(x, v, c=c), geoopt_lorentz.expmap(a_x, a_v, k=k)[1:], scale=scale, tolerance=1e-6)
    ambient_gradient = torch.cat([v.new_zeros(1), v])  # a function of the space coordinates alone
    expected = geoopt_lorentz.egrad2rgrad(a_x, ambient_gradient, k=k)[1:]
    close(lorentz.egrad2rgrad(x, v, c=c), expected, scale=scale, tolerance=1e-12)
    if lorentz.dist(x, y, c=c) * c.sqrt() > 1e-2:  # geoopt's logarithm loses close pairs, its transport divides by it
        close(lorentz.logmap(x, y, c=c), geoopt_lorentz.logmap(a_x, a_y, k=k)[1:], scale=scale, tolerance=1e-6)
        expected = geoopt_lorentz.parallel_transport(a_x, a_y, a_v, k=k)[1:]
        close(lorentz.transp(x, y, v, c=c), expected, scale=scale, tolerance=1e-6)


# Shapes


def test_points_and_vectors_broadcast() -> None:
    x, y = torch.randn(4, 1, 3), torch.randn(5, 3)
    assert lorentz.dist(x, y, c=1.0).shape == (4, 5)
    assert lorentz.dist(x, y, c=1.0, keepdim=True).shape == (4, 5, 1)
    assert lorentz.boost(x, y, c=1.0).shape == (4, 5, 3)
    assert lorentz.transp(x, y, torch.randn(3), c=1.0).shape == (4, 5, 3)
    assert lorentz.mlr(torch.randn(2, 4, 3), torch.randn(7, 3), torch.randn(7), c=1.0).shape == (2, 4, 7)

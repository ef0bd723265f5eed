"""The Poincare ball: the hyperboloid seen through the isometry, geoopt, and 50 digits near the edge."""

from __future__ import annotations

import mpmath as mp
import pytest
import torch
from geoopt.manifolds.stereographic import math as geoopt_ball
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck
from torch.testing import assert_close

from hyplearn.geometry import lorentz, poincare
from hyplearn.geometry.isometry import (
    lorentz_to_poincare,
    poincare_to_lorentz,
    poincare_to_lorentz_tangent,
)
from tests.support import fifty_digits as exact
from tests.support.strategies import ball_points, curvatures, tangents

F64 = torch.float64
Scene = tuple[Tensor, tuple[Tensor, ...]]


def close(got: Tensor, expected: Tensor, *, scale: Tensor | float = 1.0, tolerance: float = 1e-11) -> None:
    assert_close(got / scale, expected / scale, rtol=0, atol=tolerance)


def stretch(c: Tensor, *points: Tensor) -> Tensor:
    """The largest conformal factor: rounding in the ball grows with it."""
    return torch.stack([poincare.conformal_factor(p, c=c) for p in points]).max()


@given(scene=ball_points(count=2))
def test_distances_are_those_of_the_hyperboloid(scene: Scene) -> None:
    c, (p, q) = scene
    x, y = poincare_to_lorentz(p, c=c), poincare_to_lorentz(q, c=c)
    scale = stretch(c, p, q) * c.rsqrt()
    close(poincare.dist(p, q, c=c), lorentz.dist(x, y, c=c), scale=scale)
    close(poincare.dist0(p, c=c), lorentz.dist0(x, c=c), scale=scale)
    assert_close(poincare.dist(p, q, c=c), poincare.dist(q, p, c=c), rtol=1e-12, atol=0)
    assert poincare.dist(p, p, c=c) == 0


@given(scene=ball_points(count=3), v=tangents())
def test_every_map_is_that_of_the_hyperboloid(scene: Scene, v: Tensor) -> None:
    c, (p, q, b) = scene
    v = v / stretch(c, p) * c.rsqrt()
    x, y, z = (poincare_to_lorentz(t, c=c) for t in (p, q, b))
    u = poincare_to_lorentz_tangent(p, v, c=c)

    def lifted(tangent: Tensor, at: Tensor) -> Tensor:
        return poincare_to_lorentz_tangent(at, tangent, c=c)

    scale = stretch(c, p, q, b) ** 3 * c.rsqrt()
    close(lifted(poincare.logmap(p, q, c=c), p), lorentz.logmap(x, y, c=c), scale=scale)
    close(poincare.expmap(p, v, c=c), lorentz_to_poincare(lorentz.expmap(x, u, c=c), c=c), scale=scale)
    close(poincare.boost(p, b, c=c), lorentz_to_poincare(lorentz.boost(x, z, c=c), c=c), scale=scale)
    close(lifted(poincare.transp(p, q, v, c=c), q), lorentz.transp(x, y, u, c=c), scale=scale)
    close(lifted(poincare.transp0(q, v, c=c), q), lorentz.transp0(y, 2 * v, c=c), scale=scale)
    close(2 * poincare.transp0back(p, v, c=c), lorentz.transp0back(x, u, c=c), scale=scale)
    close(poincare.norm(v, p, c=c), lorentz.norm(u, x, c=c), scale=scale)
    close(poincare.inner(v, v, p, c=c), lorentz.inner(u, u, x, c=c), scale=scale**2)
    points = torch.stack([p, q, b])
    centroid = lorentz.centroid(torch.stack([x, y, z]), c=c)
    close(poincare.centroid(points, c=c), lorentz_to_poincare(centroid, c=c), scale=scale)


@given(scene=ball_points(count=1), s=st.floats(1.0, 3.0), c_new=curvatures(), v=tangents())
def test_rescaling_and_curvature_moves_are_those_of_the_hyperboloid(
    scene: Scene, s: float, c_new: Tensor, v: Tensor
) -> None:
    c, (p,) = scene
    x = poincare_to_lorentz(p, c=c)
    scale = stretch(c, p)
    rescaled = poincare.dist0(poincare.rescale(p, c=c, s=s, x_t_max=2e3), c=c)
    limit = lorentz.d_max(c=c, dtype=F64, x_t_max=2e3)
    close(rescaled, lorentz.dist0(lorentz.rescale(x, c=c, s=s, x_t_max=2e3), c=c), scale=scale * limit)
    short = poincare.rescale0(v, c=c, s=s, x_t_max=2e3)
    close(2 * short, lorentz.rescale0(2 * v, c=c, s=s, x_t_max=2e3), tolerance=1e-13)
    p = poincare.expmap0(poincare.logmap0(p, c=c).clamp(-0.5, 0.5) * (c_new / c).clamp(max=1), c=c)
    moved = poincare.change_curvature(p, c_old=c, c_new=c_new)
    scale = stretch(c, p) * stretch(c_new, moved)
    close(poincare.logmap0(moved, c=c_new), poincare.logmap0(p, c=c), scale=scale)
    u = poincare.change_curvature_tangent(p, v, c_old=c, c_new=c_new)
    close(poincare.norm(u, moved, c=c_new), poincare.norm(v, p, c=c), scale=scale**2)
    scaled = poincare.change_curvature_tangent(p, v, c_old=c, c_new=c_new, mode="scale")
    assert_close(scaled, (c / c_new).sqrt() * v)
    halfway = poincare.change_curvature(p, c_old=c, c_new=c_new, mode="scale")
    close(poincare.dist0(halfway, c=c_new) * c_new.sqrt(), poincare.dist0(p, c=c) * c.sqrt(), scale=scale)


def test_mlr_is_twice_the_lorentz_logit_and_matches_the_published_formula() -> None:
    c = torch.tensor(0.7, dtype=F64)
    p = poincare.expmap0(torch.randn(6, 3, dtype=F64) / 2, c=c)
    z, a = torch.randn(4, 3, dtype=F64), torch.randn(4, dtype=F64) / 3
    got = poincare.mlr(p, z, a, c=c)
    assert_close(got, 2 * lorentz.mlr(poincare_to_lorentz(p, c=c), z, 2 * a, c=c))
    # distance to the hyperplane through expmap0(a e) orthogonal to e = z/|z| (Ganea et al.), times 2 |z|
    unit = torch.nn.functional.normalize(z, dim=-1)
    base = poincare.expmap0(a.unsqueeze(-1) * unit, c=c)
    w = poincare.mobius_add(-base, p.unsqueeze(1), c=c)
    ratio = 2 * c.sqrt() * (w * unit).sum(-1) / (1 - c * w.square().sum(-1))
    assert_close(got, 2 * z.norm(dim=-1) * ratio.asinh() / c.sqrt())


@settings(max_examples=50)
@given(scene=ball_points(count=2, reach=4.0), v=tangents(longest=1.0))
def test_agreement_with_geoopt(scene: Scene, v: Tensor) -> None:
    c, (p, q) = scene
    v, k = v / stretch(c, p) * c.rsqrt(), -c
    scale = stretch(c, p, q) ** 2 * c.rsqrt()
    close(poincare.dist(p, q, c=c), geoopt_ball.dist(p, q, k=k), scale=scale, tolerance=1e-8)
    close(poincare.mobius_add(p, q, c=c), geoopt_ball.mobius_add(p, q, k=k), scale=scale, tolerance=1e-8)
    close(poincare.expmap(p, v, c=c), geoopt_ball.expmap(p, v, k=k), scale=scale, tolerance=1e-8)
    close(poincare.logmap(p, q, c=c), geoopt_ball.logmap(p, q, k=k), scale=scale, tolerance=1e-6)
    close(poincare.transp(p, q, v, c=c), geoopt_ball.parallel_transport(p, q, v, k=k), scale=scale, tolerance=1e-8)
    close(poincare.egrad2rgrad(p, v, c=c), geoopt_ball.egrad2rgrad(p, v, k=k), scale=scale, tolerance=1e-8)


@pytest.mark.parametrize(("share", "bound"), [(0.0, 1e-6), (0.03, 1e-6), (0.3, 1e-6), (0.75, 3e-5), (1.0, 3e-4)])
@pytest.mark.parametrize("value", [0.05, 0.1, 1.0, 4.0, 20.0])
def test_float32_matches_fifty_digits_as_far_as_the_coordinates_allow(value: float, share: float, bound: float) -> None:
    """The gap 1 - c |p|^2 has an absolute error of a few 6e-8: relative 1e-5 at 0.75 d_max, 1e-4 at d_max."""
    c = torch.tensor(value)
    e_c = exact.number(c)
    half = max(share * lorentz.d_max(c=c).item(), 1e-6) / 2

    def gap(p: exact.Vector) -> mp.mpf:
        return 1 - e_c * exact.dot(p, p)

    for closeness in (1e-3, 0.3):
        v = half * torch.nn.functional.normalize(torch.randn(5, dtype=F64), dim=0)
        w = v * (1 - closeness) + closeness * half / 3 * torch.nn.functional.normalize(torch.randn(5, dtype=F64), dim=0)
        p, q = (poincare.expmap0(u, c=c.double()).float() for u in (v, w))
        e_p, e_q = exact.vector(p), exact.vector(q)
        chord = exact.norm(exact.add((mp.mpf(1), e_p), (mp.mpf(-1), e_q)))
        dist = 2 / mp.sqrt(e_c) * mp.asinh(mp.sqrt(e_c) * chord / mp.sqrt(gap(e_p) * gap(e_q)))
        root = mp.sqrt(e_c) * exact.norm(e_p)
        e_v = exact.vector(v.float())
        root_v = mp.sqrt(e_c) * exact.norm(e_v)
        assert exact.error(poincare.dist(p, q, c=c), dist) < bound
        assert exact.error(poincare.cdist(p[None], q[None], c=c)[0, 0], dist) < bound
        assert exact.error(poincare.dist0(p, c=c), 2 / mp.sqrt(e_c) * mp.atanh(root)) < bound
        assert exact.error(poincare.logmap0(p, c=c), exact.add((mp.atanh(root) / root, e_p))) < bound
        assert exact.error(poincare.expmap0(v.float(), c=c), exact.add((mp.tanh(root_v) / root_v, e_v))) < 1e-6


def test_gradients_are_exact_also_at_the_origin_and_at_coincident_points() -> None:
    c = torch.tensor(0.7, dtype=F64, requires_grad=True)
    p, q, v = (t.requires_grad_() for t in 0.4 * torch.randn(3, 4, 3, dtype=F64))
    p.data[1], q.data[2], v.data[3] = 0, p.data[2], 0
    for function in (
        lambda p, q, v, c: poincare.expmap(p, v, c=c),
        lambda p, q, v, c: poincare.logmap(p, q, c=c),
        lambda p, q, v, c: poincare.transp(p, q, v, c=c),
        lambda p, q, v, c: poincare.expmap0(v, c=c),
        lambda p, q, v, c: poincare.logmap0(p, c=c),
        lambda p, q, v, c: poincare.centroid(torch.stack([p, q]), c=c, dim=0),
        lambda p, q, v, c: poincare.mlr(p, q[[0, 3]], v[:2, 0], c=c),
    ):
        assert gradcheck(function, (p, q, v, c), rtol=1e-4)
    lengths = poincare.dist(p, q, c=c).sum() + poincare.dist0(p, c=c).sum() + poincare.norm(v, p, c=c).sum()
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(lengths, (p, q, v, c)))


def test_proj_moves_only_points_beyond_the_limit() -> None:
    c = torch.tensor(0.5, dtype=F64)
    inside = poincare.expmap0(torch.randn(5, 3, dtype=F64), c=c)
    assert torch.equal(poincare.proj(inside, c=c), inside)
    outside = torch.tensor([[3.0, 0.0, 4.0], [1.4142, 0.0, 0.0]], dtype=F64)
    kept = poincare.proj(outside, c=c, x_t_max=2e3)
    assert_close(poincare.dist0(kept, c=c), lorentz.d_max(c=c, dtype=F64, x_t_max=2e3).expand(2))
    assert_close(torch.nn.functional.normalize(kept, dim=-1), torch.nn.functional.normalize(outside, dim=-1))
    x = torch.zeros(2, 3, requires_grad=True)
    assert torch.autograd.grad(poincare.proj(x, c=0.5).sum(), x)[0].eq(1).all()


def test_curvature_move_names_its_modes() -> None:
    with pytest.raises(ValueError, match="mode='exp' must be 'logexp'"):
        poincare.change_curvature(torch.zeros(2), c_old=1.0, c_new=2.0, mode="exp")  # type: ignore[arg-type]

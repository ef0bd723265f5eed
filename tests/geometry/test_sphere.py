"""The unit sphere: angles, maps, transport, and geoopt as a second opinion."""

from __future__ import annotations

import geoopt
import torch
from hypothesis import given
from torch import Tensor
from torch.autograd import gradcheck
from torch.testing import assert_close

from hyplearn.geometry import sphere
from tests.support.strategies import sphere_points, tangents

F64 = torch.float64


def apart(x: Tensor, y: Tensor) -> bool:
    """Neither coincident nor opposite."""
    return bool(sphere.dist(x, y) > 1e-6) and bool(sphere.dist(x, -y) > 1e-3)


@given(points=sphere_points(), v=tangents(longest=3.0))
def test_maps_and_transport(points: tuple[Tensor, ...], v: Tensor) -> None:
    x, y = points
    v = sphere.proj_tangent(x, v)
    end = sphere.expmap(x, v)
    assert_close(end.norm(), torch.tensor(1.0, dtype=F64))
    assert_close(sphere.dist(x, end), sphere.norm(v, x), rtol=0, atol=1e-7)
    if not apart(x, y):
        return
    logarithm = sphere.logmap(x, y)
    assert_close(sphere.expmap(x, logarithm), y, rtol=0, atol=1e-9)
    assert_close(sphere.norm(logarithm, x), sphere.dist(x, y), rtol=1e-9, atol=1e-12)
    assert_close(sphere.transp(x, y, logarithm), -sphere.logmap(y, x), rtol=0, atol=1e-8)
    moved = sphere.transp(x, y, v)
    assert_close((moved * y).sum(), torch.zeros((), dtype=F64), rtol=0, atol=1e-9)
    assert_close(sphere.inner(moved, moved, y), sphere.inner(v, v, x), rtol=1e-9, atol=1e-12)


@given(points=sphere_points(), v=tangents(longest=3.0))
def test_agreement_with_geoopt(points: tuple[Tensor, ...], v: Tensor) -> None:
    x, y = points
    theirs = geoopt.SphereExact()
    assert_close(sphere.proj_tangent(x, v), theirs.proju(x, v))
    assert_close(sphere.egrad2rgrad(x, v), theirs.egrad2rgrad(x, v))
    v = sphere.proj_tangent(x, v)
    assert_close(sphere.expmap(x, v), theirs.expmap(x, v), rtol=0, atol=1e-7)
    if apart(x, y):
        assert_close(sphere.dist(x, y), theirs.dist(x, y), rtol=0, atol=1e-7)
        assert_close(sphere.logmap(x, y), theirs.logmap(x, y), rtol=0, atol=1e-6)


def test_angles_of_close_and_of_opposite_points_keep_their_digits() -> None:
    angle = torch.tensor([1e-6, 1e-3, 1.0, torch.pi - 1e-3], dtype=F64)
    y = torch.stack([angle.cos(), angle.sin(), torch.zeros(4, dtype=F64)], dim=-1).float()
    x = torch.tensor([1.0, 0.0, 0.0])
    exact = torch.atan2(y[:, 1].double(), y[:, 0].double()).float()
    assert_close(sphere.dist(x, y), exact, rtol=2e-6, atol=0)
    assert_close(sphere.cdist(x[None], y)[0], exact, rtol=2e-6, atol=0)


def test_pairwise_angles_and_cosines() -> None:
    x, y = sphere.proj(torch.randn(5, 4, dtype=F64)), sphere.proj(torch.randn(6, 4, dtype=F64))
    assert_close(sphere.cdist(x, y), sphere.dist(x[:, None], y))
    assert_close(sphere.cosine(x, y), sphere.cdist(x, y).cos())
    assert_close(sphere.mlr(x, 3 * y), sphere.cosine(x, y))


def test_gradients_are_finite_at_coincident_points() -> None:
    x = sphere.proj(torch.randn(4, 3, dtype=F64)).requires_grad_()
    for total in (
        sphere.dist(x, x.detach()).sum(),
        sphere.cdist(x, x.detach()).sum(),
        sphere.logmap(x, x.detach())[0, 0],
    ):
        assert torch.autograd.grad(total, x)[0].isfinite().all()
    v = torch.zeros(4, 3, dtype=F64, requires_grad=True)
    assert gradcheck(lambda v: sphere.expmap(x.detach(), v), v)
    assert sphere.proj(torch.zeros(2, 3)).eq(0).all()


def test_centroid_is_the_normalised_weighted_mean() -> None:
    x = sphere.proj(torch.randn(2, 5, 3, dtype=F64))
    w = torch.rand(5, dtype=F64)
    expected = (w[:, None] * x).sum(1)
    assert_close(sphere.centroid(x, weights=w), expected / expected.norm(dim=-1, keepdim=True))
    assert_close(sphere.centroid(x, dim=(0, 1)), sphere.proj(x.sum((0, 1))))

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from hyplearn.geometry import lorentz
from hyplearn.geometry.isometry import lorentz_to_poincare
from hyplearn.manifolds import Lorentz, ManifoldParameter, PoincareBall
from hyplearn.manifolds.interop import geoopt
from hyplearn.optim import RiemannianAdam, RiemannianAdamW

C = 0.5  # K = 1/c is a float32 number
DELTA = torch.linspace(0.05, 3, 12, dtype=torch.float64)
X = C**-0.5 * DELTA.sinh()[:, None] * torch.tensor([0.6, -0.8], dtype=torch.float64)


def ours() -> Any:
    return Lorentz(c=C, learned=False).double()


def decayed(manifold: Any, x: Tensor, **options: Any) -> Tensor:
    """Points after one step without a gradient to speak of."""
    parameter = ManifoldParameter(x.clone(), manifold=manifold)
    parameter.grad = torch.zeros_like(parameter)
    RiemannianAdamW([parameter], **options).step()
    return parameter.detach()


def radius(x: Tensor) -> Tensor:
    return lorentz.dist0(x, c=ours().c) * C**0.5


def test_centroid_decay_is_the_centroid_with_the_origin() -> None:
    pair = torch.stack([X, torch.zeros_like(X)], dim=-2)
    weights = torch.tensor([0.8, 0.2], dtype=torch.float64)
    expected = lorentz.centroid(pair, c=ours().c, weights=weights)
    assert_close(decayed(ours(), X, lr=0.4, weight_decay=0.5), expected)


@pytest.mark.parametrize(
    ("decay", "law"),
    [("centroid", DELTA.sinh()), ("retraction", (2 * DELTA).sinh() / 2)],
    ids=["centroid", "retraction"],
)
def test_decay_far_out(decay: Any, law: Tensor) -> None:
    """What a small weight w = lr * weight_decay takes off delta = d(x, 0)/k, to first order."""
    lost = DELTA - radius(decayed(ours(), X, lr=1e-4, weight_decay=1e-3, decay=decay))
    assert_close(lost / (1e-7 * law), torch.ones_like(lost), rtol=1e-4, atol=0)


def test_decay_none_leaves_points_alone_and_decays_weights() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    point = ManifoldParameter(torch.ones(3), manifold=Lorentz(learned=False))
    weight.grad, point.grad = torch.zeros(3), torch.zeros(3)
    RiemannianAdamW([weight, point], lr=0.1, weight_decay=0.5, decay="none").step()
    assert_close(weight.detach(), torch.full((3,), 0.95))
    assert torch.equal(point.detach(), torch.ones(3))


@pytest.mark.parametrize("decay", ["centroid", "retraction"])
def test_ambient_points_decay_alike(decay: Any) -> None:
    """The centroid is the same point in any coordinates; the gradient of the ambient square is twice as long."""
    manifold = geoopt.Lorentz(k=ours().c.reciprocal())
    ambient = lorentz.to_ambient(X, c=ours().c)
    moved = decayed(manifold, ambient, lr=0.01, weight_decay=0.1, decay=decay)
    manifold.assert_check_point_on_manifold(moved)
    factor = 1 if decay == "centroid" else 2
    assert_close(moved[..., 1:], decayed(ours(), X, lr=0.01 * factor, weight_decay=0.1, decay=decay))


@pytest.mark.parametrize("ball", [PoincareBall(c=C, learned=False).double(), geoopt.PoincareBall(c=ours().c)])
def test_centroid_decay_in_the_ball_is_isometric(ball: Any) -> None:
    c = ours().c
    moved = decayed(ball, lorentz_to_poincare(X, c=c), lr=0.1, weight_decay=0.5)
    assert_close(moved, lorentz_to_poincare(decayed(ours(), X, lr=0.1, weight_decay=0.5), c=c))


def test_decay_comes_before_the_step() -> None:
    """One step is the decay and then Adam's step with the same derivatives at the decayed point."""
    gradient = torch.randn(X.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    parameter = ManifoldParameter(X.clone(), manifold=ours())
    parameter.grad = gradient.clone()
    RiemannianAdamW([parameter], lr=0.1, weight_decay=0.5).step()
    plain = ManifoldParameter(decayed(ours(), X, lr=0.1, weight_decay=0.5), manifold=ours())
    plain.grad = gradient
    RiemannianAdam([plain], lr=0.1).step()
    assert_close(parameter, plain)


def test_momentum_goes_along_with_the_decay() -> None:
    manifold = ours()
    parameter = ManifoldParameter(X.clone(), manifold=manifold)
    optimizer = RiemannianAdamW([parameter], lr=1e-12, weight_decay=1e11, betas=(0.9, 0.999))
    parameter.grad = torch.randn(X.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    optimizer.step()
    before = manifold.norm(parameter, optimizer.state[parameter]["exp_avg"]).detach()
    parameter.grad = torch.zeros_like(X)
    optimizer.step()
    assert (radius(parameter.detach()) < 0.85 * DELTA).all()
    assert_close(manifold.norm(parameter, optimizer.state[parameter]["exp_avg"]).detach(), 0.9 * before)


@pytest.mark.parametrize("manifold", [geoopt.Sphere(), geoopt.Stiefel()])
def test_manifolds_without_origin_need_no_decay(manifold: Any) -> None:
    parameter = ManifoldParameter(torch.eye(3)[:, :2], manifold=manifold)
    if isinstance(manifold, geoopt.Sphere):
        parameter = ManifoldParameter(torch.eye(3), manifold=manifold)
    with pytest.raises(ValueError, match=r"weight_decay=0\.01 must be 0 for points on"):
        RiemannianAdamW([parameter])
    parameter.grad = torch.ones_like(parameter)
    for options in ({"weight_decay": 0.0}, {"decay": "none"}):
        RiemannianAdamW([parameter], lr=0.1, **options).step()
    manifold.assert_check_point_on_manifold(parameter.detach())


def test_decay_beyond_the_origin_is_refused() -> None:
    with pytest.raises(ValueError, match=r"lr \* weight_decay = 2 must be at most 1"):
        decayed(ours(), X, lr=1.0, weight_decay=2.0)


def test_decay_is_an_option_of_each_group() -> None:
    first, second = (ManifoldParameter(X.clone(), manifold=ours()) for _ in "ab")
    first.grad, second.grad = torch.zeros_like(X), torch.zeros_like(X)
    RiemannianAdamW([{"params": [first]}, {"params": [second], "decay": "none"}], lr=0.1).step()
    assert not torch.equal(first.detach(), X)
    assert torch.equal(second.detach(), X)


def test_unknown_decay_is_refused() -> None:
    with pytest.raises(ValueError, match="decay='centroids' must be one of"):
        RiemannianAdamW([torch.nn.Parameter(torch.zeros(1))], decay="centroids")  # type: ignore[arg-type]

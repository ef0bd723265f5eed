"""Boosts: isometries of the hyperboloid, in rapidity form."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from hyplearn.manifolds import Lorentz
from hyplearn.nn.boost import MAX_RAPIDITY, BoostKind, LorentzBoost
from tests.support.gradients import random

CURVATURES = [0.05, 0.3, 1.0, 4.0, 20.0]


def boost_of(kind: str, c: float, n: int = 4) -> LorentzBoost:
    boost = LorentzBoost(n, manifold=Lorentz(c), kind=kind).double()
    with torch.no_grad():
        for p in (p for name, p in boost.named_parameters() if "curvature" not in name):
            p.copy_(0.7 * random(*p.shape, seed=7))
    return boost


def velocity_matrix(rapidity: Tensor) -> Tensor:
    """The textbook boost of velocity v = tanh(phi) e, time first: [[g, g v], [g v, 1 + (g - 1) e e^T]]."""
    phi = rapidity.norm()
    e, v, g = rapidity / phi, torch.tanh(phi) * rapidity / phi, torch.cosh(phi)
    block = torch.eye(len(e), dtype=e.dtype) + (g - 1) * torch.outer(e, e)
    return torch.cat([torch.cat([g.view(1, 1), (g * v).view(1, -1)], 1), torch.cat([(g * v).view(-1, 1), block], 1)])


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("kind", ["full", "axis"])
def test_equals_the_velocity_form(kind: str, c: float) -> None:
    boost, x = boost_of(kind, c), random(6, 4) / c**0.5
    rapidity = boost.rapidity.detach()
    if kind == "axis":
        rapidity = torch.cat([torch.zeros(3, dtype=torch.float64), rapidity])
    moved = boost.manifold.to_ambient(x) @ velocity_matrix(rapidity).mT
    assert_close(boost.manifold.to_ambient(boost(x)), moved, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("kind", ["full", "axis", "none"])
def test_keeps_distances(kind: str, c: float) -> None:
    boost, x = boost_of(kind, c), random(6, 4) / c**0.5
    assert_close(boost.manifold.cdist(boost(x), boost(x)), boost.manifold.cdist(x, x), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("c", CURVATURES)
def test_scale_multiplies_the_distance_to_the_origin(c: float) -> None:
    boost, x = boost_of("scale", c), random(6, 4) / c**0.5
    moved = boost(x)
    assert_close(boost.manifold.dist0(moved), boost.manifold.dist0(x) * boost.log_scale.detach().exp())
    assert_close(torch.nn.functional.cosine_similarity(moved, x), torch.ones(6).double())


@pytest.mark.parametrize("length", [0.5, 3.0, 50.0])
def test_rapidity_is_limited_and_is_what_is_added_at_most(length: float) -> None:
    boost = boost_of("full", 4.0)
    with torch.no_grad():
        boost.rapidity.mul_(length / boost.rapidity.norm())
    reached = boost.manifold.dist0(boost.point())
    assert_close(reached.item(), min(length, MAX_RAPIDITY) / 2)
    x = random(50, 4)
    assert (boost.manifold.dist0(boost(x)) <= boost.manifold.dist0(x) + reached + 1e-9).all()


@pytest.mark.parametrize("kind", get_args(BoostKind))
def test_starts_close_to_the_identity(kind: str) -> None:
    boost, x = LorentzBoost(16, manifold=Lorentz(), kind=kind), torch.randn(3, 16, 2, 2)
    assert_close(boost(x), x, rtol=0.2, atol=0.6 if kind == "full" else 0.2)
    assert f"kind={kind}" in repr(boost)


def test_gradient_at_zero_rapidity_is_finite_and_not_zero() -> None:
    boost, x = LorentzBoost(4, manifold=Lorentz()), torch.randn(5, 4)
    with torch.no_grad():
        boost.rapidity.zero_()
    assert_close(boost(x), x)
    boost(x).sum().backward()
    assert boost.rapidity.grad.isfinite().all() and boost.rapidity.grad.abs().max() > 0


def test_wrong_kind_is_named() -> None:
    with pytest.raises(ValueError, match="boost='velocity' must be one of 'full', 'axis', 'scale', 'none'"):
        LorentzBoost(4, manifold=Lorentz(), kind="velocity")
    with pytest.raises(ValueError, match="features=0 must be an integer >= 1"):
        LorentzBoost(0, manifold=Lorentz())

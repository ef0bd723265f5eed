from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.testing import assert_close

from hyplearn.manifolds import Lorentz, PoincareBall
from hyplearn.manifolds.interop import geoopt
from hyplearn.optim import spaces
from hyplearn.optim.spaces import space_of


@pytest.mark.parametrize(
    ("manifold", "kind"),
    [
        (Lorentz(), spaces.HyperboloidSpace),
        (PoincareBall(), spaces.CurvedSpace),
        (geoopt.Lorentz(), spaces.AmbientSpace),
        (geoopt.PoincareBall(), spaces.GeooptBallSpace),
        (geoopt.PoincareBallExact(), spaces.GeooptBallSpace),
        (geoopt.Sphere(), spaces.ParameterSpace),
        (geoopt.Stiefel(), spaces.ParameterSpace),
    ],
)
def test_space_by_class_of_manifold(manifold: Any, kind: type[spaces.ParameterSpace]) -> None:
    assert type(space_of(manifold)) is kind


def test_a_space_keeps_the_curvature_of_its_moment() -> None:
    manifold = geoopt.Lorentz(k=2.0, learnable=True)
    space = space_of(manifold)
    with torch.no_grad():
        manifold.k.fill_(4.0)
    assert isinstance(space, spaces.CurvedSpace)
    assert space.c.item() == 0.5
    assert not space.c.requires_grad


def test_ambient_coordinates_there_and_back() -> None:
    manifold = geoopt.Lorentz(k=torch.tensor(1.7, dtype=torch.float64))
    space = space_of(manifold)
    stored = manifold.expmap0(torch.nn.functional.pad(torch.randn(5, 3, dtype=torch.float64), (1, 0)))
    tangent = manifold.proju(stored, torch.randn(5, 4, dtype=torch.float64))
    x = space.enter_point(stored)
    assert x.shape == (5, 3)
    assert_close(space.leave_point(x), stored)
    assert_close(space.leave_tangent(x, space.enter_tangent(tangent)), tangent)


def test_ambient_gradient_is_that_of_geoopt() -> None:
    manifold = geoopt.Lorentz(k=torch.tensor(1.7, dtype=torch.float64))
    space = space_of(manifold)
    stored = manifold.expmap0(torch.nn.functional.pad(torch.randn(5, 3, dtype=torch.float64), (1, 0)))
    derivatives = torch.randn(5, 4, dtype=torch.float64)
    x = space.enter_point(stored)
    u = space.riemannian_gradient(x, space.enter_gradient(x, derivatives))
    expected = manifold.egrad2rgrad(stored, derivatives.clone())
    assert_close(space.leave_tangent(x, u), expected)
    assert_close(space.squared_norm(x, u), manifold.inner(stored, expected, keepdim=True))


def test_half_square_gradient_is_that_of_the_stored_coordinates() -> None:
    manifold = geoopt.Lorentz(k=torch.tensor(1.7, dtype=torch.float64))
    space = space_of(manifold)
    stored = manifold.expmap0(torch.nn.functional.pad(torch.randn(5, 3, dtype=torch.float64), (1, 0)))
    x = space.enter_point(stored)
    assert_close(space.half_square_gradient(x), space.enter_gradient(x, stored))


def test_zero_coordinates_change_no_step() -> None:
    """What `pads` promises, for every space that promises it."""
    torch.manual_seed(0)
    for manifold in (Lorentz(c=0.7), PoincareBall(c=0.7), geoopt.PoincareBall(c=0.7)):
        space, new = space_of(manifold), space_of(type(manifold)(c=0.9))
        x, u, v = 0.3 * torch.randn(3, 4, 5, dtype=torch.float64)
        px, pu, pv = (torch.nn.functional.pad(t, (0, 3)) for t in (x, u, v))
        for plain, padded in (
            (space.retract_transport(x, u, v), space.retract_transport(px, pu, pv)),
            (space.towards_origin(x, v, torch.tensor(0.1)), space.towards_origin(px, pv, torch.tensor(0.1))),
            (space.follow(x, [v], new), space.follow(px, [pv], new)),
        ):
            for a, b in zip((plain[0], *plain[1:]), (padded[0], *padded[1:]), strict=True):
                a, b = (a[0], b[0]) if isinstance(a, list) else (a, b)
                assert_close(torch.nn.functional.pad(a, (0, 3)), b)


def test_a_manifold_without_origin_says_so() -> None:
    space = space_of(geoopt.Sphere())
    assert not space.decays
    with pytest.raises(NotImplementedError, match="Sphere has no origin"):
        space.towards_origin(torch.ones(1, 3), torch.ones(1, 3), torch.tensor(0.1))

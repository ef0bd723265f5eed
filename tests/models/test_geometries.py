"""Units of each geometry against their layers one by one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from hyplearn.manifolds import Lorentz, PoincareBall
from hyplearn.models.geometries import Ball, Euclidean, Geometry, GlobalAveragePool, Hyperboloid
from hyplearn.models.options import ConvolutionOptions, NormOptions, RescaleSites
from hyplearn.nn.lift import Lift, Unlift
from hyplearn.nn.poincare_pool import PoincareGlobalPool
from hyplearn.nn.pool import LorentzGlobalPool


def hyperboloid(**options: object) -> Hyperboloid:
    given = {"conv": ConvolutionOptions(), "norm": NormOptions(), "rescale": RescaleSites(), "fused": False}
    return Hyperboloid(Lorentz(0.7), **{**given, "entry": "project", "exit": "log0", **options})


EUCLIDEAN, BALL = Euclidean(NormOptions(eps=1e-4, momentum=0.3)), Ball(PoincareBall(0.1), NormOptions())


def test_euclidean_unit() -> None:
    unit, x, shortcut = EUCLIDEAN.unit(3, 4, 3, stride=2), torch.randn(2, 3, 7, 6), torch.randn(2, 4, 4, 3)
    unit.eval()
    plain = F.batch_norm(F.conv2d(x, unit.conv.weight, stride=2, padding=1), torch.zeros(4), torch.ones(4), eps=1e-4)
    assert_close(unit(x), F.relu(plain))
    assert_close(unit(x, shortcut), F.relu(plain + shortcut))
    assert EUCLIDEAN.unit(3, 4, 1, activation=False).eval()(x).min() < 0


def test_euclidean_unit_before_the_hyperboloid_lifts_its_activation() -> None:
    unit, x = EUCLIDEAN.unit(3, 4, 3), torch.randn(2, 3, 7, 6)
    unit.eval()
    expected = Lift(Lorentz(), kind="exp0")(unit(x))
    unit.exit = Lift(Lorentz(), kind="exp0")
    assert_close(unit(x), expected)


@pytest.mark.parametrize("kind", ["rotation", "original"])
def test_hyperbolic_unit(kind: str) -> None:
    geometry = hyperboloid(conv=ConvolutionOptions(kind=kind))
    unit, x, shortcut = (
        geometry.unit(3, 4, 3, stride=2, residual=True),
        torch.randn(2, 3, 7, 6),
        torch.randn(2, 4, 4, 3),
    )
    unit.eval()
    total = unit.norm(unit.conv(x)) + shortcut
    assert_close(unit(x, shortcut), F.relu(geometry.manifold.rescale(total.movedim(1, -1)).movedim(-1, 1)))
    plain = geometry.unit(3, 4, 1, activation=False).eval()
    assert_close(plain(x), plain.norm(plain.conv(x)))


def test_hyperbolic_core_goes_from_euclidean_to_euclidean_features() -> None:
    geometry = hyperboloid()
    core, z = geometry.core(3, 4, 3, stride=1).eval(), torch.randn(2, 3, 7, 6)
    x = F.relu(core.norm(core.conv(geometry.enter()(z))))
    assert_close(core(z), geometry.leave()(x))


def test_poincare_unit() -> None:
    unit, x, shortcut = BALL.unit(3, 4, 3, residual=True), torch.randn(2, 3, 7, 6), torch.randn(2, 4, 7, 6)
    unit.eval()
    assert_close(unit(x, shortcut), F.relu(unit.residual(unit.norm(unit.conv(x)), shortcut)))
    plain = BALL.unit(3, 4, 1, stride=2, activation=False).eval()
    assert_close(plain(x), plain.norm(plain.conv(x)))
    assert plain.conv.bias is None


@pytest.mark.parametrize(
    ("geometry", "pool", "enter", "leave"),
    [
        (EUCLIDEAN, GlobalAveragePool, nn.Identity, nn.Identity),
        (hyperboloid(), LorentzGlobalPool, Lift, Unlift),
        (BALL, PoincareGlobalPool, nn.Identity, nn.Identity),
    ],
    ids=["euclidean", "hyperboloid", "ball"],
)
def test_ways_and_pools(geometry: Geometry, pool: type, enter: type, leave: type) -> None:
    assert [type(made) for made in (geometry.pool(), geometry.enter(), geometry.leave())] == [pool, enter, leave]
    assert geometry.pool()(torch.randn(2, 4, 3, 5)).shape == (2, 4)
    assert (geometry.manifold is None) == (geometry is EUCLIDEAN)


def test_average_pool_is_the_mean_of_positions() -> None:
    x = torch.randn(2, 4, 3, 5)
    assert_close(GlobalAveragePool()(x), x.flatten(2).mean(-1))

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from hyplearn.geometry import lorentz
from hyplearn.optim import hyperboloid

CURVATURES = [0.05, 1.0, 20.0]


@pytest.fixture(params=CURVATURES)
def c(request: pytest.FixtureRequest) -> Tensor:
    return torch.tensor(request.param, dtype=torch.float64)


def points_and_vectors(c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Points at radii up to 4k, two tangent vectors each; the first point is the origin."""
    generator = torch.Generator().manual_seed(0)
    x, u, v = torch.randn(3, 6, 5, generator=generator, dtype=torch.float64)
    x = lorentz.expmap0(x * torch.linspace(0, 2, 6, dtype=torch.float64)[:, None] * c.rsqrt(), c=c)
    return x, u * c.rsqrt(), v


def test_walk_is_exponential_map_and_transport(c: Tensor) -> None:
    x, step, v = points_and_vectors(c)
    y, (moved,) = hyperboloid.walk(x, step, [v], c=c)
    assert_close(y, lorentz.expmap(x, step, c=c), rtol=1e-12, atol=1e-12)
    assert_close(moved, lorentz.transp(x, y, v, c=c), rtol=1e-8, atol=1e-10)
    assert_close(lorentz.norm(moved, y, c=c), lorentz.norm(v, x, c=c), rtol=1e-8, atol=1e-10)


def test_walk_by_nothing_changes_nothing(c: Tensor) -> None:
    x, _, v = points_and_vectors(c)
    y, (moved,) = hyperboloid.walk(x, torch.zeros_like(x), [v], c=c)
    assert torch.equal(y, x)
    assert torch.equal(moved, v)


def test_towards_origin_is_the_centroid_with_the_origin(c: Tensor) -> None:
    x, _, v = points_and_vectors(c)
    y, (moved,) = hyperboloid.towards_origin(x, [v], 0.3, c=c)
    pair = torch.stack([x, torch.zeros_like(x)], dim=-2)
    weights = torch.tensor([0.7, 0.3], dtype=torch.float64)
    assert_close(y, lorentz.centroid(pair, c=c, weights=weights), rtol=1e-12, atol=1e-14)
    assert_close(moved, lorentz.transp(x, y, v, c=c), rtol=1e-8, atol=1e-10)


def test_towards_origin_loses_the_hyperbolic_sine_of_the_radius(c: Tensor) -> None:
    """delta -> delta - w sinh(delta) for small w, where AdamW has delta - w delta."""
    delta, weight = torch.linspace(0.01, 5, 20, dtype=torch.float64), 1e-7
    x = (c.rsqrt() * delta.sinh())[:, None] * torch.tensor([0.6, -0.8], dtype=torch.float64)
    y, _ = hyperboloid.towards_origin(x, [], weight, c=c)
    lost = delta - lorentz.dist0(y, c=c) * c.sqrt()
    assert_close(lost / (weight * delta.sinh()), torch.ones_like(lost), rtol=1e-4, atol=0)


@pytest.mark.parametrize("mode", ["logexp", "scale"])
@pytest.mark.parametrize("factor", [0.5, 0.999, 1.7])
def test_follow_is_the_change_of_curvature(c: Tensor, factor: float, mode: lorentz.CurvatureMove) -> None:
    x, _, v = points_and_vectors(c)
    y, (moved,) = hyperboloid.follow(x, [v], c_old=c, c_new=factor * c, mode=mode)
    options = {"c_old": c, "c_new": factor * c, "mode": mode}
    assert_close(y, lorentz.change_curvature(x, **options), rtol=1e-12, atol=1e-14)
    assert_close(moved, lorentz.change_curvature_tangent(x, v, **options), rtol=1e-10, atol=1e-12)


def test_follow_keeps_distance_direction_and_length(c: Tensor) -> None:
    x, _, v = points_and_vectors(c)
    y, (moved,) = hyperboloid.follow(x, [v], c_old=c, c_new=1.5 * c, mode="logexp")
    assert_close(lorentz.dist0(y, c=1.5 * c), lorentz.dist0(x, c=c))
    assert_close(torch.nn.functional.normalize(y, dim=-1), torch.nn.functional.normalize(x, dim=-1))
    assert_close(lorentz.norm(moved, y, c=1.5 * c), lorentz.norm(v, x, c=c), rtol=1e-8, atol=1e-10)


def test_points_rest_bit_for_bit_where_the_curvature_rests() -> None:
    c = torch.tensor(0.3)
    x = lorentz.expmap0(torch.randn(50, 7, generator=torch.Generator().manual_seed(0)) * 2, c=c)
    v = torch.randn_like(x)
    y, (moved,) = hyperboloid.follow(x, [v], c_old=c, c_new=c.clone(), mode="logexp")
    assert torch.equal(y, x)
    assert torch.equal(moved, v)


def test_origin_stays_the_origin() -> None:
    zero, c = torch.zeros(1, 3), torch.tensor(1.0)
    v = torch.tensor([[1.0, 2.0, -3.0]])
    for y, (moved,) in (
        hyperboloid.follow(zero, [v], c_old=c, c_new=2 * c, mode="logexp"),
        hyperboloid.towards_origin(zero, [v], 0.1, c=c),
    ):
        assert torch.equal(y, zero)
        assert torch.equal(moved, v)


@pytest.mark.parametrize("c", CURVATURES)
def test_single_precision_holds_far_out(c: float) -> None:
    """At nine tenths of d_max a float32 move agrees with float64 to the conditioning of sinh."""
    exact = torch.tensor(c, dtype=torch.float64)
    radius = 0.9 * lorentz.d_max(c=exact, dtype=torch.float32).double()
    x = lorentz.expmap0(radius * torch.tensor([[0.6, 0.0, 0.8]], dtype=torch.float64), c=exact).float()
    v = torch.tensor([[0.3, -0.2, 0.1]])
    single = hyperboloid.follow(x, [v], c_old=exact.float(), c_new=1.01 * exact.float(), mode="logexp")
    double = hyperboloid.follow(
        x.double(), [v.double()], c_old=exact.float().double(), c_new=(1.01 * exact.float()).double(), mode="logexp"
    )
    assert_close(single[0].double(), double[0], rtol=2e-6, atol=0)
    assert_close(single[1][0].double(), double[1][0], rtol=1e-5, atol=1e-5)

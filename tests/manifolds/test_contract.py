"""What every manifold promises: the geoopt interface, optimizers, copies, storage, precision, gradients."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geoopt
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from hyplearn.manifolds import (
    CurvatureParameter,
    CurvedManifold,
    Euclidean,
    Lorentz,
    Manifold,
    ManifoldParameter,
    PoincareBall,
    Sphere,
    manifold_parameter,
)

MANIFOLDS: dict[str, Callable[[], Any]] = {
    "lorentz": Lorentz,
    "lorentz, c=0.1, log_c": lambda: Lorentz(0.1, parametrization="log_c"),
    "lorentz, fixed c=4": lambda: Lorentz(4.0, learned=False),
    "poincare": PoincareBall,
    "poincare, c=0.2": lambda: PoincareBall(0.2),
    "sphere": Sphere,
    "euclidean": Euclidean,
}


@pytest.fixture(params=MANIFOLDS, name="manifold")
def any_manifold(request: pytest.FixtureRequest) -> Any:
    return MANIFOLDS[request.param]()


def tangent(manifold: Manifold, x: Tensor) -> Tensor:
    return manifold.proju(x, 0.3 * torch.randn_like(x))


class Layer(nn.Module):
    """A manifold under two names and a point of it."""

    def __init__(self, manifold: Manifold) -> None:
        super().__init__()
        self.manifold, self.again = manifold, manifold
        self.point = manifold_parameter(manifold.random(4, 3), manifold)


# The interface


def test_it_is_a_geoopt_manifold(manifold: Manifold) -> None:
    assert isinstance(manifold, geoopt.Manifold)
    x = manifold.random(5, 3)
    assert not x.requires_grad
    manifold.assert_check_point_on_manifold(x)
    manifold.assert_check_vector_on_tangent(x, tangent(manifold, x))
    manifold.assert_check_point_on_manifold(manifold.origin(5, 3))
    assert_close(manifold.projx(x), x)
    assert repr(manifold)


def test_points_off_the_manifold_are_found(manifold: Manifold) -> None:
    x = torch.full((2, 3), torch.nan)
    assert not manifold.check_point_on_manifold(x) or isinstance(manifold, Euclidean)


def test_exponential_logarithm_and_distance_agree(manifold: Manifold) -> None:
    x, y = manifold.random(6, 3, dtype=torch.float64), manifold.random(6, 3, dtype=torch.float64)
    logarithm = manifold.logmap(x, y)
    assert_close(manifold.expmap(x, logarithm), y)
    assert_close(manifold.retr(x, logarithm), y)
    assert_close(manifold.norm(x, logarithm), manifold.dist(x, y))
    assert_close(manifold.inner(x, logarithm), manifold.dist2(x, y))
    assert_close(manifold.cdist(x, y).diagonal(), manifold.dist(x, y))
    assert manifold.dist(x, y, keepdim=True).shape == (6, 1)


def test_transport_keeps_inner_products(manifold: Manifold) -> None:
    x, y = manifold.random(6, 3, dtype=torch.float64), manifold.random(6, 3, dtype=torch.float64)
    u, v = tangent(manifold, x), tangent(manifold, x)
    moved = manifold.inner(y, manifold.transp(x, y, u), manifold.transp(x, y, v))
    assert_close(moved, manifold.inner(x, u, v))
    new, carried = manifold.retr_transp(x, u, v)
    assert_close(new, manifold.expmap(x, u))
    assert_close(manifold.norm(new, carried), manifold.norm(x, v))


def test_the_riemannian_gradient_represents_the_differential(manifold: Manifold) -> None:
    x, g = manifold.random(6, 3, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)
    v = tangent(manifold, x)
    assert_close(manifold.inner(x, manifold.egrad2rgrad(x, g), v), (g * v).sum(-1))
    assert manifold.component_inner(x, v).shape in ((6, 1), (6, 3))


def test_centroid_is_the_middle(manifold: Manifold) -> None:
    x, y = manifold.random(2, 3, dtype=torch.float64)
    centroid = manifold.centroid(torch.stack([x, y]))
    assert_close(manifold.dist(x, centroid), manifold.dist(y, centroid))
    assert_close(manifold.centroid(torch.stack([x, y]), weights=torch.tensor([1.0, 0.0]).double()), x)


@pytest.mark.parametrize("name", [name for name in MANIFOLDS if name != "sphere"])
def test_maps_at_the_origin(name: str) -> None:
    manifold = MANIFOLDS[name]()
    u, v = 0.3 * torch.randn(2, 6, 3, dtype=torch.float64)
    x, zero = manifold.expmap0(u), torch.zeros(6, 3, dtype=torch.float64)
    assert_close(x, manifold.expmap(zero, u))
    assert_close(manifold.logmap0(x), u)
    assert_close(manifold.dist0(x), manifold.dist(zero, x))
    assert_close(manifold.transp0(x, v), manifold.transp(zero, x, v))
    assert_close(manifold.transp0back(x, v), manifold.transp(x, zero, v))
    assert_close(manifold.boost(zero, x), x)
    assert_close(manifold.boost(x, manifold.boost(zero, -x)), zero, rtol=0, atol=1e-12)
    assert_close(manifold.rescale(x), manifold.expmap0(manifold.rescale0(u)))
    assert manifold.mlr(x, torch.randn(5, 3).double(), torch.randn(5).double()).shape == (6, 5)


# Optimizers


OPTIMIZERS: dict[str, Callable[[list[Tensor]], torch.optim.Optimizer]] = {
    "adam": lambda p: geoopt.optim.RiemannianAdam(p, lr=0.1),
    "amsgrad, stabilized": lambda p: geoopt.optim.RiemannianAdam(p, lr=0.1, amsgrad=True, stabilize=3),
    "sgd": lambda p: geoopt.optim.RiemannianSGD(p, lr=0.05),
    "nesterov, stabilized": lambda p: geoopt.optim.RiemannianSGD(p, lr=0.02, momentum=0.7, nesterov=True, stabilize=3),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_geoopt_optimizers_reach_the_target(manifold: Manifold, name: str) -> None:
    target = manifold.random(4, 3)
    point = manifold_parameter(manifold.random(4, 3), manifold)
    start = manifold.dist2(point, target).sum()
    optimizer = OPTIMIZERS[name]([point])
    for _ in range(150):
        optimizer.zero_grad()
        manifold.dist2(point, target).sum().backward()
        optimizer.step()
    manifold.assert_check_point_on_manifold(point)
    assert manifold.dist2(point, target).sum() < 0.1 * start


# Copies and storage


def assert_same(copied: Layer, original: Layer) -> None:
    assert copied.point is not original.point
    assert type(copied.point) is ManifoldParameter
    assert isinstance(copied.point, nn.Parameter)
    assert copied.point.requires_grad
    assert copied.point.manifold is copied.manifold is copied.again
    assert copied.manifold is not original.manifold
    assert torch.equal(copied.point, original.point)
    assert [type(p) for p in copied.parameters()] == [type(p) for p in original.parameters()]
    for (name, mine), (_, theirs) in zip(copied.named_parameters(), original.named_parameters(), strict=True):
        assert torch.equal(mine, theirs), name
        assert mine.data_ptr() != theirs.data_ptr(), name


def test_deepcopy_keeps_types_and_sharing(manifold: Manifold) -> None:
    layer = Layer(manifold)
    assert_same(copy.deepcopy(layer), layer)
    assert_same(torch.optim.swa_utils.AveragedModel(layer).module, layer)


def test_pickle_keeps_types_and_sharing(manifold: Manifold) -> None:
    layer = Layer(manifold)
    assert_same(pickle.loads(pickle.dumps(layer)), layer)
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    assert_same(torch.load(buffer, weights_only=False), layer)


def test_state_dict_is_plain_and_loads_with_weights_only(manifold: Manifold) -> None:
    layer, other = Layer(manifold), Layer(copy.deepcopy(manifold))
    assert all(type(value) is Tensor for value in layer.state_dict().values())
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    buffer.seek(0)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(other.point, layer.point)
    assert type(other.point) is ManifoldParameter


def test_optimizer_state_survives_a_round_trip(manifold: Manifold) -> None:
    def steps(layer: Layer, optimizer: torch.optim.Optimizer, count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            layer.manifold.dist2(layer.point, layer.manifold.origin(3)).sum().backward()
            optimizer.step()

    layer = Layer(manifold)
    optimizer = geoopt.optim.RiemannianAdam([layer.point], lr=0.05)
    steps(layer, optimizer, 2)
    twin = copy.deepcopy(layer)
    resumed = geoopt.optim.RiemannianAdam([twin.point], lr=0.05)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(layer, optimizer, 3)
    steps(twin, resumed, 3)
    assert_close(
        twin.point, layer.point, rtol=1e-5, atol=1e-5
    )  # geoopt counts steps in float64 at first, in float32 after loading


def test_moving_a_module_keeps_types(manifold: Manifold) -> None:
    layer = Layer(manifold).double()
    assert layer.point.dtype == torch.float64
    assert type(layer.point) is ManifoldParameter
    assert layer.point.manifold is layer.manifold
    if isinstance(manifold, CurvedManifold):
        assert manifold.c.dtype == torch.float64
        assert isinstance(manifold.curvature.raw, CurvatureParameter) == manifold.curvature.learned


# Precision


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_promoted(manifold: Manifold, dtype: torch.dtype) -> None:
    x, y = manifold.random(4, 3).to(dtype), manifold.random(4, 3).to(dtype)
    distance = manifold.dist(x, y)
    assert distance.dtype == torch.float32
    assert_close(distance, manifold.dist(x.float(), y.float()))
    assert manifold.cdist(x, y).dtype == torch.float32
    assert manifold.centroid(x).dtype == torch.float32


def test_autocast_is_off_inside(manifold: Manifold) -> None:
    x, y = manifold.random(4, 3), manifold.random(4, 3)
    arguments = (torch.randn(5, 3), torch.randn(5)) if not isinstance(manifold, Sphere) else (torch.randn(5, 3),)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (x @ y.mT).dtype == torch.bfloat16
        inside = manifold.cdist(x, y), manifold.mlr(x, *arguments)
    outside = manifold.cdist(x, y), manifold.mlr(x, *arguments)
    for got, expected in zip(inside, outside, strict=True):
        assert torch.equal(got, expected)


# Gradients


def test_gradients_are_finite_at_coincident_points_and_at_the_origin(manifold: Manifold) -> None:
    for start in (manifold.random(4, 3), manifold.origin(4, 3)):
        x = start.detach().requires_grad_()
        y = x.detach()
        total = manifold.dist(x, y).sum() + manifold.cdist(x, y).sum() + manifold.logmap(x, y).sum()
        total = total + manifold.expmap(x, torch.zeros_like(x)).sum() + manifold.centroid(x).sum()
        assert torch.autograd.grad(total, x)[0].isfinite().all()


@pytest.mark.parametrize("model", [Lorentz, PoincareBall])
def test_the_curvature_receives_a_gradient(model: type[CurvedManifold]) -> None:
    manifold = model(0.7)
    manifold.dist(torch.full((3,), 0.2), torch.zeros(3)).backward()
    assert manifold.curvature.raw.grad is not None
    assert manifold.curvature.raw.grad != 0


def test_importing_raises_no_warning() -> None:
    """geoopt warns at import about its own use of torch.jit; users of this package see none of it."""
    code = "import torch, warnings; warnings.simplefilter('error'); import hyplearn.manifolds"
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)

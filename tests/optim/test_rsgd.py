from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from hyplearn.geometry import lorentz
from hyplearn.manifolds import Lorentz, ManifoldParameter
from hyplearn.manifolds.interop import geoopt
from hyplearn.optim import RiemannianSGD

OPTIONS: list[dict[str, Any]] = [
    {},
    {"weight_decay": 0.1},
    {"momentum": 0.9},
    {"momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1, "maximize": True},
]
IMPLEMENTATIONS: list[dict[str, Any]] = [{"fused": True}, {"foreach": True}, {"foreach": False, "fused": False}]


def weights() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 3), (7,), (), (5, 3, 3, 3)]
    parameters = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    parameters[-1].data = parameters[-1].data.to(memory_format=torch.channels_last)
    return parameters


def step_together(first: list[Any], second: list[Any], optimizers: list[Any], steps: int) -> None:
    """Equal gradients for both lists; the second parameter misses the first step."""
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        for i, (p, q) in enumerate(zip(first, second, strict=True)):
            gradient = torch.randn(p.shape, generator=generator).to(p.dtype)
            late = step == 0 and i == 1
            p.grad, q.grad = (None, None) if late else (gradient, gradient.clone())
        for optimizer in optimizers:
            optimizer.step()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("options", OPTIONS)
def test_euclidean_parameters_step_as_in_torch(options: dict[str, Any], implementation: dict[str, Any]) -> None:
    ours, theirs = weights(), weights()
    reference = torch.optim.SGD(theirs, lr=0.05, **options, foreach=False)
    step_together(ours, theirs, [RiemannianSGD(ours, lr=0.05, **options, **implementation), reference], steps=4)
    for p, q in zip(ours, theirs, strict=True):
        assert_close(p, q, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("options", OPTIONS)
def test_fused_is_the_default_and_bitwise_that_of_torch(options: dict[str, Any]) -> None:
    ours, theirs = weights(), weights()
    optimizer = RiemannianSGD(ours, lr=0.05, **options)
    assert optimizer.param_groups[0]["fused"] is True
    generator = torch.Generator().manual_seed(1)
    reference = torch.optim.SGD(theirs, lr=0.05, **options, fused=True)
    for _ in range(3):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn(p.shape, generator=generator).to(memory_format=torch.preserve_format)
            p.grad = torch.empty_like(p).copy_(p.grad)
            q.grad = p.grad.clone()
        optimizer.step()
        reference.step()
    assert all(map(torch.equal, ours, theirs))


def test_memory_layout_of_a_gradient_does_not_matter() -> None:
    """torch's fused kernel pairs the wrong elements of a channels-last weight and a contiguous gradient."""
    plain = nn.Parameter(torch.randn(4, 3, 2, 2))
    last = nn.Parameter(plain.detach().clone(memory_format=torch.channels_last))
    gradient = torch.randn(4, 3, 2, 2)
    for parameter in (plain, last):
        optimizer = RiemannianSGD([parameter], lr=0.1, momentum=0.9)
        for _ in range(2):
            parameter.grad = gradient.clone()
            optimizer.step()
    assert torch.equal(plain, last)


def hyperboloid_points() -> tuple[Any, Tensor]:
    manifold = geoopt.Lorentz(k=torch.tensor(1.7, dtype=torch.float64))
    return manifold, manifold.expmap0(nn.functional.pad(torch.randn(5, 4, dtype=torch.float64), (1, 0)))


def ball_points(kind: Callable[..., Any]) -> Callable[[], tuple[Any, Tensor]]:
    def make() -> tuple[Any, Tensor]:
        manifold = kind(c=torch.tensor(0.7, dtype=torch.float64))
        return manifold, manifold.expmap0(0.4 * torch.randn(5, 4, dtype=torch.float64))

    return make


def sphere_points() -> tuple[Any, Tensor]:
    return geoopt.Sphere(), nn.functional.normalize(torch.randn(5, 4, dtype=torch.float64), dim=-1)


def stiefel_points() -> tuple[Any, Tensor]:
    return geoopt.Stiefel(), torch.linalg.qr(torch.randn(3, 5, 4, dtype=torch.float64))[0]


GEOOPT = {
    "lorentz": hyperboloid_points,
    "ball": ball_points(geoopt.PoincareBall),
    "ball_exact": ball_points(geoopt.PoincareBallExact),
    "sphere": sphere_points,
    "stiefel": stiefel_points,
}


@pytest.mark.parametrize("points", GEOOPT.values(), ids=GEOOPT)
@pytest.mark.parametrize("options", [*OPTIONS[:3], {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}])
def test_points_step_as_in_geoopt(points: Callable[[], tuple[Any, Tensor]], options: dict[str, Any]) -> None:
    """At fixed curvature. geoopt starts its momentum with the raw gradient; given zeros it starts as torch does."""
    torch.manual_seed(0)
    manifold, x = points()
    ours, theirs = (ManifoldParameter(x.clone(), manifold=manifold) for _ in range(2))
    reference = geoopt.optim.RiemannianSGD([theirs], lr=0.02, **options)
    if options.get("momentum"):
        reference.state[theirs]["momentum_buffer"] = torch.zeros_like(theirs)
    optimizer = RiemannianSGD([ours], lr=0.02, **options)
    for _ in range(8):
        gradient = torch.randn_like(x)
        ours.grad, theirs.grad = gradient, gradient.clone()
        optimizer.step()
        reference.step()
    assert_close(ours, theirs, rtol=1e-8, atol=1e-8)
    assert (ours - x).abs().max() > 1e-2


@pytest.mark.parametrize("c", [0.05, 1.0, 20.0])
def test_l2_penalty_far_out(c: float) -> None:
    """delta loses w sinh(2 delta)/2 in space coordinates and twice that in ambient ones, to first order in w."""
    delta, weight = torch.linspace(0.05, 3, 12, dtype=torch.float64), 1e-7
    direction = torch.tensor([0.6, -0.8], dtype=torch.float64)
    space = Lorentz(c=c, learned=False).double()
    ambient = geoopt.Lorentz(k=space.c.reciprocal())
    x = (space.c.rsqrt() * delta.sinh())[:, None] * direction
    for manifold, point, law in (
        (space, x, (2 * delta).sinh() / 2),
        (ambient, lorentz.to_ambient(x, c=space.c), (2 * delta).sinh()),
    ):
        parameter = ManifoldParameter(point, manifold=manifold)
        parameter.grad = torch.zeros_like(parameter)
        RiemannianSGD([parameter], lr=weight, weight_decay=1.0).step()
        moved = parameter.detach()[..., -2:]
        lost = delta - lorentz.dist0(moved, c=space.c) * space.c.sqrt()
        assert_close(lost / (weight * law), torch.ones_like(lost), rtol=1e-4, atol=0)


def test_momentum_of_points_is_transported_not_projected() -> None:
    """A constant speed: after each step the momentum has its old length, times the momentum factor."""
    manifold = Lorentz(c=0.5, learned=False).double()
    parameter = ManifoldParameter(torch.full((1, 4), 0.3, dtype=torch.float64), manifold=manifold)
    optimizer = RiemannianSGD([parameter], lr=0.1, momentum=0.9)
    parameter.grad = torch.randn(1, 4, dtype=torch.float64)
    optimizer.step()
    for _ in range(5):
        before = manifold.norm(parameter, optimizer.state[parameter]["momentum_buffer"]).detach()
        parameter.grad = torch.zeros(1, 4, dtype=torch.float64)
        optimizer.step()
        after = manifold.norm(parameter, optimizer.state[parameter]["momentum_buffer"]).detach()
        assert_close(after, 0.9 * before, rtol=1e-9, atol=0)


def test_state_of_torch_loads() -> None:
    ours, theirs = weights(), weights()
    reference = torch.optim.SGD(theirs, lr=0.05, momentum=0.9)
    for parameter in theirs:
        parameter.grad = torch.ones_like(parameter)
    reference.step()
    optimizer = RiemannianSGD(ours, lr=0.05, momentum=0.9)
    optimizer.load_state_dict(reference.state_dict())
    buffers = [optimizer.state[p]["momentum_buffer"] for p in ours]
    assert all(torch.equal(b, torch.ones_like(b)) for b in buffers)


def test_nesterov_needs_momentum() -> None:
    with pytest.raises(ValueError, match="nesterov=True needs momentum > 0"):
        RiemannianSGD(weights(), lr=0.1, nesterov=True)


def test_the_penalty_of_ambient_coordinates_is_twice_that_of_space_coordinates() -> None:
    """Without another gradient the first step is the penalty's: along the radius, by lr weight_decay sinh(2 d) / 2."""
    steps = {}
    for penalty in ("stored", "ambient"):
        manifold = Lorentz(learned=False)
        point = ManifoldParameter(torch.tensor([1.2, -0.5], dtype=torch.float64), manifold=manifold)
        before = manifold.dist0(point).item()
        point.grad = torch.zeros_like(point)
        RiemannianSGD([point], lr=0.01, weight_decay=0.1, penalty=penalty).step()
        steps[penalty] = before - manifold.dist0(point).item()
    assert steps["stored"] == pytest.approx(0.001 * math.sinh(2 * before) / 2, rel=1e-6)
    assert steps["ambient"] == pytest.approx(2 * steps["stored"], rel=1e-6)

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from hyplearn.manifolds import Lorentz, ManifoldParameter
from hyplearn.manifolds.interop import geoopt
from hyplearn.optim import RiemannianAdam, RiemannianAdamW

PAIRS = {"adam": (RiemannianAdam, torch.optim.Adam), "adamw": (RiemannianAdamW, torch.optim.AdamW)}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"weight_decay": 0.1, "betas": (0.8, 0.9), "eps": 1e-4},
    {"amsgrad": True, "weight_decay": 0.1, "maximize": True},
]
IMPLEMENTATIONS: list[dict[str, Any]] = [{"fused": True}, {"foreach": True}, {"foreach": False, "fused": False}]


def weights() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in [(4, 3), (7,), (), (5, 3, 3, 3)]]
    parameters[-1].data = parameters[-1].data.to(memory_format=torch.channels_last)
    return parameters


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("options", OPTIONS)
def test_euclidean_parameters_step_as_in_torch(
    options: dict[str, Any], implementation: dict[str, Any], pair: tuple[Any, Any]
) -> None:
    ours, theirs = weights(), weights()
    optimizer, reference = pair[0](ours, lr=0.01, **options, **implementation), pair[1](theirs, lr=0.01, **options)
    generator = torch.Generator().manual_seed(1)
    for step in range(4):
        for i, (p, q) in enumerate(zip(ours, theirs, strict=True)):
            gradient = torch.randn(p.shape, generator=generator)
            late = step == 0 and i == 1
            p.grad, q.grad = (None, None) if late else (gradient, gradient.clone())
        optimizer.step()
        reference.step()
    for p, q in zip(ours, theirs, strict=True):
        assert_close(p, q, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_fused_is_the_default_and_bitwise_that_of_torch(pair: tuple[Any, Any]) -> None:
    ours, theirs = weights(), weights()
    optimizer, reference = (
        pair[0](ours, lr=0.01, weight_decay=0.1),
        pair[1](theirs, lr=0.01, weight_decay=0.1, fused=True),
    )
    for _ in range(3):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.empty_like(p).copy_(torch.randn(p.shape))
            q.grad = p.grad.clone()
        optimizer.step()
        reference.step()
    assert all(map(torch.equal, ours, theirs))


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_state_of_torch_loads_in_another_layout(pair: tuple[Any, Any]) -> None:
    """A channels-last model resumes from the state of a contiguous one."""
    ours, theirs = weights(), weights()
    theirs[-1].data = theirs[-1].data.contiguous()
    reference = pair[1](theirs, lr=0.01, weight_decay=0.1)
    optimizer = pair[0](ours, lr=0.01, weight_decay=0.1)
    gradients = [torch.randn(p.shape) for p in ours]
    for parameters in (ours, theirs):
        for p, g in zip(parameters, gradients, strict=True):
            p.grad = g.clone()
    reference.step()
    optimizer.step()
    optimizer.load_state_dict(copy.deepcopy(reference.state_dict()))
    assert optimizer.param_groups[0]["fused"] is True
    assert optimizer.state[ours[-1]]["exp_avg"].stride() != ours[-1].stride()
    optimizer.step()
    reference.step()
    for p, q in zip(ours, theirs, strict=True):
        assert_close(p, q, rtol=1e-5, atol=1e-6)


def ball() -> tuple[Any, torch.Tensor]:
    manifold = geoopt.PoincareBall(c=torch.tensor(0.7, dtype=torch.float64))
    return manifold, manifold.expmap0(0.4 * torch.randn(5, 4, dtype=torch.float64))


def hyperboloid() -> tuple[Any, torch.Tensor]:
    manifold = geoopt.Lorentz(k=torch.tensor(1.7, dtype=torch.float64))
    return manifold, manifold.expmap0(nn.functional.pad(torch.randn(5, 4, dtype=torch.float64), (1, 0)))


def stiefel() -> tuple[Any, torch.Tensor]:
    return geoopt.Stiefel(canonical=False), torch.linalg.qr(torch.randn(3, 5, 4, dtype=torch.float64))[0]


def sphere() -> tuple[Any, torch.Tensor]:
    return geoopt.Sphere(), nn.functional.normalize(torch.randn(5, 4, dtype=torch.float64), dim=-1)


def product() -> tuple[Any, torch.Tensor]:
    manifold = geoopt.ProductManifold((geoopt.Sphere(), 3), (geoopt.PoincareBall(), 2))
    return manifold, manifold.projx(torch.randn(4, 5, dtype=torch.float64))


@pytest.mark.parametrize("points", [ball, hyperboloid, stiefel, sphere, product])
@pytest.mark.parametrize("options", [{"weight_decay": 0.1}, {"amsgrad": True, "eps": 1e-4}])
def test_points_step_as_in_geoopt(points: Callable[[], tuple[Any, torch.Tensor]], options: dict[str, Any]) -> None:
    """At fixed curvature."""
    torch.manual_seed(0)
    manifold, x = points()
    ours, theirs = (ManifoldParameter(x.clone(), manifold=manifold) for _ in range(2))
    optimizer = RiemannianAdam([ours], lr=0.02, **options)
    reference = geoopt.optim.RiemannianAdam([theirs], lr=0.02, **options)
    for _ in range(8):
        gradient = torch.randn_like(x)
        ours.grad, theirs.grad = gradient, gradient.clone()
        optimizer.step()
        reference.step()
    assert_close(ours, theirs, rtol=1e-7, atol=1e-7)
    assert (ours - x).abs().max() > 1e-2


def test_second_moment_is_one_number_per_point() -> None:
    manifold = Lorentz()
    parameter = ManifoldParameter(torch.randn(2, 3, 4), manifold=manifold)
    parameter.grad = torch.randn(2, 3, 4)
    optimizer = RiemannianAdam([parameter], lr=0.02, amsgrad=True)
    optimizer.step()
    state = optimizer.state[parameter]
    assert state["step"] == 1
    assert state["exp_avg"].shape == (2, 3, 4)
    assert state["exp_avg_sq"].shape == state["max_exp_avg_sq"].shape == (2, 3, 1)


@pytest.mark.parametrize("c", [0.05, 1.0, 20.0])
def test_first_step_has_the_length_of_the_learning_rate(c: float) -> None:
    manifold = Lorentz(c=c, learned=False).double()
    x = manifold.random(5, 4, dtype=torch.float64)
    parameter = ManifoldParameter(x.clone(), manifold=manifold)
    parameter.grad = torch.randn_like(x)
    RiemannianAdam([parameter], lr=0.02).step()
    assert_close(manifold.dist(x, parameter.detach()), torch.full((5,), 0.02, dtype=torch.float64), rtol=1e-5, atol=0)


def test_points_of_different_age_have_their_own_bias_correction() -> None:
    def run(late: bool) -> torch.Tensor:
        manifold = Lorentz(learned=False).double()
        first, second = (ManifoldParameter(torch.full((3,), 0.1, dtype=torch.float64), manifold=manifold) for _ in "ab")
        optimizer = RiemannianAdam([first, second], lr=0.02)
        for step in range(3):
            gradient = torch.arange(3.0, dtype=torch.float64) + step
            first.grad = gradient
            second.grad = None if late and step == 0 else gradient
            optimizer.step()
        assert [optimizer.state[p]["step"] for p in (first, second)] == [3, 2 if late else 3]
        return first.detach()

    assert torch.equal(run(late=False), run(late=True))


def test_momentum_is_no_option_of_adam() -> None:
    with pytest.raises(ValueError, match=r"betas\[0\]"):
        RiemannianAdam([{"params": weights(), "momentum": 0.0}], lr=0.1)


@pytest.mark.parametrize("option", [{"betas": (0.9, 1.0)}, {"betas": (-0.1, 0.9)}])
def test_betas_out_of_range_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"betas=.* must be in \[0.0, 1.0\)"):
        RiemannianAdam(weights(), **option)

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from hyplearn.geometry import lorentz
from hyplearn.manifolds import Lorentz
from hyplearn.optim import update
from hyplearn.optim.spaces import ParameterSpace, space_of

SGD = {"lr": 0.1, "dampening": 0.0, "nesterov": False}
ADAM = {"lr": 0.1, "betas": (0.9, 0.99), "eps": 1e-8}


@pytest.fixture
def space() -> ParameterSpace:
    return space_of(Lorentz(c=0.5, learned=False).double())


@pytest.fixture
def tensors() -> tuple[Tensor, Tensor, Tensor]:
    x, u, v = torch.randn(3, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x, u, v


def test_sgd_without_momentum_is_the_exponential_map(space: ParameterSpace, tensors: tuple[Tensor, ...]) -> None:
    x, u, _ = tensors
    y, buffer = update.sgd(space, x, u, None, momentum=0.0, **SGD)
    assert_close(y, lorentz.expmap(x, -0.1 * u, c=0.5))
    assert buffer is None


def test_sgd_starts_its_momentum_with_the_gradient(space: ParameterSpace, tensors: tuple[Tensor, ...]) -> None:
    x, u, _ = tensors
    y, buffer = update.sgd(space, x, u, None, momentum=0.9, **{**SGD, "dampening": 0.5})
    assert buffer is not None
    assert_close(y, lorentz.expmap(x, -0.1 * u, c=0.5))
    assert_close(buffer, lorentz.transp(x, y, u, c=0.5))


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_with_momentum(space: ParameterSpace, tensors: tuple[Tensor, ...], nesterov: bool) -> None:
    x, u, v = tensors
    y, buffer = update.sgd(space, x, u, v, momentum=0.9, **{**SGD, "nesterov": nesterov})
    momentum = 0.9 * v + u
    assert buffer is not None
    assert_close(y, lorentz.expmap(x, -0.1 * (u + 0.9 * momentum if nesterov else momentum), c=0.5))
    assert_close(buffer, lorentz.transp(x, y, momentum, c=0.5))


def test_adam_scales_the_averaged_gradient_by_one_number_per_point(
    space: ParameterSpace, tensors: tuple[Tensor, ...]
) -> None:
    x, u, v = tensors
    second = torch.rand(4, 1, dtype=torch.float64)
    y, moments = update.adam(space, x, u, update.Moments(v, second, None), step=3, **ADAM)
    first = 0.9 * v + 0.1 * u
    second = 0.99 * second + 0.01 * lorentz.inner(u, u, x, c=0.5, keepdim=True)
    direction = first / (1 - 0.9**3) / ((second / (1 - 0.99**3)).sqrt() + 1e-8)
    assert_close(y, lorentz.expmap(x, -0.1 * direction, c=0.5))
    assert_close(moments.first, lorentz.transp(x, y, first, c=0.5))
    assert_close(moments.second, second)
    assert moments.largest is None


def test_amsgrad_remembers_the_largest(space: ParameterSpace, tensors: tuple[Tensor, ...]) -> None:
    x, u, v = tensors
    large = torch.full((4, 1), 1e3, dtype=torch.float64)
    y, moments = update.adam(space, x, u, update.Moments(v, torch.zeros(4, 1), large), step=1, **ADAM)
    assert moments.largest is not None
    assert torch.equal(moments.largest, large)
    assert lorentz.dist(x, y, c=0.5).max() < 0.1


def test_decays_shorten_the_radius_and_keep_the_ray(space: ParameterSpace, tensors: tuple[Tensor, ...]) -> None:
    x, _, v = tensors
    for decay in (update.towards_origin, update.down_the_square):
        y, moved = decay(space, x, v, 0.1)
        assert (lorentz.dist0(y, c=0.5) < lorentz.dist0(x, c=0.5)).all()
        assert_close(torch.nn.functional.normalize(y, dim=-1), torch.nn.functional.normalize(x, dim=-1))
        assert_close(lorentz.norm(moved, y, c=0.5), lorentz.norm(v, x, c=0.5))


def test_arguments_are_not_edited(space: ParameterSpace, tensors: tuple[Tensor, ...]) -> None:
    x, u, v = tensors
    before = [t.clone() for t in tensors]
    update.sgd(space, x, u, v, momentum=0.9, **{**SGD, "nesterov": True})
    update.adam(space, x, u, update.Moments(v, torch.zeros(4, 1), None), step=1, **ADAM)
    update.towards_origin(space, x, v, 0.1)
    update.down_the_square(space, x, v, 0.1)
    assert all(map(torch.equal, tensors, before))

"""Points seen from another point: the boost of float64, its gradients, and nothing kept beside the inputs."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.testing import assert_close

from hyplearn.geometry import lorentz, poincare
from hyplearn.geometry.isometry import lorentz_to_poincare

F64 = torch.float64
MODELS = [lorentz, poincare]


def centred(model: ModuleType) -> Any:
    return getattr(torch.ops.hyplearn, f"{model.__name__.rsplit('.', 1)[-1]}_centred")


def scene(model: ModuleType, c: float, distance: float) -> tuple[Tensor, Tensor, Tensor]:
    """Points (2, 6, 4) of the hyperboloid and of the model, and a point m (2, 1, 4) of the hyperboloid."""
    v, w = torch.randn(2, 6, 4, dtype=F64), torch.randn(2, 1, 4, dtype=F64)
    x, m = (lorentz.expmap0(distance * torch.nn.functional.normalize(t, dim=-1), c=c) for t in (v, w))
    return x, x if model is lorentz else lorentz_to_poincare(x, c=c), m


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("c", [0.05, 1.0, 20.0])
@pytest.mark.parametrize("distance", [1e-6, 0.5, 4.0])
def test_it_is_the_boost_that_moves_m_to_the_origin(model: ModuleType, c: float, distance: float) -> None:
    x, p, m = scene(model, c, distance / c**0.5)
    seen = centred(model)(p, m, torch.tensor(c, dtype=F64))
    assert_close(seen, lorentz.boost(x, -m, c=c), rtol=1e-9, atol=1e-12 * x.abs().max().item())
    assert_close(lorentz.cdist(seen, seen, c=c), lorentz.cdist(x, x, c=c), rtol=1e-9, atol=1e-9 * distance)


@pytest.mark.parametrize("model", MODELS)
def test_float32_points_lose_nothing_but_the_rounding_of_the_result(model: ModuleType) -> None:
    _, p, m = scene(model, 1.0, 6.0)
    p, c = p.float(), torch.tensor(1.0)
    seen = centred(model)(p, m, c)
    assert seen.dtype == torch.float32
    assert torch.equal(seen, centred(model)(p.double(), m, c.double()).float())


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("c", [0.05, 1.0, 20.0])
def test_gradcheck(model: ModuleType, c: float) -> None:
    _, p, m = scene(model, c, 1.5 / c**0.5)
    curvature = torch.tensor(c, dtype=F64, requires_grad=True)
    assert gradcheck(lambda x, c: centred(model)(x, m, c), (p.requires_grad_(), curvature), rtol=1e-4)


@pytest.mark.parametrize("model", MODELS)
def test_operator_registration(model: ModuleType) -> None:
    _, p, m = scene(model, 1.0, 1.0)
    inputs = (p.float().requires_grad_(), m, torch.tensor(1.0, requires_grad=True))
    torch.library.opcheck(centred(model).default, inputs)

"""Pairwise distances: the direct formula in values and gradients, bounded in memory, one node when compiled."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hyplearn.geometry import lorentz, pairwise, poincare
from hyplearn.geometry.isometry import lorentz_to_poincare

F64 = torch.float64
MODELS = [lorentz, poincare]


def points(model: ModuleType, *shape: int, c: float, distance: float, dtype: torch.dtype = F64) -> Tensor:
    """Points of which every second is close to its predecessor, and one is the origin."""
    v = torch.nn.functional.normalize(torch.randn(*shape, dtype=F64), dim=-1) * distance
    v[..., 1::2, :] = v[..., : shape[-2] // 2 * 2 : 2, :] * (1 + 1e-3)
    v[..., -1, :] = 0
    x = lorentz.expmap0(v, c=c)
    return (x if model is lorentz else lorentz_to_poincare(x, c=c)).to(dtype)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("c", [0.05, 1.0, 20.0])
@pytest.mark.parametrize("distance", [1e-6, 0.1, 1.0, 6.0])
def test_values_and_gradients_are_those_of_dist(model: ModuleType, c: float, distance: float) -> None:
    curvature = torch.tensor(c, dtype=F64, requires_grad=True)
    x = points(model, 7, 4, c=c, distance=distance / c**0.5).requires_grad_()
    y = torch.cat([points(model, 5, 4, c=c, distance=distance / c**0.5), x[:2].detach()]).requires_grad_()
    weights = torch.randn(7, 7, dtype=F64)
    inputs = (x, y, curvature)
    fast, direct = model.cdist(x, y, c=curvature), model.dist(x[:, None], y, c=curvature)
    assert_close(fast, direct, rtol=1e-11, atol=0)
    for got, expected in zip(
        torch.autograd.grad((weights * fast).sum(), inputs),
        torch.autograd.grad((weights * direct).sum(), inputs),
        strict=True,
    ):
        assert_close(got, expected, rtol=1e-8, atol=1e-8 * expected.abs().max().item() + 1e-11 * distance)


@pytest.mark.parametrize("c", [0.05, 1.0, 20.0])
@pytest.mark.parametrize("share", [1e-6, 0.01, 0.3, 0.75])
def test_float32_is_accurate_for_every_pair(c: float, share: float) -> None:
    distance = share * lorentz.d_max(c=c).item()
    x = points(lorentz, 60, 16, c=c, distance=distance)
    spread = torch.logspace(-3, -0.5, 60).unsqueeze(-1) * torch.nn.functional.normalize(torch.randn(60, 16), dim=-1)
    x = (x + spread * x[:1].norm()).float()
    x = torch.cat([x[:1] + spread * x[:1].norm(), x])  # at all angles to the first point
    expected = lorentz.dist(x[:, None].double(), x.double(), c=torch.tensor(c))
    assert_close(lorentz.cdist(x, x, c=c).double(), expected, rtol=1e-5 if share > 0.5 else 2e-6, atol=0)


@pytest.mark.parametrize("model", MODELS)
def test_coincident_points_have_distance_zero_and_a_finite_gradient(model: ModuleType) -> None:
    x = points(model, 6, 3, c=1.0, distance=1.0, dtype=torch.float32).requires_grad_()
    distances = model.cdist(x, x, c=1.0)
    assert distances.diagonal().eq(0).all()
    assert torch.autograd.grad(distances.sum(), x)[0].isfinite().all()
    same = torch.zeros(4, 3, requires_grad=True)
    assert torch.autograd.grad(model.cdist(same, same, c=1.0).sum(), same)[0].eq(0).all()


@pytest.mark.parametrize("model", MODELS)
def test_gradcheck_with_batches_that_broadcast(model: ModuleType) -> None:
    x = points(model, 2, 4, 3, c=0.7, distance=0.8)[:, :3].contiguous().requires_grad_()
    y = 0.3 * torch.randn(5, 3, dtype=F64, requires_grad=True)
    c = torch.tensor(0.7, dtype=F64, requires_grad=True)
    assert model.cdist(x, y, c=c).shape == (2, 3, 5)
    assert gradcheck(lambda x, y, c: model.cdist(x, y, c=c), (x, y, c))


def test_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    x = points(lorentz, 2, 9, 3, c=1.0, distance=2.0).requires_grad_()
    whole = lorentz.cdist(x, x, c=1.0)
    (gradient,) = torch.autograd.grad(whole.square().sum(), x)
    monkeypatch.setattr(pairwise, "BLOCK", 20)
    pieces = lorentz.cdist(x, x, c=1.0)
    assert_close(pieces, whole, rtol=1e-12, atol=1e-14)
    assert_close(torch.autograd.grad(pieces.square().sum(), x)[0], gradient)


class LargestTensor(TorchDispatchMode):
    """Remembers the size of the largest tensor that any operation returned."""

    entries = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        sizes = [t.numel() for t in tree_leaves(out) if isinstance(t, Tensor)]
        self.entries = max([self.entries, *sizes])
        return out


def test_memory_is_bounded_even_if_all_pairs_are_close(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairwise, "BLOCK", 1 << 12)
    n, dim = 60, 32
    x, c = torch.ones(1, n, dim) + 1e-4 * torch.randn(1, n, dim), torch.tensor(1.0)
    functions = {
        "rows": lorentz.distance_rows,
        "columns": lorentz.distance_columns,
        "near": lambda x, y, c: lorentz.dist(x, y, c=c),
    }
    with LargestTensor() as forward:
        distances = pairwise._forward(*functions.values(), x, x, c)
    with LargestTensor() as backward:
        pairwise._backward(*functions.values(), torch.ones_like(distances), x, x, c)
    limit = 2 * pairwise.BLOCK  # two indices of each close pair of a block; all coordinates would be 28 BLOCK
    assert forward.entries <= limit
    assert backward.entries <= limit


def test_empty_sets_of_points() -> None:
    x = torch.zeros(0, 3, requires_grad=True)
    assert lorentz.cdist(x, torch.randn(4, 3), c=1.0).shape == (0, 4)
    assert lorentz.cdist(torch.randn(4, 3), x, c=1.0).sum() == 0


def test_vectors_are_refused() -> None:
    with pytest.raises(ValueError, match=r"x \(3,\) and y \(2, 3\) must have shapes"):
        lorentz.cdist(torch.zeros(3), torch.zeros(2, 3), c=1.0)


def test_autocast_does_not_reach_the_product() -> None:
    x = points(lorentz, 8, 4, c=1.0, distance=3.0, dtype=torch.float32).requires_grad_()
    expected = lorentz.cdist(x, x, c=1.0)
    (gradient,) = torch.autograd.grad(expected.sum(), x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = lorentz.cdist(x, x, c=1.0)
        assert torch.equal(inside, expected)
        assert torch.equal(torch.autograd.grad(inside.sum(), x)[0], gradient)


@pytest.mark.parametrize("name", ["lorentz_cdist", "poincare_cdist"])
def test_operator_registration(name: str) -> None:
    operator = getattr(torch.ops.hyplearn, name).default
    x = (0.2 * torch.randn(1, 4, 3)).requires_grad_()
    torch.library.opcheck(operator, (x, x.detach().clone().requires_grad_(), torch.tensor(1.0, requires_grad=True)))

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor
from torch.testing import assert_close

from hyplearn.manifolds import Lorentz, ManifoldParameter
from hyplearn.manifolds.interop import geoopt
from hyplearn.optim.parameter_stack import PADDED_UP_TO, Layout, ParameterStack, stacked

GROUP: dict[str, Any] = {"maximize": False}


def build(params: list[Tensor], state: dict[Tensor, dict[str, Any]] | None = None) -> list[ParameterStack]:
    kept = defaultdict(dict, state or {})
    entries = [(GROUP, p) for p in params]
    return stacked(entries, kept, tangent_names=["exp_avg"], scalar_names=["exp_avg_sq"])


def point(manifold: Any, *shape: int) -> ManifoldParameter:
    parameter = ManifoldParameter(torch.randn(*shape), manifold=manifold)
    parameter.grad = torch.randn(*shape)
    return parameter


def test_layout_pads_and_gives_back_every_tensor() -> None:
    tensors = [torch.randn(3), torch.randn(2, 4, 5), torch.randn(1, 2), torch.randn(0, 7)]
    layout = Layout([t.shape for t in tensors], ndim=1)
    gathered = layout.gather(tensors, torch.float64)
    assert gathered.shape == (1 + 8 + 1 + 0, 7)
    for view, tensor in zip(layout.views(gathered), tensors, strict=True):
        assert_close(view, tensor.double(), rtol=0, atol=0)


def test_layout_of_one_number_per_point() -> None:
    layout = Layout([torch.Size([3]), torch.Size([2, 4, 5])], ndim=1)
    views = layout.views(torch.arange(9.0)[:, None])
    assert [tuple(view.shape) for view in views] == [(1,), (2, 4, 1)]


def test_layout_of_matrices() -> None:
    tensors = [torch.randn(5, 3), torch.randn(2, 5, 3)]
    layout = Layout([t.shape for t in tensors], ndim=2)
    gathered = layout.gather(tensors, torch.float32)
    assert gathered.shape == (3, 5, 3)
    assert all(map(torch.equal, layout.views(gathered), tensors))


def test_small_points_of_all_widths_share_one_stack() -> None:
    manifold = Lorentz()
    stacks = build([point(manifold, n) for n in (64, 128, 256, 512)])
    assert [tuple(stack.x.shape) for stack in stacks] == [(4, 512)]


def test_large_parameters_are_not_padded() -> None:
    manifold = Lorentz()
    large = point(manifold, PADDED_UP_TO // 8 + 1, 8)
    shapes = [tuple(stack.x.shape) for stack in build([large, point(manifold, 16)])]
    assert shapes == [(PADDED_UP_TO // 8 + 1, 8), (1, 16)]


def test_what_differs_in_manifold_or_history_stands_apart() -> None:
    first, second = Lorentz(), Lorentz()
    same, other, older, idle = point(first, 3), point(second, 3), point(first, 3), point(first, 3)
    idle.grad = None
    state = {older: {"step": 4, "exp_avg": torch.zeros(3), "exp_avg_sq": torch.zeros(1)}}
    stacks = build([same, other, older, idle], state)
    assert [stack.params[0] is p for stack, p in zip(stacks, (same, other, older, idle), strict=True)] == [True] * 4
    assert stacks[2].step == 4
    assert stacks[3].gradient is None


def test_nothing_is_written_before_store() -> None:
    parameter = point(Lorentz(), 3)
    before, version = parameter.detach().clone(), parameter._version
    (stack,) = build([parameter])
    stack.x = stack.x + 1
    assert torch.equal(parameter.detach(), before)
    assert parameter._version == version
    with torch.no_grad():
        stack.store()
    assert_close(parameter.detach(), before + 1, rtol=0, atol=0)


def test_half_precision_points_are_computed_in_single() -> None:
    parameter = ManifoldParameter(torch.randn(4, dtype=torch.bfloat16), manifold=Lorentz())
    parameter.grad = torch.randn(4, dtype=torch.bfloat16)
    (stack,) = build([parameter])
    assert stack.x.dtype == torch.float32
    stack.tangents["exp_avg"] = torch.ones(1, 4)
    with torch.no_grad():
        stack.store()
    assert stack.states[0]["exp_avg"].dtype == torch.bfloat16


def test_geoopt_gradients_are_never_edited() -> None:
    """geoopt's own conversion of gradients flips the sign of the time in place."""
    manifold = geoopt.Lorentz()
    parameter = ManifoldParameter(manifold.expmap0(torch.tensor([[0.0, 1.0, 2.0]])), manifold=manifold)
    parameter.grad = torch.tensor([[1.0, 2.0, 3.0]])
    (stack,) = build([parameter])
    assert stack.gradient is not None
    stack.space.riemannian_gradient(stack.x, stack.gradient)
    assert torch.equal(parameter.grad, torch.tensor([[1.0, 2.0, 3.0]]))

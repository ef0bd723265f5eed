"""The geometry compiles into one graph: no branch on data, no graph break, same values and gradients."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from hyplearn.geometry import lorentz, poincare


def everything(g: ModuleType) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    def function(x: Tensor, y: Tensor, v: Tensor, c: Tensor) -> Tensor:
        tensors = [
            g.expmap0(v, c=c), g.logmap0(x, c=c), g.expmap(x, v, c=c), g.logmap(x, y, c=c), g.boost(x, y, c=c),
            g.transp(x, y, v, c=c), g.transp0(x, v, c=c), g.transp0back(x, v, c=c), g.egrad2rgrad(x, v, c=c),
            g.rescale(x, c=c, s=2.0), g.rescale0(v, c=c, s=2.0), g.change_curvature(x, c_old=c, c_new=2 * c),
            g.change_curvature_tangent(x, v, c_old=c, c_new=2 * c), g.centroid(torch.stack([x, y]), c=c, dim=0),
        ]  # fmt: skip
        numbers = [
            g.dist(x, y, c=c), g.dist0(x, c=c), g.norm(v, x, c=c), g.inner(v, y, x, c=c), g.cdist(x, y, c=c),
            g.mlr(x, y, v[..., 0], c=c),
        ]  # fmt: skip
        return torch.stack(tensors).sum() + sum(t.sum() for t in numbers)

    return function


@pytest.mark.parametrize("geometry", [lorentz, poincare])
def test_one_graph_with_equal_values_and_gradients(geometry: ModuleType) -> None:
    function = everything(geometry)
    inputs = [0.3 * torch.randn(4, 3, requires_grad=True) for _ in range(3)]
    inputs = [t.detach().requires_grad_() for t in inputs] + [torch.tensor(0.7, requires_grad=True)]
    expected = function(*inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own
        compiled = torch.compile(function, backend="eager", fullgraph=True)
        value = compiled(*inputs)
        gradients = torch.autograd.grad(value, inputs)
    assert_close(value, expected)
    for got, direct in zip(gradients, torch.autograd.grad(expected, inputs), strict=True):
        assert_close(got, direct, rtol=1e-4, atol=1e-5)


def test_pairwise_distances_differentiate_inside_a_compiled_graph() -> None:
    x, c = torch.randn(5, 3, requires_grad=True), torch.tensor(0.7, requires_grad=True)

    def total(x: Tensor, c: Tensor) -> Tensor:
        return lorentz.cdist(lorentz.expmap0(x, c=c), x.flip(0), c=c).sum()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(total, backend="aot_eager", fullgraph=True)
        gradients = torch.autograd.grad(compiled(x, c), (x, c))
    assert_close(gradients, torch.autograd.grad(total(x, c), (x, c)))

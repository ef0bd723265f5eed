"""What holds for every method of every manifold that takes tensors: empty batches, types, torch.func."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.func import grad, jacrev, vmap
from torch.testing import assert_close

from hyplearn.manifolds import Euclidean, Lorentz, Manifold, PoincareBall, Sphere

MADE: dict[str, Callable[[], Manifold]] = {
    "lorentz": lambda: Lorentz(0.7),
    "poincare": lambda: PoincareBall(0.7),
    "sphere": Sphere,
    "euclidean": Euclidean,
}
TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
N, CLASSES, SETS = 4, 3, 5
NO_VERB = {"extra_repr", "origin", "random", "change_curvature_", "project_"}  # of sizes, of text, in place


class Call(NamedTuple):
    """A bound method and its tensors by name."""

    method: Callable[..., Tensor]
    tensors: dict[str, Tensor]

    def __call__(self, *tensors: Tensor) -> Tensor:
        return self.method(**dict(zip(self.tensors, tensors, strict=True)))


def own_methods(manifold: Manifold) -> Iterator[str]:
    for name, function in inspect.getmembers(type(manifold), inspect.isfunction):
        ours = inspect.unwrap(function).__module__.startswith("hyplearn.")
        if ours and not name.startswith("_") and name not in NO_VERB:
            yield name


def call(kind: str, name: str, *, rows: int = SETS) -> Call:
    """Arguments in float64. Raises ValueError for one whose name says nothing."""
    manifold, tensors = MADE[kind](), {}
    torch.manual_seed(0)
    method = getattr(manifold, name)
    for argument, parameter in inspect.signature(method).parameters.items():
        if argument in ("x", "y", "b"):
            tensors[argument] = manifold.random(rows, N, dtype=torch.float64)
        elif argument in ("u", "v"):
            tensors[argument] = 0.5 * torch.randn(rows, N, dtype=torch.float64)
        elif argument in ("z", "a"):
            tensors[argument] = torch.randn(*((CLASSES, N) if argument == "z" else (CLASSES,)), dtype=torch.float64)
        elif parameter.default is inspect.Parameter.empty:
            raise ValueError(f"{kind}.{name} takes {argument!r}: say here what that is")
    return Call(method, tensors)


METHODS = [(kind, name) for kind, make in MADE.items() for name in own_methods(make())]


def test_methods_are_found() -> None:
    names = {f"{kind}.{name}" for kind, name in METHODS}
    assert {"lorentz.dist", "poincare.mobius_add", "sphere.cosine", "euclidean.mlr", "lorentz.retr"} <= names
    assert len(names) > 70


@pytest.mark.parametrize(("kind", "name"), METHODS)
def test_empty_batches_work_or_are_refused(kind: str, name: str) -> None:
    given = call(kind, name, rows=0)
    leaves = [x.float().requires_grad_() for x in given.tensors.values()]
    if name == "centroid":
        with pytest.raises(ValueError, match="has no point along dim=-2"):
            given(*leaves)
        return
    result = given(*leaves)
    assert result.shape[0] == 0
    result.sum().backward()


@pytest.mark.parametrize(("kind", "name"), METHODS)
def test_types_promote_to_the_widest_and_at_least_to_float32(kind: str, name: str) -> None:
    given = call(kind, name)
    for chosen in itertools.product(TYPES, repeat=len(given.tensors)):
        mixed = [x.to(dtype) for x, dtype in zip(given.tensors.values(), chosen, strict=True)]
        widest = torch.promote_types(torch.float32, max((x.dtype for x in mixed), key=lambda dtype: dtype.itemsize))
        result = given(*mixed)
        if result.dtype in (torch.float16, torch.bfloat16):  # what computes nothing returns what it was given
            assert any(torch.equal(result, x) for x in mixed)
            continue
        assert torch.equal(result.double(), given(*(x.to(widest) for x in mixed)).double()), chosen


@pytest.mark.parametrize(("kind", "name"), METHODS)
def test_torch_func_agrees_with_loops_and_autograd(kind: str, name: str) -> None:
    given = call(kind, name)
    tensors = list(given.tensors.values())
    dims = tuple(None if key in ("z", "a") else 0 for key in given.tensors)
    batch = [x if d is None else torch.stack([x, x.flip(0)]) for x, d in zip(tensors, dims, strict=True)]
    loop = [given(*(x if d is None else x[i] for x, d in zip(batch, dims, strict=True))) for i in range(2)]
    assert_close(vmap(given, in_dims=dims)(*batch), torch.stack(loop))
    every = tuple(range(len(tensors)))
    leaves = [x.clone().requires_grad_() for x in tensors]
    total = given(*leaves).square().sum()
    expected = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
    function: Any = lambda *x: given(*x).square().sum()  # noqa: E731
    assert_close(grad(function, argnums=every)(*tensors), expected, rtol=1e-8, atol=1e-8)
    value = given(*tensors)
    products = [torch.tensordot(2 * value, j, dims=value.ndim) for j in jacrev(given, argnums=every)(*tensors)]
    assert_close(products, list(expected), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("length", [5.0, 9.0, 100.0])
@pytest.mark.parametrize("name", [name for kind, name in METHODS if kind == "poincare"])
def test_gradients_at_the_edge_of_the_ball_are_finite_in_half_types(
    name: str, length: float, dtype: torch.dtype
) -> None:
    given, manifold = call("poincare", name), PoincareBall(0.7)
    directions = torch.nn.functional.normalize(torch.randn(SETS, N), dim=-1)
    edge = manifold.expmap0((length * directions).to(dtype)).to(dtype)
    edge = edge * (1 - 2 * torch.finfo(dtype).eps)  # rounded to the type, points are to be inside of the ball still
    leaves = [
        (edge.roll(i, 0) if key in ("x", "y", "b") else x).detach().to(dtype).requires_grad_()
        for i, (key, x) in enumerate(given.tensors.items())
    ]
    found = torch.autograd.grad(given(*leaves).sum(), leaves, allow_unused=True)
    exact = [x.detach().double().requires_grad_() for x in leaves]
    right = torch.autograd.grad(given(*exact).sum(), exact, allow_unused=True)
    for got, wanted in zip(found, right, strict=True):
        if got is not None and wanted is not None:
            assert got.isfinite()[wanted.abs() < torch.finfo(dtype).max / 8].all()

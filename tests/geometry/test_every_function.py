"""What holds for every public function of the geometry, also for one that is added tomorrow: empty batches, types."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.func import grad, jacrev, vmap
from torch.testing import assert_close

from hyplearn.geometry import isometry, lorentz, numerics, pairwise, poincare, sphere
from tests.support.geometry_functions import CASES, EMPTY, OF_A_SQUARE, Case, case, functions, points

TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 0.02, torch.bfloat16: 0.15}
OF_POINTS = [name for name in CASES if not name.startswith("numerics.")]


def cast(given: Case, dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: x.to(dtype) for name, x in given.tensors.items()}


def test_functions_are_found_and_names_of_arguments_are_known() -> None:
    assert {"lorentz.dist", "poincare.mobius_add", "sphere.logmap", "isometry.poincare_to_lorentz"} <= set(CASES)

    def added(x: Tensor, weird: Tensor) -> Tensor:
        return x + weird

    with pytest.raises(ValueError, match="added takes 'weird'"):
        case(lorentz, "lorentz.added", added)
    assert {module for module, _, _ in functions()} == {lorentz, poincare, sphere, isometry, numerics, pairwise}
    assert OF_A_SQUARE.issubset(name.rpartition(".")[2] for name in CASES)


@pytest.mark.parametrize("name", CASES)
def test_empty_batches_work_or_are_refused(name: str) -> None:
    given = EMPTY[name]
    leaves = {key: x.requires_grad_() for key, x in cast(given, torch.float32).items()}
    if name.endswith(".centroid"):
        with pytest.raises(ValueError, match=r"x of shape \(0, 4\) has no point along dim=-2"):
            given(**leaves)
        return
    result = given(**leaves)
    assert result.shape[0] == 0
    result.sum().backward()
    assert all(x.grad is None or x.grad.isfinite().all() for x in leaves.values())


@pytest.mark.parametrize("name", ["lorentz.cdist", "poincare.cdist", "sphere.cdist", "sphere.cosine"])
def test_one_of_two_sets_may_be_empty(name: str) -> None:
    full, none = CASES[name], EMPTY[name]
    assert full(y=none.tensors["y"]).shape == (5, 0)
    assert full(x=none.tensors["x"]).shape == (0, 5)


@pytest.mark.parametrize("name", OF_POINTS)
def test_types_promote_as_in_torch(name: str) -> None:
    """Any mixture of floating types gives what all arguments in torch's common type give."""
    given = CASES[name]
    for chosen in itertools.product(TYPES, repeat=len(given.tensors)):
        mixed = {key: x.to(dtype) for (key, x), dtype in zip(given.tensors.items(), chosen, strict=True)}
        common = torch.result_type(*mixed.values()) if len(mixed) == 2 else numerics.common_type(mixed.values())
        result = given(**mixed)
        assert result.dtype == common, chosen
        alike = given(**{key: x.to(common) for key, x in mixed.items()})
        assert torch.equal(result, alike), chosen


@pytest.mark.parametrize("name", OF_POINTS)
def test_each_type_gives_the_value_of_float64(name: str) -> None:
    given = CASES[name]
    for dtype in TYPES:
        rounded = cast(given, dtype)
        extra = {"x_t_max": 20.0} if "rescale" in name or name == "poincare.proj" else {}
        result, expected = given(**rounded, **extra), given(**{k: x.double() for k, x in rounded.items()}, **extra)
        assert_close(result.double(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("name", [name for name in OF_POINTS if set(CASES[name].options) - {"s"}])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.int64])
def test_the_type_of_the_curvature_has_no_say(dtype: torch.dtype, name: str) -> None:
    given = CASES[name]
    numbers = {key: 1 for key in given.options if key != "s"}
    for own in TYPES:
        result = given(**cast(given, own), **{key: torch.tensor(value, dtype=dtype) for key, value in numbers.items()})
        assert torch.equal(result, given(**cast(given, own), **numbers))
        assert result.dtype == own


@pytest.mark.parametrize("name", ["lorentz.dist0", "lorentz.time", "lorentz.cdist", "lorentz.logmap", "lorentz.mlr"])
def test_whole_numbers_are_points_in_the_default_type(name: str) -> None:
    given = CASES[name]
    whole = {key: x.mul(3).round().to(torch.int64) for key, x in given.tensors.items()}
    result = given(**whole)
    assert result.dtype == torch.get_default_dtype()
    assert torch.equal(result, given(**{key: x.to(result.dtype) for key, x in whole.items()}))


# torch.func


def rows(given: Case) -> tuple[list[Tensor], tuple[int | None, ...]]:
    """Three copies of the tensors that hold points, moved a little, and what vmap maps over."""
    moved, dims = [], []
    for key, x in given.tensors.items():
        shared = key in ("z", "a")
        moved.append(x if shared else torch.stack([x, 0.9 * x.flip(0), 0.8 * x]))
        dims.append(None if shared else 0)
    return moved, tuple(dims)


def positional(given: Case) -> Callable[..., Tensor]:
    return lambda *tensors: given(**dict(zip(given.tensors, tensors, strict=True)))


@pytest.mark.parametrize("name", CASES)
def test_vmap_is_a_loop(name: str) -> None:
    given = CASES[name]
    function, (batch, dims) = positional(given), rows(given)
    loop = [function(*(x if d is None else x[i] for x, d in zip(batch, dims, strict=True))) for i in range(3)]
    assert_close(vmap(function, in_dims=dims)(*batch), torch.stack(loop))


@pytest.mark.parametrize("name", CASES)
def test_gradients_and_jacobians_of_torch_func_are_those_of_autograd(name: str) -> None:
    given = CASES[name]
    function, (batch, dims) = positional(given), rows(given)
    tensors = [x.clone().requires_grad_() for x in given.tensors.values()]
    total = function(*tensors).square().sum()
    expected = torch.autograd.grad(total, tensors, allow_unused=True, materialize_grads=True)
    every = tuple(range(len(tensors)))
    found = grad(lambda *x: function(*x).square().sum(), argnums=every)(*given.tensors.values())
    assert_close(found, expected, rtol=1e-8, atol=1e-8)
    value = function(*given.tensors.values())
    for jacobian, gradient in zip(jacrev(function, argnums=every)(*given.tensors.values()), expected, strict=True):
        product = torch.tensordot(2 * value, jacobian, dims=value.ndim)
        assert_close(product, gradient, rtol=1e-8, atol=1e-8)
    mapped = vmap(grad(lambda *x: function(*x).square().sum(), argnums=every), in_dims=dims)(*batch)
    assert_close([x[0] for x in mapped], list(expected), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", [name for name in CASES if name.split(".")[0] in ("lorentz", "poincare")])
def test_the_curvature_may_be_mapped_and_differentiated(name: str) -> None:
    given = CASES[name]
    curvatures = {key: value for key, value in given.options.items() if key != "s"}
    if not curvatures:
        return

    def function(factor: Tensor) -> Tensor:
        return given(**{key: factor * value for key, value in curvatures.items()})

    factors = torch.tensor([1.0, 1.1], dtype=torch.float64)
    assert_close(vmap(function)(factors), torch.stack([function(f) for f in factors]))
    of_all = vmap(grad(lambda f: function(f).square().sum()))(factors)
    leaf = factors[0].clone().requires_grad_()
    total = function(leaf).square().sum() + 0 * leaf  # the largest distance counts as a constant
    assert_close(of_all[0], torch.autograd.grad(total, leaf)[0], rtol=1e-8, atol=1e-8)


# The ball's edge in half types

AT_EDGE = [name for name in CASES if name.split(".")[0] == "poincare" or name.startswith("isometry.poincare")]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("c", [0.05, 1.0, 7.0])
@pytest.mark.parametrize("name", AT_EDGE)
def test_gradients_at_the_edge_are_finite_where_the_type_holds_them(name: str, c: float, dtype: torch.dtype) -> None:
    given = CASES[name]
    leaves = {}
    for key, x in given.tensors.items():
        if key in ("x", "y", "b", "p"):
            directions = torch.nn.functional.normalize(points(lorentz, (5,), torch.Generator().manual_seed(1)), dim=-1)
            turn = {"y": 1, "b": 2}.get(key, 0)
            x = poincare.expmap0((100 / c**0.5 * directions.roll(turn, 0)).to(dtype), c=c)
        leaves[key] = x.detach().to(dtype).requires_grad_()
    extra = {key: c for key in given.options if key != "s"} | ({"x_t_max": 20.0 / c**0.5} if "rescale" in name else {})

    def gradients(tensors: dict[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        result = given(**tensors, **extra)
        found = torch.autograd.grad(result.double().sum(), list(tensors.values()), allow_unused=True)
        return result, [g for g in found if g is not None]

    value, found = gradients(leaves)
    wide, exact = gradients({key: x.detach().double().requires_grad_() for key, x in leaves.items()})
    held = torch.finfo(dtype).max / 8
    for got, right in ((value, wide), *zip(found, exact, strict=True)):
        assert got.isfinite()[right.abs() < held].all()
    if not name.endswith(("inner", "norm", "_tangent")):  # whose slopes are the second and third power of 1/gap
        assert all(g.isfinite().all() for g in found)

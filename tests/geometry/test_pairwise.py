"""Pairwise distances: the direct formula in values and gradients, bounded in memory, one node when compiled."""

from __future__ import annotations

import weakref
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
from hyplearn.geometry.isometry import lorentz_to_poincare, poincare_to_lorentz

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
    monkeypatch.setattr(pairwise, "PAIRS", 7)
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


class Live(TorchDispatchMode):
    """The largest number of bytes that tensors made under it held at the same time."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[int, tuple[weakref.ref[Any], int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self.storages.setdefault(storage._cdata, (weakref.ref(storage), storage.nbytes()))
        self.storages = {key: entry for key, entry in self.storages.items() if entry[0]() is not None}
        self.peak = max(self.peak, sum(size for _, size in self.storages.values()))
        return out


def inputs(x: Tensor, c: float) -> tuple[Tensor, ...]:
    """Those of the operator, of the hyperboloid: features, points and c."""
    curvature = torch.tensor(c, dtype=x.dtype)
    return lorentz.distance_rows(x, curvature), lorentz.distance_columns(x, curvature), x, x, curvature


def test_memory_is_bounded_even_if_all_pairs_are_close(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairwise, "BLOCK", 1 << 12)
    monkeypatch.setattr(pairwise, "PAIRS", 1 << 12)
    n, dim = 60, 32
    operands = inputs(torch.ones(1, n, dim) + 1e-4 * torch.randn(1, n, dim), 1.0)
    with LargestTensor() as forward:
        distances, slopes = pairwise._forward(lorentz.cosh_minus_one, *operands, True)
    with LargestTensor() as backward:
        pairwise._backward(lorentz.cosh_minus_one, torch.ones_like(distances), slopes, distances, *operands)
    assert slopes.le(0).all()
    limit = 2 * pairwise.BLOCK  # two indices of each close pair of a block; all coordinates would be 28 BLOCK
    assert forward.entries <= limit
    assert backward.entries <= limit


def test_peak_memory_is_a_few_matrices() -> None:
    """At most 6 N M entries, the result and its gradient among them."""
    n = 400
    x = points(lorentz, n, 4, c=0.1, distance=3.0, dtype=torch.float32)
    operands = inputs(x[None], 0.1)
    with Live() as live:
        distances, slopes = pairwise._forward(lorentz.cosh_minus_one, *operands, True)
        grad = torch.ones_like(distances)
        pairwise._backward(lorentz.cosh_minus_one, grad, slopes, distances, *operands)
    assert 4 * 4 * n * n <= live.peak <= 6 * 4 * n * n


def test_without_gradient_no_slopes_are_kept() -> None:
    operands = inputs(torch.randn(1, 5, 3), 1.0)
    assert torch.ops.hyplearn.lorentz_cdist(*operands, False)[1].numel() == 0
    x = torch.randn(5, 3, requires_grad=True)
    with torch.no_grad():
        assert not lorentz.cdist(x, x, c=1.0).requires_grad


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
    operands = [t.detach().clone().requires_grad_() for t in inputs(0.2 * torch.randn(1, 4, 3), 1.0)]
    torch.library.opcheck(operator, (*operands, True))


def ball_points(kind: str, c: float) -> tuple[Tensor, Tensor]:
    """Points of the ball in float32 at the clip radius 2.3 sqrt(0.1/c), a scene of the same shape for every c."""
    v = torch.nn.functional.normalize(torch.randn(40, 32, dtype=F64), dim=-1)
    w = {
        "apart": torch.nn.functional.normalize(torch.randn(40, 32, dtype=F64), dim=-1),
        "1e-4 apart": v + 1e-4 * torch.nn.functional.normalize(torch.randn(40, 32, dtype=F64), dim=-1),
        "antipodal": -v,
    }[kind]
    radius = 2.3 * (0.1 / c) ** 0.5
    x, y = (poincare.expmap0(radius * t, c=torch.tensor(c, dtype=F64)).float() for t in (v, w))
    return x, y


@pytest.mark.parametrize("c", [0.01, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("kind", ["apart", "1e-4 apart", "antipodal"])
@pytest.mark.parametrize("model", MODELS)
def test_float32_distances_and_gradients_against_float64(model: ModuleType, kind: str, c: float) -> None:
    """Of the pairs on the diagonal; the others are always apart."""
    x, y = ball_points(kind, c)
    if model is lorentz:
        x, y = (poincare_to_lorentz(t.double(), c=c).float() for t in (x, y))
    x.requires_grad_()
    wide = x.detach().double().requires_grad_()
    exact = model.dist(wide, y.double(), c=torch.tensor(c).double())
    (exact_gradient,) = torch.autograd.grad(exact.sum(), wide)
    distances = model.cdist(x, y, c=c).diagonal()
    (gradient,) = torch.autograd.grad(distances.sum(), x)
    error = (distances.double() - exact).abs() / exact
    assert error.max() < 4e-7
    assert error.square().mean().sqrt() < 2e-7
    gradient_error = (gradient - exact_gradient).norm(dim=-1) / exact_gradient.norm(dim=-1)
    assert gradient_error.max() < 3e-6


@pytest.mark.parametrize("gap", [1e-5, 1e-3, 1e-2, 0.03, 0.1, 0.3])
@pytest.mark.parametrize("model", MODELS)
def test_float32_gradients_on_both_sides_of_the_thresholds(model: ModuleType, gap: float) -> None:
    x = points(model, 64, 128, c=0.1, distance=4.6 if model is lorentz else 2.3)
    x = x[::2].repeat_interleave(2, 0)
    x[1::2] += gap * x[1::2].norm(dim=-1, keepdim=True) * torch.nn.functional.normalize(torch.randn(32, 128, dtype=F64))
    x = x.float().requires_grad_()
    wide = x.detach().double().requires_grad_()
    exact = model.dist(wide[::2], wide[1::2], c=torch.tensor(0.1).double())
    (expected,) = torch.autograd.grad(exact.sum(), wide)
    distances = model.cdist(x[::2], x[1::2], c=0.1).diagonal()
    (gradient,) = torch.autograd.grad(distances.sum(), x)
    assert ((distances.double() - exact) / exact).abs().max() < 2e-6
    assert ((gradient - expected).norm(dim=-1) / expected.norm(dim=-1)).max() < 2e-5


@pytest.mark.parametrize("model", MODELS)
def test_vanishing_curvature_leaves_twice_the_euclidean_distance_of_the_ball(model: ModuleType) -> None:
    x, y = torch.randn(6, 3, dtype=F64), torch.randn(5, 3, dtype=F64)
    factor = 2 if model is poincare else 1
    for c in (1e-4, 1e-6):
        assert_close(model.cdist(x, y, c=c), factor * torch.cdist(x, y), rtol=20 * c, atol=0)


def test_distances_of_unit_vectors_and_of_clipped_ones_as_the_papers_lift_them() -> None:
    """c = 0.1 and exp at the origin of the ball, where the geodesic radius is twice the norm."""
    c = torch.tensor(0.1, dtype=F64)
    first = torch.tensor([[1.0, 0.0]], dtype=F64)
    others = torch.tensor([[0.0, 1.0], [0.5, 0.75**0.5], [-1.0, 0.0]], dtype=F64)
    x, y = poincare.expmap0(first, c=c), poincare.expmap0(others, c=c)
    assert_close(x.norm().item(), 0.967948, rtol=0, atol=1e-6)
    assert_close(poincare.dist0(x, c=c).item(), 2.0)
    assert_close(poincare.cdist(x, y, c=c)[0], torch.tensor([2.9163, 2.0974, 4.0], dtype=F64), rtol=0, atol=1e-4)
    cosine = others[:, 0]
    kappa = torch.sinh(2 * c.sqrt()).square()
    assert_close(kappa.item(), 0.456261, rtol=0, atol=1e-6)
    assert_close(poincare.cdist(x, y, c=c)[0], torch.acosh(1 + kappa * (1 - cosine)) / c.sqrt())
    x, y = poincare.expmap0(2.3 * first, c=c), poincare.expmap0(2.3 * others, c=c)
    assert_close(x.norm().item(), 1.965117, rtol=0, atol=1e-5)
    assert_close(poincare.dist0(x, c=c).item(), 4.6)
    assert_close(poincare.cdist(x, y, c=c)[0, 2].item(), 9.2)
    assert_close(torch.sinh(4.6 * c.sqrt()).square().item(), 4.0996, rtol=0, atol=1e-4)
    assert_close(poincare.conformal_factor(x, c=c).item() ** -2, 0.094197, rtol=0, atol=1e-6)


def test_distances_of_the_ball_are_those_of_moebius_addition() -> None:
    """Yue Eqs. 1 and 2 as printed, with all pairs of coordinates."""
    c = 0.1
    x, y = (poincare.expmap0(2.3 * torch.nn.functional.normalize(torch.randn(n, 6, dtype=F64)), c=c) for n in (7, 5))
    a, b = -x[:, None], y[None]
    product, a_square, b_square = ((s * t).sum(-1, keepdim=True) for s, t in ((a, b), (a, a), (b, b)))
    total = (1 + 2 * c * product + c * b_square) * a + (1 - c * a_square) * b
    total = total / (1 + 2 * c * product + c**2 * a_square * b_square)
    expected = 2 / c**0.5 * torch.atanh(c**0.5 * total.norm(dim=-1))
    assert_close(poincare.cdist(x, y, c=c), expected, rtol=1e-10, atol=0)


def cloud(model: ModuleType, cosine: float, *, count: int = 120, dim: int = 64) -> Tensor:
    """Points at distance 4.6 for c = 0.1 in float32 whose directions have this mean cosine."""
    towards, own = (torch.nn.functional.normalize(torch.randn(n, dim, dtype=F64), dim=-1) for n in (1, count))
    directions = torch.nn.functional.normalize(cosine**0.5 * towards + (1 - cosine) ** 0.5 * own, dim=-1)
    x = lorentz.expmap0(4.6 * directions, c=0.1)
    return (x if model is lorentz else lorentz_to_poincare(x, c=0.1)).float()


@pytest.mark.parametrize("cosine", [0.5, 0.9, 0.99, 0.9999, 1 - 1e-9])
@pytest.mark.parametrize("model", MODELS)
def test_a_collapsed_cloud_is_as_accurate_as_a_spread_one(model: ModuleType, cosine: float) -> None:
    x = cloud(model, cosine).requires_grad_()
    wide = x.detach().double().requires_grad_()
    weights = torch.randn(120, 120).fill_diagonal_(0)
    exact = model.dist(wide[:, None], wide, c=torch.tensor(0.1).double())
    (expected,) = torch.autograd.grad((weights * exact).sum(), wide)
    distances = model.cdist(x, x, c=0.1)
    (gradient,) = torch.autograd.grad((weights * distances).sum(), x)
    apart = ~torch.eye(120, dtype=torch.bool)
    error = ((distances - exact).abs() / exact)[apart]
    assert error.max() < 4e-7
    assert error.square().mean().sqrt() < 2e-7
    assert ((gradient - expected).norm(dim=-1) / expected.norm(dim=-1)).max() < 3e-6


class CloseCounter:
    """Counts the pairs that a matrix product does not resolve, in place of `pairwise._indices`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pairs, self.original = 0, pairwise._indices
        monkeypatch.setattr(pairwise, "_indices", self)

    def __call__(self, mask: Tensor, width: int) -> Any:
        for i, j in self.original(mask, width):
            self.pairs += len(i)
            yield i, j


@pytest.mark.parametrize("cosine", [0.0, 0.9, 0.96, 0.99, 0.9999])
@pytest.mark.parametrize("model", MODELS)
def test_hardly_a_pair_of_a_cloud_is_close_wherever_it_lies(
    model: ModuleType, cosine: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every pair with itself is, forward and backward, and the formula of pairs is dear: at most one in a hundred."""
    x = cloud(model, cosine).requires_grad_()
    counter = CloseCounter(monkeypatch)
    for y in (x, x.detach().clone()[:90], x.detach().clone()[:1]):
        counter.pairs = 0
        distances = model.cdist(x, y, c=0.1)
        assert len(y) <= counter.pairs <= len(y) + 0.01 * distances.numel()
        distances.sum().backward()
        assert counter.pairs <= 2 * (len(y) + 0.01 * distances.numel())


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("radius", [1e-3, 1.0, 4.6, 20.0])
def test_equal_points_in_different_tensors_have_distance_and_gradient_zero(model: ModuleType, radius: float) -> None:
    """Their midst is the point itself: their features are rounding errors, other ones in a tensor of another size."""
    for dim in (3, 17, 129):
        v = torch.nn.functional.normalize(torch.randn(1, dim, dtype=F64), dim=-1)
        point = lorentz.expmap0(radius * v, c=0.1)
        point = (point if model is lorentz else lorentz_to_poincare(point, c=0.1)).float()
        for count in (1, 200):
            x, y = (point.repeat(n, 1).requires_grad_() for n in (33, count))
            distances = model.cdist(x, y, c=0.1)
            assert distances.eq(0).all()
            assert all(gradient.eq(0).all() for gradient in torch.autograd.grad(distances.sum(), (x, y)))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_point_that_is_not_finite_spoils_its_own_distances_alone(model: ModuleType, value: float) -> None:
    x = cloud(model, 0.9, count=8)
    expected = model.cdist(x, x, c=0.1)
    x[3] = value
    rest = torch.arange(8) != 3
    got = model.cdist(x, x, c=0.1)
    assert_close(got[rest][:, rest], expected[rest][:, rest], rtol=1e-5, atol=0)
    assert not got[3].isfinite().any()


def test_points_and_a_permuted_copy_have_the_distances_of_the_points_alone() -> None:
    """A set with itself is seen once; the same set under another name is not known to be the same."""
    x = cloud(lorentz, 0.96, count=30).requires_grad_()
    order = torch.randperm(30)
    weights = torch.randn(30, 30)
    alone, named = lorentz.cdist(x, x, c=0.1), lorentz.cdist(x, x[order], c=0.1)[:, order.argsort()]
    assert_close(named, alone, rtol=1e-6, atol=0)
    gradients = [torch.autograd.grad((weights * d).sum(), x)[0] for d in (alone, named)]
    assert_close(*gradients, rtol=1e-5, atol=1e-5)

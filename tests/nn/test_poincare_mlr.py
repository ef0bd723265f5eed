from __future__ import annotations

import pytest
import torch
from mpmath import mp
from torch import Tensor
from torch.autograd import gradcheck
from torch.testing import assert_close

from hyplearn.manifolds import PoincareBall
from hyplearn.nn.poincare_mlr import PoincareMLR
from tests.support import reference_poincare as reference


def random(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def head(c: float) -> PoincareMLR:
    mlr = PoincareMLR(4, 3, manifold=PoincareBall(c=c)).double()
    with torch.no_grad():
        mlr.a.copy_(0.3 * random(3, seed=1))
    return mlr


@pytest.mark.parametrize("c", [0.05, 0.1, 1.0, 4.0, 20.0])
@pytest.mark.parametrize("radius", [1e-6, 0.3, 1.0])
def test_it_matches_fifty_digits(c: float, radius: float) -> None:
    mlr = head(c)
    x = mlr.manifold.expmap0(radius / 2 * torch.nn.functional.normalize(random(2, 4), dim=-1))
    z, a, exact = mlr.z.tolist(), mlr.a.tolist(), mlr.manifold.c.item()
    with mp.workdps(50):
        root = mp.sqrt(mp.mpf(exact))

        def logit(point: list[float], orientation: list[float], offset: float) -> float:
            length = mp.sqrt(sum(mp.mpf(v) ** 2 for v in orientation))
            along = sum(mp.mpf(p) * mp.mpf(v) for p, v in zip(point, orientation, strict=True)) / length
            square = exact * sum(mp.mpf(p) ** 2 for p in point)
            top = 2 * root * along * mp.cosh(2 * root * offset) - (1 + square) * mp.sinh(2 * root * offset)
            return float(2 * length / root * mp.asinh(top / (1 - square)))

        expected = [[logit(point, *row) for row in zip(z, a, strict=True)] for point in x.tolist()]
    assert_close(mlr(x).tolist(), expected, rtol=1e-11, atol=1e-15)
    single = mlr.float()(x.float()).double()
    assert ((single - torch.tensor(expected).double()).norm() / torch.tensor(expected).norm()).item() < 1e-5


def test_it_is_the_printed_formula() -> None:
    mlr, x = head(0.6), 0.3 * random(5, 4)
    assert_close(mlr(x), reference.mlr(x, mlr.z.T, mlr.a, mlr.manifold.c), rtol=1e-10, atol=1e-12)


def test_logits_are_scaled_signed_distances_to_the_hyperplane() -> None:
    """Brute force: the nearest of many points of the hyperplane of an axis class."""
    mlr = PoincareMLR(2, 1, manifold=PoincareBall(c=1.0)).double()
    with torch.no_grad():
        mlr.z.copy_(torch.tensor([[1.5, 0.0]]))
        mlr.a.fill_(0.2)
    c = mlr.manifold.c.detach()
    foot = reference.expmap0(torch.tensor([[0.2, 0.0]], dtype=torch.float64), c)
    along = torch.stack([torch.zeros(20001), torch.linspace(-0.999, 0.999, 20001)], dim=-1).double()
    plane = reference.mobius_add(foot, along[along[:, 1] != 0], c)
    x = torch.tensor([[0.5, 0.3], [-0.4, 0.1]], dtype=torch.float64)
    nearest = torch.stack([reference.dist(point, plane, c).min() for point in x])
    assert_close(mlr(x).flatten(), 2 * 1.5 * torch.tensor([1.0, -1.0]).double() * nearest / 1, rtol=1e-4, atol=0)


def test_gradients() -> None:
    mlr, x = head(0.7), (0.3 * random(3, 4)).requires_grad_()
    names = [name for name, _ in mlr.named_parameters()]

    def call(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(mlr, dict(zip(names, values, strict=True)), (x,))

    assert gradcheck(call, (x, *mlr.parameters()))
    assert gradcheck(call, (torch.zeros(1, 4, dtype=torch.float64, requires_grad=True), *mlr.parameters()))


def test_initialization() -> None:
    torch.manual_seed(0)
    mlr = PoincareMLR(400, 50, manifold=PoincareBall(c=4.0))
    assert mlr.z.std().item() == pytest.approx((400 * 4) ** -0.5, rel=0.05)
    assert (mlr.a == 0).all()


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="classes=0"):
        PoincareMLR(4, 0, manifold=PoincareBall(c=1.0))
    with pytest.raises(ValueError, match=r"\(2, 5\) must be \(\.\.\., 4\)"):
        PoincareMLR(4, 3, manifold=PoincareBall(c=1.0))(torch.zeros(2, 5))


def test_length_and_direction_are_the_same_function_with_other_gradients() -> None:
    made = []
    for orientation in ("joint", "weight_norm"):
        torch.manual_seed(2)
        made.append(PoincareMLR(4, 3, manifold=PoincareBall(c=0.7, learned=False), orientation=orientation).double())  # type: ignore[arg-type]
    joint, pair = made
    x = 0.3 * random(5, 4)
    assert_close(pair(x), joint(x), rtol=1e-6, atol=1e-7)
    assert sorted(tuple(p.shape) for p in pair.parameters()) == [(3,), (3, 1), (3, 4)]
    logits = pair(x)
    length, direction = pair.parametrizations.z.original0, pair.parametrizations.z.original1
    by_length, by_direction = torch.autograd.grad(logits.square().sum(), (length, direction))
    (by_z,) = torch.autograd.grad(joint(x).square().sum(), joint.z)
    unit = torch.nn.functional.normalize(joint.z, dim=1)
    assert_close(by_length[:, 0], (by_z * unit).sum(1), rtol=1e-5, atol=1e-6)
    assert_close((by_direction * direction).sum(1), torch.zeros(3).double(), rtol=0, atol=1e-7)


def test_another_orientation_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="orientation='polar' must be one of"):
        PoincareMLR(4, 3, manifold=PoincareBall(), orientation="polar")  # type: ignore[arg-type]

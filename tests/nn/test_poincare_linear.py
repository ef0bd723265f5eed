from __future__ import annotations

import pytest
import torch
from mpmath import mp
from torch import Tensor
from torch.autograd import gradcheck
from torch.testing import assert_close

from hyplearn.manifolds import PoincareBall
from hyplearn.nn.poincare_linear import PoincareLinear
from tests.support import reference_poincare as reference

CURVATURES = [0.05, 0.1, 1.0, 4.0, 20.0]


def random(*size: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer(c: float, *, inputs: int = 5, outputs: int = 4) -> PoincareLinear:
    linear = PoincareLinear(inputs, outputs, manifold=PoincareBall(c=c), init="normal").double()
    with torch.no_grad():
        linear.weight.copy_(random(outputs, inputs, seed=1, scale=0.4))
        assert linear.bias is not None
        linear.bias.copy_(random(outputs, seed=2, scale=0.2))
    return linear


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("radius", [1e-6, 1e-2, 0.5])  # in units of 1/sqrt(c)
def test_it_is_log_fc_exp_in_the_ball(c: float, radius: float) -> None:
    linear, u = layer(c), random(7, 5, scale=radius * c**-0.5)
    exact = linear.manifold.c.detach()
    ball = reference.fully_connected(reference.expmap0(u, exact), linear.weight.T, linear.bias, exact)
    assert_close(linear(u), reference.logmap0(ball, exact), rtol=1e-8, atol=1e-12)


def test_identity_weights_return_the_vector() -> None:
    linear = PoincareLinear(6, 6, manifold=PoincareBall(c=0.7)).double()
    u = random(3, 6, scale=2.0)
    assert_close(linear(u), u, rtol=1e-12, atol=0)


def test_it_matches_fifty_digits_where_the_ball_has_none_left() -> None:
    """At c = 4 and |u| = 4 the point is 1e-7 from the edge; the float64 ball formula keeps 8 digits, float32 none."""
    u, z, r = [2.4, -3.2], [[0.3, 0.1], [-0.2, 0.4]], [0.1, -0.2]
    linear = PoincareLinear(2, 2, manifold=PoincareBall(c=4.0, x_t_max=1e15)).double()
    with torch.no_grad():
        linear.weight.copy_(torch.tensor(z))
        assert linear.bias is not None
        linear.bias.copy_(torch.tensor(r))
    z, r = linear.weight.tolist(), linear.bias.tolist()  # as stored
    with mp.workdps(50):
        root, norm = mp.mpf(2), mp.sqrt(sum(mp.mpf(a) ** 2 for a in u))
        x = [mp.tanh(root * norm) * a / (root * norm) for a in u]
        factor = 2 / (1 - 4 * sum(a**2 for a in x))
        w = []
        for row, offset in zip(z, r, strict=True):
            length = mp.sqrt(sum(mp.mpf(a) ** 2 for a in row))
            along = sum(a * mp.mpf(b) for a, b in zip(x, row, strict=True)) / length
            argument = root * factor * along * mp.cosh(2 * root * offset) - (factor - 1) * mp.sinh(2 * root * offset)
            w.append(mp.sinh(2 * length * mp.asinh(argument)) / root)
        norm = mp.sqrt(sum(a**2 for a in w))
        expected = [float(mp.asinh(root * norm) / (2 * root * norm) * a) for a in w]
    assert_close(linear(torch.tensor(u, dtype=torch.float64)).tolist(), expected, rtol=1e-12, atol=0)
    single = linear.float()(torch.tensor(u))
    assert_close(single.tolist(), expected, rtol=2e-6, atol=0)


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("scale", [1e-3, 0.3, 2.0])  # in units of 1/sqrt(c); d_max is at about 4
def test_float32_agrees_with_float64(c: float, scale: float) -> None:
    u = scale * c**-0.5 * torch.nn.functional.normalize(random(64, 5), dim=-1)
    linear = layer(c)
    expected = linear(u)
    error = (linear.float()(u.float()).double() - expected).norm(dim=-1) / expected.norm(dim=-1)
    assert error.max() < 1e-5


def test_gradients() -> None:
    u, linear = random(3, 5).requires_grad_(), layer(0.7)
    parameters = tuple(linear.parameters())
    names = [name for name, _ in linear.named_parameters()]
    assert any("curvature" in name for name in names)

    def call(u: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(linear, dict(zip(names, values, strict=True)), (u,))

    assert gradcheck(call, (u, *parameters))


def test_gradients_at_the_origin_and_at_zero_weights_are_finite() -> None:
    linear = PoincareLinear(3, 5, manifold=PoincareBall(c=1.0))  # identity: rows 3 and 4 are zero
    u = torch.zeros(2, 3, requires_grad=True)
    linear(u).sum().backward()
    for parameter in (u, *linear.parameters()):
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
    assert_close(u.grad, torch.ones(2, 3))  # the identity's
    linear.zero_grad()
    linear(torch.ones(1, 3)).sum().backward()
    assert linear.weight.grad is not None
    assert (linear.weight.grad[3:] != 0).all()


def test_large_angles_neither_overflow_nor_change_the_function() -> None:
    u = torch.tensor([[1.5, -1.0, 0.2]], dtype=torch.float64)
    linear = PoincareLinear(3, 3, manifold=PoincareBall(c=1.0), bias=False).double()
    with torch.no_grad():
        linear.weight.copy_(torch.diag(torch.tensor([30.0, 35.0, 15.0])))
    norms = linear.weight.diagonal()
    w = torch.sinh(2 * norms * torch.asinh(torch.sinh(2 * u.norm()) * u / u.norm()))
    expected = torch.asinh(w.norm()) * w / w.norm() / 2
    assert expected.norm() > 50  # sinh(100), whose square float32 cannot hold
    assert_close(linear(u), expected, rtol=1e-12, atol=1e-12)
    assert_close(linear.float()(u.float()).double(), expected, rtol=1e-5, atol=1e-4)


def test_vectors_beyond_the_limit_are_clipped_to_it() -> None:
    linear = PoincareLinear(2, 2, manifold=PoincareBall(c=1.0))
    out = linear(torch.tensor([[300.0, 400.0]]))
    assert_close(out, torch.acosh(torch.tensor(2e3)) / 2 * torch.tensor([[0.6, 0.8]]))


def test_autocast_computes_in_full_precision() -> None:
    linear, u = layer(1.0).float(), random(4, 5).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_close(linear(u), linear(u), rtol=0, atol=0)
        inside = linear(u)
    assert inside.dtype == torch.float32
    assert_close(inside, linear(u), rtol=0, atol=0)


def test_wrong_arguments_are_named() -> None:
    ball = PoincareBall(c=1.0)
    with pytest.raises(ValueError, match="in_features=0"):
        PoincareLinear(0, 2, manifold=ball)
    with pytest.raises(ValueError, match=r"init='idendity'.*'identity'"):
        PoincareLinear(2, 2, manifold=ball, init="idendity")
    with pytest.raises(ValueError, match=r"\(3, 5\) must be \(\.\.\., 2\)"):
        PoincareLinear(2, 2, manifold=ball)(torch.zeros(3, 5))

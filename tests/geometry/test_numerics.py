"""Functions of a squared argument: values and derivatives against 50 digits, on both sides of where the series ends."""

from __future__ import annotations

from collections.abc import Callable

import mpmath as mp
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from hyplearn.geometry import numerics

mp.mp.dps = 50
EDGE = numerics.SERIES_BELOW


def over_root(function: Callable[[mp.mpf], mp.mpf]) -> Callable[[mp.mpf], mp.mpf]:
    return lambda t: function(mp.sqrt(t)) / mp.sqrt(t)


# name -> (function of t, largest t tested)
FUNCTIONS = {
    "sinhc": (over_root(mp.sinh), 400.0),
    "asinhc": (over_root(mp.asinh), 1e12),
    "tanhc": (over_root(mp.tanh), 400.0),
    "atanhc": (over_root(mp.atanh), 0.9),
    "sinc": (over_root(mp.sin), 9.0),
    "asinc": (over_root(mp.asin), 0.9),
    "coshm1c": (lambda t: (mp.cosh(mp.sqrt(t)) - 1) / t, 400.0),
}
ARGUMENTS = [1e-30, 1e-12, 1e-6, 1e-3, EDGE * (1 - 1e-6), EDGE, EDGE * 1.5, 0.3, 0.9, 4.0, 9.0, 400.0, 1e12]


def arguments(largest: float) -> list[float]:
    return [t for t in ARGUMENTS if t <= largest]


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 2e-15), (torch.float32, 1e-6)])
def test_values_match_fifty_digits(name: str, dtype: torch.dtype, rtol: float) -> None:
    exact, largest = FUNCTIONS[name]
    t = torch.tensor(arguments(largest), dtype=dtype)
    expected = [float(exact(mp.mpf(value))) for value in t.tolist()]
    torch.testing.assert_close(
        getattr(numerics, name)(t), torch.tensor(expected, dtype=dtype), rtol=rtol * max(1.0, largest**0.5 / 20), atol=0
    )


@pytest.mark.parametrize("name", FUNCTIONS)
def test_derivatives_match_fifty_digits(name: str) -> None:
    exact, largest = FUNCTIONS[name]
    t = torch.tensor(arguments(largest), dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(getattr(numerics, name)(t).sum(), t)
    for value, got in zip(t.tolist(), gradient.tolist(), strict=True):
        derivative = float(mp.diff(exact, mp.mpf(value), h=mp.mpf(value) * mp.mpf("1e-20")))
        # what counts is the derivative in sqrt t, where the error of t f'(t) is added to f(t)
        assert abs(got - derivative) * value <= 1e-14 * abs(float(exact(mp.mpf(value)))) * max(1.0, value**0.5)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradient_is_exact_at_zero(name: str) -> None:
    t = torch.tensor([1e-9, 1e-3, EDGE * 2, 0.5], dtype=torch.float64, requires_grad=True)
    function = getattr(numerics, name)
    assert gradcheck(lambda s: function(s**2), t)
    assert gradgradcheck(lambda s: function(s**2), t)
    zero = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(function(zero), zero)
    exact = mp.diff(FUNCTIONS[name][0], mp.mpf("1e-20"), h=mp.mpf("1e-30"))
    assert slope.item() == pytest.approx(float(exact), rel=1e-12)


@pytest.mark.parametrize("function", [numerics.safe_sqrt, lambda t: numerics.vector_norm(t.unsqueeze(-1))])
def test_roots_have_gradient_zero_at_zero(function: Callable[[Tensor], Tensor]) -> None:
    t = torch.tensor([0.0, 4.0], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(function(t).sum(), t)
    assert gradient[0] == 0
    assert gradient[1] > 0


def test_dot_and_squared_norm_keep_the_last_dimension() -> None:
    x, y = torch.randn(2, 3, 4), torch.randn(3, 4)
    torch.testing.assert_close(numerics.dot(x, y), torch.einsum("abc,bc->ab", x, y).unsqueeze(-1))
    torch.testing.assert_close(numerics.squared_norm(x), numerics.dot(x, x))


def test_scalar_like_takes_the_precision_of_the_points_and_keeps_the_gradient() -> None:
    c = torch.tensor(0.3, requires_grad=True)
    x = torch.zeros(2, dtype=torch.float64)
    assert numerics.scalar_like(c, x).dtype == torch.float64
    assert numerics.scalar_like(0.3, x).item() == 0.3
    numerics.scalar_like(c, x).backward()
    assert c.grad is not None
    assert c.grad.item() == 1

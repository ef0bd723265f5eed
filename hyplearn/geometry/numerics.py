"""Elementary functions without 0/0: functions of a squared argument, smooth at zero with exact gradients.

A radial map of a vector x multiplies it by a function of |x|, and every such function met here is an even one, hence
smooth in t = |x|^2: sinh(|x|)/|x| = sinhc(|x|^2). Working with t needs no norm, so nothing is divided by zero and the
gradient at the origin is exact. All functions take any shape, t >= 0, float32 or float64.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ParamSpec

import torch
from torch import Tensor

Parameters = ParamSpec("Parameters")

# Below this t a Taylor polynomial replaces f(sqrt t)/sqrt t, whose gradient there is 0/0 or cancels.
SERIES_BELOW = 1e-2

# From so many coordinates on torch's norm in float32 has lost two digits and more, at a million of them.
MANY = 1 << 14

# Coefficients of t^0, t^1, ...; each list ends where the next term at SERIES_BELOW is under 1e-17.
_SINHC = [1 / math.factorial(2 * i + 1) for i in range(6)]
_ASINHC = [(-1) ** i * math.comb(2 * i, i) / (4**i * (2 * i + 1)) for i in range(9)]
_TANHC = [1.0, -1 / 3, 2 / 15, -17 / 315, 62 / 2835, -1382 / 155925, 21844 / 6081075, -929569 / 638512875]
_SINC = [(-1) ** i / math.factorial(2 * i + 1) for i in range(6)]
_ASINC = [math.comb(2 * i, i) / (4**i * (2 * i + 1)) for i in range(9)]


def _horner(t: Tensor, coefficients: Sequence[float]) -> Tensor:
    total = torch.full_like(t, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * t + coefficient
    return total


def _over_root(function: Callable[[Tensor], Tensor], t: Tensor, coefficients: Sequence[float]) -> Tensor:
    """f(sqrt t)/sqrt t for an odd f. Both branches see a harmless argument, so neither gradient is NaN."""
    small = t < SERIES_BELOW
    root = torch.where(small, 1.0, t).sqrt()
    return torch.where(small, _horner(torch.where(small, t, 0.0), coefficients), function(root) / root)


def sinhc(t: Tensor) -> Tensor:
    """sinh(sqrt t) / sqrt t, 1 at t = 0. float32 overflows from t = 7900 on: limit the radius first."""
    return _over_root(torch.sinh, t, _SINHC)


def asinhc(t: Tensor) -> Tensor:
    """asinh(sqrt t) / sqrt t, 1 at t = 0."""
    return _over_root(torch.asinh, t, _ASINHC)


def tanhc(t: Tensor) -> Tensor:
    """tanh(sqrt t) / sqrt t, 1 at t = 0."""
    return _over_root(torch.tanh, t, _TANHC)


def atanhc(t: Tensor) -> Tensor:
    """atanh(sqrt t) / sqrt t, 1 at t = 0; 0 <= t < 1. Through asinh, which does not round sqrt t towards 1."""
    return asinhc(t / (1 - t)) * (1 - t).rsqrt()


def sinc(t: Tensor) -> Tensor:
    """sin(sqrt t) / sqrt t, 1 at t = 0."""
    return _over_root(torch.sin, t, _SINC)


def asinc(t: Tensor) -> Tensor:
    """asin(sqrt t) / sqrt t, 1 at t = 0; 0 <= t <= 1."""
    return _over_root(torch.asin, t, _ASINC)


def coshm1c(t: Tensor) -> Tensor:
    """(cosh(sqrt t) - 1) / t, 1/2 at t = 0: a half angle, so nothing cancels."""
    return 0.5 * sinhc(t / 4).square()


def safe_sqrt(t: Tensor) -> Tensor:
    """sqrt t with gradient 0 at t = 0, where a distance between coincident points has its kink."""
    positive = t > 0
    return torch.where(positive, torch.where(positive, t, 1.0).sqrt(), 0.0)


def vector_norm(x: Tensor, *, keepdim: bool = False) -> Tensor:
    """|x| over the last dimension with gradient 0 at x = 0. (..., n) to (...), or (..., 1) with keepdim."""
    length: Tensor
    if x.shape[-1] <= MANY:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=keepdim)
    else:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=keepdim, dtype=torch.float64).to(x.dtype)
    return length


def distance_norm(x: Tensor) -> Tensor:
    """|x| as `vector_norm`, (..., n) to (..., 1), whose second derivative at x = 0 is 0, too, where that has none."""
    zero = (x == 0).all(-1, keepdim=True)
    return torch.where(zero, 0.0, vector_norm(torch.where(zero, 1.0, x), keepdim=True))


def shortened(x: Tensor, length: Tensor, longest: Tensor | float) -> Tensor:
    """x (..., n) of the given length (..., 1), or longest / length x where that is more than the longest."""
    outside = length > longest
    return torch.where(outside, longest / torch.where(outside, length, 1.0) * x, x)


def within_ball(x: Tensor, c: Tensor) -> Tensor:
    """x (..., n), shortened to what the format can tell from the edge of the ball where rounding has taken it there.

    At most (1 - 8 eps) / sqrt(c) long, so that 1 - c |x|^2 has a digit: in float32 the distance 14.5 / sqrt(c).
    """
    length = vector_norm(x.detach(), keepdim=True) * c.detach().sqrt()
    return shortened(x, length, 1 - 8 * torch.finfo(x.dtype).eps)


def squared_norm(x: Tensor) -> Tensor:
    """|x|^2 over the last dimension, kept: (..., n) to (..., 1)."""
    return x.square().sum(-1, keepdim=True)


def dot(x: Tensor, y: Tensor) -> Tensor:
    """x . y over the last dimension, kept: (..., n), (..., n) to (..., 1)."""
    return (x * y).sum(-1, keepdim=True)


def common_type(tensors: Iterable[Tensor]) -> torch.dtype:
    """Return the floating type that torch computes in with all of them: torch.result_type of tensors and a number."""
    dtype = functools.reduce(torch.promote_types, (x.dtype for x in tensors))
    return dtype if dtype.is_floating_point else torch.get_default_dtype()


HALF = (torch.float16, torch.bfloat16)
CURVATURES = ("c", "c_old", "c_new")  # numbers, which have no say in the type


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) else value


def of_one_type(function: Callable[Parameters, Tensor]) -> Callable[Parameters, Tensor]:
    """Give a function of points and vectors all of them in their common type, which is that of its result.

    The curvature takes their type. Nothing is done where all are of one floating type already.
    """
    return _typed(function, torch.float16)


def in_single_precision(function: Callable[Parameters, Tensor]) -> Callable[Parameters, Tensor]:
    """As `of_one_type`; and compute in float32 at least, rounding the result of half types once.

    For what half types hold while a square on the way would be beyond them. Not for points of the ball, which that
    rounding could put on its edge, nor for what depends on the largest time of a type.
    """
    return _typed(function, torch.float32)


def _typed(function: Callable[Parameters, Tensor], least: torch.dtype) -> Callable[Parameters, Tensor]:
    @functools.wraps(function)
    def wrapped(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Tensor:
        named = {name: value for name, value in kwargs.items() if name not in CURVATURES}
        found = [value for value in (*args, *named.values()) if isinstance(value, Tensor)]
        result = common_type(found)
        inside = least if least == torch.float32 and result in HALF else result
        if all(x.dtype == inside for x in found):
            return function(*args, **kwargs)
        cast = {name: _cast(value, inside) for name, value in named.items()}
        return function(*(_cast(x, inside) for x in args), **(kwargs | cast)).to(result)  # type: ignore[arg-type]

    return wrapped


def check_any(x: Tensor, dim: int | tuple[int, ...]) -> None:
    """Raise ValueError if there is no point along dim to average."""
    if not all(x.shape[d] for d in ((dim,) if isinstance(dim, int) else dim)):
        raise ValueError(f"x of shape {tuple(x.shape)} has no point along dim={dim}: a centroid is one of at least one")


def scalar_like(value: Tensor | float, x: Tensor) -> Tensor:
    """A 0-dim tensor of x's dtype and device: the curvature takes the precision of the points it acts on.

    Raises ValueError for a number that is no curvature. A tensor is not looked at: that would wait for the device, and
    the manifolds keep theirs within bounds.
    """
    if isinstance(value, Tensor):
        return value.to(device=x.device, dtype=x.dtype)
    if not 0 < value < math.inf:
        raise ValueError(f"c={value} must be a finite number > 0: the curvature of the space is -c")
    return torch.full((), value, dtype=x.dtype, device=x.device)

"""The isometry between the hyperboloid (space coordinates) and the Poincare ball of the same curvature -c."""

from __future__ import annotations

from torch import Tensor

from hyplearn.geometry.lorentz import time
from hyplearn.geometry.numerics import dot, in_single_precision, of_one_type, scalar_like, squared_norm, within_ball


@of_one_type
def lorentz_to_poincare(x: Tensor, *, c: Tensor | float) -> Tensor:
    """p = x / (1 + sqrt(1 + c |x|^2)). (..., n) to (..., n).

    The ball holds far points badly: 1 - c |p|^2 = 2/(1 + x_t/k) is left with an error of one unit in the last place
    of 1.
    """
    return within_ball(_to_ball(x, c=c), scalar_like(c, x))


@in_single_precision
def _to_ball(x: Tensor, *, c: Tensor | float) -> Tensor:
    c = scalar_like(c, x)
    return x / (1 + (1 + c * squared_norm(x)).sqrt())


@in_single_precision
def poincare_to_lorentz(p: Tensor, *, c: Tensor | float) -> Tensor:
    """x = 2 p / (1 - c |p|^2), for c |p|^2 < 1. (..., n) to (..., n)."""
    c = scalar_like(c, p)
    return 2 * p / (1 - c * squared_norm(p))


@in_single_precision
def lorentz_to_poincare_tangent(x: Tensor, v: Tensor, *, c: Tensor | float) -> Tensor:
    """Push a tangent vector at x of the hyperboloid to the ball: (v - p sqrt(c) v_t) / (1 + x_t/k). (..., n)."""
    c = scalar_like(c, x)
    x_t = time(x, c=c, keepdim=True)
    denominator = 1 + c.sqrt() * x_t
    return (v - x * (c.sqrt() * dot(x, v) / (x_t * denominator))) / denominator


@in_single_precision
def poincare_to_lorentz_tangent(p: Tensor, v: Tensor, *, c: Tensor | float) -> Tensor:
    """Push a tangent vector at p of the ball to the hyperboloid: 2 v/a + 4 c (p.v) p/a^2, a = 1 - c |p|^2. (..., n)."""
    c = scalar_like(c, p)
    a = 1 - c * squared_norm(p)
    return 2 / a * v + 4 * c * dot(p, v) / a.square() * p

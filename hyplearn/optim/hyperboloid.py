"""The moves of points of the hyperboloid that an optimizer makes, without gradients and in few kernels.

Same formulation as `geometry.lorentz`: space coordinates (..., n), curvature -c, radius k = 1/sqrt(c). Optimizers run
these on many small points at every step, so launches count: a map and the vectors it takes along share their scalars,
and no series replaces sinh(a)/a near 0, which only its gradient would need. `geometry.lorentz` has each map alone.
"""

from __future__ import annotations

from torch import Tensor

from hyplearn.geometry import lorentz
from hyplearn.geometry.lorentz import CurvatureMove
from hyplearn.geometry.numerics import scalar_like

# Stands in for a length of 0: its square root and its reciprocal are float32 numbers, and sinh(a)/a is 1.
TINY = 1e-30


def walk(x: Tensor, step: Tensor, vectors: list[Tensor], *, c: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Exponential map of `step` at x, and the vectors transported along that geodesic.

    With a = |step|_x / k: y = cosh(a) x + sinh(a)/a step, v' = v + c <step, v> ((cosh(a) - 1)/a^2 step + sinh(a)/a x).
    """
    c = scalar_like(c, x)
    a_squared = c * lorentz.inner(step, step, x, c=c, keepdim=True)
    a = a_squared.clamp_min(0).sqrt().clamp_min(TINY)
    sinhc = a.sinh() / a
    coshm1c = 2 * ((a / 2).sinh() / a).square()
    y = x + a_squared * coshm1c * x + sinhc * step
    turn = c * (coshm1c * step + sinhc * x)
    return y, [v + lorentz.inner(step, v, x, c=c, keepdim=True) * turn for v in vectors]


def carry(x: Tensor, y: Tensor, vectors: list[Tensor], *, c_old: Tensor, c_new: Tensor) -> list[Tensor]:
    """Transport from x to the origin at c_old and out to y at c_new, for x and y on one ray.

    Across the ray a vector stays as it is; along the ray, where its Riemannian length is its length times k/x_t, it
    takes the factor rho = (y_t/k')/(x_t/k). Through the origin itself float32 would lose x_t/k digits along the ray.
    """
    square = x.square().sum(-1, keepdim=True)
    rho = ((1 + c_new * y.square().sum(-1, keepdim=True)) / (1 + c_old * square)).sqrt()
    stretch = (rho - 1) / square.clamp_min(TINY) * x
    return [v + (x * v).sum(-1, keepdim=True) * stretch for v in vectors]


def towards_origin(
    x: Tensor, vectors: list[Tensor], weight: Tensor | float, *, c: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Lorentzian centroid of x (weight 1 - w) and the origin (weight w); the vectors along the ray.

    (1 - w) x / sqrt(1 + 2 w (1 - w) (cosh(delta) - 1)) with delta = d(x, 0)/k (Bdeir Section 3.2). To first order in w
    delta becomes delta - w sinh(delta).
    """
    c = scalar_like(c, x)
    square = c * x.square().sum(-1, keepdim=True)
    cosh_minus_1 = square / (1 + (1 + square).sqrt())
    y = x * ((1 - weight) * (1 + 2 * weight * (1 - weight) * cosh_minus_1).rsqrt())
    return y, carry(x, y, vectors, c_old=c, c_new=c)


def follow(
    x: Tensor, vectors: list[Tensor], *, c_old: Tensor, c_new: Tensor, mode: CurvatureMove
) -> tuple[Tensor, list[Tensor]]:
    """Points and vectors from curvature -c_old to -c_new (Bdeir Algorithm 1), see `lorentz.change_curvature`.

    'logexp' takes the ratio [k' sinh(d/k')]/[k sinh(d/k)], which is exactly 1 where c did not change, as is rho of
    `carry`: rounding cannot wear a point away while the curvature rests at a bound.
    """
    c_old, c_new = scalar_like(c_old, x), scalar_like(c_new, x)
    k_old, k_new = c_old.rsqrt(), c_new.rsqrt()
    if mode == "scale":
        return k_new / k_old * x, [k_new / k_old * v for v in vectors]
    distance = k_old * (x.norm(dim=-1, keepdim=True).clamp_min(TINY) / k_old).asinh()
    y = x * ((k_new * (distance / k_new).sinh()) / (k_old * (distance / k_old).sinh()))
    return y, carry(x, y, vectors, c_old=c_old, c_new=c_new)

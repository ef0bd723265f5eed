"""The Poincare ball of sectional curvature -c: points p with c |p|^2 < 1, metric (2 / (1 - c |p|^2))^2 |dp|^2.

The names and conventions are those of `lorentz`, to which `isometry` maps at the same c. Distances from the origin are
2/sqrt(c) atanh(sqrt(c) |p|): a tangent vector v at the origin has length 2 |v|. Nothing is clamped but by `proj`, and
by `within_ball` the points that rounding would put on the edge or beyond.

Every formula uses the gaps 1 - c |p|^2 and the difference p - q, never the printed Moebius sums, whose numerator and
denominator both vanish near the edge. What remains is what the coordinates hold: a float32 point at distance d has its
gap, about 4 exp(-sqrt(c) d), with an absolute error of 6e-8.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from hyplearn.geometry import lorentz
from hyplearn.geometry.centring import centring_operator
from hyplearn.geometry.isometry import lorentz_to_poincare, poincare_to_lorentz
from hyplearn.geometry.lorentz import CurvatureMove, check_mode, d_max, limit_and_rate, reduced
from hyplearn.geometry.numerics import (
    asinhc,
    atanhc,
    distance_norm,
    dot,
    in_single_precision,
    of_one_type,
    scalar_like,
    shortened,
    squared_norm,
    tanhc,
    vector_norm,
    within_ball,
)
from hyplearn.geometry.pairwise import distance_operator
from hyplearn.regions import region


def _gap(x: Tensor, c: Tensor) -> Tensor:
    """1 - c |x|^2, (..., 1)."""
    return 1 - c * squared_norm(x)


@in_single_precision
def conformal_factor(x: Tensor, *, c: Tensor | float, keepdim: bool = False) -> Tensor:
    """lambda = 2 / (1 - c |x|^2). (..., n) to (...)."""
    return reduced(2 / _gap(x, scalar_like(c, x)), keepdim)


@of_one_type
def proj(x: Tensor, *, c: Tensor | float, x_t_max: float | None = None) -> Tensor:
    """The nearest point within d_max (Bdeir Eq. 1) of the origin: |x| at most tanh(sqrt(c) d_max/2)/sqrt(c)."""
    c = scalar_like(c, x)
    radius = (c.sqrt() * d_max(c=c, dtype=x.dtype, x_t_max=x_t_max) / 2).tanh() * c.rsqrt()
    return shortened(x, vector_norm(x, keepdim=True), radius)


# Distances


def _half_sinh_squared(x: Tensor, y: Tensor, c: Tensor) -> Tensor:
    """sinh^2(d sqrt(c)/2) = c |x - y|^2 / ((1 - c |x|^2)(1 - c |y|^2)), (..., 1)."""
    return c * squared_norm(x - y) / (_gap(x, c) * _gap(y, c))


@in_single_precision
def dist(x: Tensor, y: Tensor, *, c: Tensor | float, keepdim: bool = False) -> Tensor:
    """Geodesic distance, 2/sqrt(c) asinh(sqrt(c) |x - y| / sqrt((1 - c |x|^2)(1 - c |y|^2))). Gradient 0 at x = y."""
    c = scalar_like(c, x)
    w = _half_sinh_squared(x, y, c)
    return reduced(2 * distance_norm(x - y) * asinhc(w) * (_gap(x, c) * _gap(y, c)).rsqrt(), keepdim)


@in_single_precision
def dist0(x: Tensor, *, c: Tensor | float, keepdim: bool = False) -> Tensor:
    """Distance to the origin, 2/sqrt(c) atanh(sqrt(c) |x|). (..., n) to (...)."""
    c = scalar_like(c, x)
    return reduced(2 * distance_norm(x) * atanhc(c * squared_norm(x)), keepdim)


def _factors(w: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """f = 2/(1 - w), t = x_t/k = (1 + w)/(1 - w) = f - 1 of w = c |p|^2, and their slopes. See `centring`."""
    f = 2 / (1 - w)
    return f, f - 1, f.square() / 2, f.square() / 2


_cdist = distance_operator(
    "poincare_cdist",
    features=partial(
        lorentz.distance_features,
        to_lorentz=poincare_to_lorentz,
        centred=centring_operator("poincare_centred", _factors),
    ),
    near=lambda x, y, c: 2 * _half_sinh_squared(x, y, c).squeeze(-1),
    direct=lambda x, y, c: dist(x, y, c=c),
)


@in_single_precision
def cdist(x: Tensor, y: Tensor, *, c: Tensor | float) -> Tensor:
    """All pairwise distances, as accurate as `dist`; see `pairwise`. (..., N, n), (..., M, n) to (..., N, M)."""
    return _cdist(x, y, scalar_like(c, x))


# Tangent vectors


@in_single_precision
def inner(u: Tensor, v: Tensor, x: Tensor, *, c: Tensor | float, keepdim: bool = False) -> Tensor:
    """Riemannian inner product at x, lambda^2 u.v. (..., n) x 3 to (...)."""
    return reduced(conformal_factor(x, c=c, keepdim=True).square() * dot(u, v), keepdim)


@in_single_precision
def norm(u: Tensor, x: Tensor, *, c: Tensor | float, keepdim: bool = False) -> Tensor:
    """Riemannian norm of u at x, lambda |u|, gradient 0 at u = 0. (..., n), (..., n) to (...)."""
    return reduced(conformal_factor(x, c=c, keepdim=True) * vector_norm(u, keepdim=True), keepdim)


@in_single_precision
def egrad2rgrad(x: Tensor, g: Tensor, *, c: Tensor | float) -> Tensor:
    """Riemannian gradient from the gradient g of the coordinates: g / lambda^2, the inverse metric."""
    return g * (_gap(x, scalar_like(c, x)) / 2).square()


@in_single_precision
def transp(x: Tensor, y: Tensor, v: Tensor, *, c: Tensor | float) -> Tensor:
    """Parallel transport of v from x to y: gyr[y, -x] v lambda_x / lambda_y.

    Ungar's closed form of the gyration in terms of e = y - x, so that it tends to v as y tends to x without cancelling.
    """
    c = scalar_like(c, x)
    e, gap_x, gap_y = y - x, _gap(x, c), _gap(y, c)
    e_v, x_v, square = dot(e, v), dot(x, v), squared_norm(e)
    along_e = c.square() * (2 * dot(x, e) * x_v - squared_norm(x) * e_v) - c * gap_x * x_v
    along_x = c * gap_x * e_v - c.square() * square * x_v
    turned = v + 2 * (along_e * e + along_x * x) / (gap_x * gap_y + c * square)
    return turned * gap_y / gap_x


@in_single_precision
def transp0(y: Tensor, v: Tensor, *, c: Tensor | float) -> Tensor:
    """Parallel transport of v from the origin to y: (1 - c |y|^2) v."""
    return _gap(y, scalar_like(c, y)) * v


@in_single_precision
def transp0back(x: Tensor, v: Tensor, *, c: Tensor | float) -> Tensor:
    """Parallel transport of v from x to the origin: v / (1 - c |x|^2)."""
    return v / _gap(x, scalar_like(c, x))


# Moebius addition, exponential and logarithm


@of_one_type
def mobius_add(x: Tensor, y: Tensor, *, c: Tensor | float) -> Tensor:
    """x (+) y, the printed ((1 + 2c x.y + c |y|^2) x + (1 - c |x|^2) y) / (1 + 2c x.y + c^2 |x|^2 |y|^2).

    With s = x + y, numerator (1 - c |x|^2) s + c |s|^2 x and denominator (1 - c |x|^2)(1 - c |y|^2) + c |s|^2.
    """
    c = scalar_like(c, x)
    total, gap = x + y, _gap(x, c)
    square = c * squared_norm(total)
    return within_ball((gap * total + square * x) / (gap * _gap(y, c) + square), c)


@of_one_type
def boost(x: Tensor, b: Tensor, *, c: Tensor | float) -> Tensor:
    """The isometry that moves the origin to b along their geodesic: b (+) x. Its inverse is the boost by -b."""
    return mobius_add(b, x, c=c)


@of_one_type
@region
def expmap0(v: Tensor, *, c: Tensor | float) -> Tensor:
    """Exponential map at the origin, tanh(sqrt(c) |v|) v / (sqrt(c) |v|): at distance 2 |v|. Smooth at v = 0."""
    c = scalar_like(c, v)
    return within_ball(tanhc(c * squared_norm(v)) * v, c)


@in_single_precision
@region
def logmap0(x: Tensor, *, c: Tensor | float) -> Tensor:
    """Logarithm at the origin, atanh(sqrt(c) |x|) x / (sqrt(c) |x|). Smooth at x = 0."""
    c = scalar_like(c, x)
    return atanhc(c * squared_norm(x)) * x


@of_one_type
def expmap(x: Tensor, v: Tensor, *, c: Tensor | float) -> Tensor:
    """Exponential map at x: x (+) expmap0(lambda v / 2). (..., n), (..., n) to (..., n)."""
    c = scalar_like(c, x)
    return mobius_add(x, expmap0(v / _gap(x, c), c=c), c=c)


@in_single_precision
def logmap(x: Tensor, y: Tensor, *, c: Tensor | float) -> Tensor:
    """Logarithm of y at x: (1 - c |x|^2) logmap0((-x) (+) y). (..., n), (..., n) to (..., n).

    w = (-x) (+) y has c |w|^2 = t/(1 + t) with t = sinh^2(d sqrt(c)/2), which needs no 1 - c |w|^2.
    """
    c = scalar_like(c, x)
    t = _half_sinh_squared(x, y, c)
    return _gap(x, c) * asinhc(t) * (1 + t).sqrt() * mobius_add(-x, y, c=c)


@of_one_type
def centroid(x: Tensor, *, c: Tensor | float, weights: Tensor | None = None, dim: int | tuple[int, ...] = -2) -> Tensor:
    """Weighted gyromidpoint, the Lorentzian centroid seen in the ball. Arguments as in `lorentz.centroid`."""
    return lorentz_to_poincare(lorentz.centroid(poincare_to_lorentz(x, c=c), c=c, weights=weights, dim=dim), c=c)


# Radial maps: rescaling and moves between curvatures


@of_one_type
def rescale0(v: Tensor, *, c: Tensor | float, s: float, x_t_max: float | None = None) -> Tensor:
    """Maximum distance rescaling of a tangent vector at 0: its length d = 2 |v| to D tanh(r d) (Bdeir Eqs. 2-3)."""
    return lorentz.rescale0(2 * v, c=c, s=s, x_t_max=x_t_max) / 2


@of_one_type
def rescale(x: Tensor, *, c: Tensor | float, s: float, x_t_max: float | None = None) -> Tensor:
    """Maximum distance rescaling of a point: distance to the origin d to D tanh(r d) (Bdeir Eqs. 2-3)."""
    c = scalar_like(c, x)
    limit, rate = limit_and_rate(c, s, x_t_max)
    square = squared_norm(x)
    stretch = 2 * atanhc(c * square)  # d / |x|
    stretch = stretch * limit * rate * tanhc(rate.square() * square * stretch.square()) / 2  # d' / (2 |x|)
    return within_ball(tanhc(c * square * stretch.square()) * stretch * x, c)


@of_one_type
def change_curvature(
    x: Tensor, *, c_old: Tensor | float, c_new: Tensor | float, mode: CurvatureMove = "logexp"
) -> Tensor:
    """Move a point from curvature -c_old to -c_new (Bdeir Algorithm 1); modes as in `lorentz.change_curvature`."""
    check_mode(mode)
    c_old, c_new = scalar_like(c_old, x), scalar_like(c_new, x)
    if mode == "scale":
        return (c_old / c_new).sqrt() * x
    return expmap0(logmap0(x, c=c_old), c=c_new)


@in_single_precision
def change_curvature_tangent(
    x: Tensor, v: Tensor, *, c_old: Tensor | float, c_new: Tensor | float, mode: CurvatureMove = "logexp"
) -> Tensor:
    """Move a tangent vector at x (a point of curvature -c_old) along with the point; 'logexp' keeps its norm."""
    check_mode(mode)
    c_old, c_new = scalar_like(c_old, x), scalar_like(c_new, x)
    if mode == "scale":
        return (c_old / c_new).sqrt() * v
    moved = change_curvature(x, c_old=c_old, c_new=c_new)
    return transp0(moved, transp0back(x, v, c=c_old), c=c_new)


@in_single_precision
@region
def mlr(x: Tensor, z: Tensor, a: Tensor, *, c: Tensor | float) -> Tensor:
    """Logits of unidirectional Poincare multinomial logistic regression (Shimizu et al.).

    2 |z|/sqrt(c) asinh((2 sqrt(c) x.e cosh(2 sqrt(c) a) - (1 + c |x|^2) sinh(2 sqrt(c) a)) / (1 - c |x|^2)), e = z/|z|.
    x: (..., n), z: (classes, n), a: (classes,), half the distance of the hyperplane. Returns (..., classes), which are
    2 lorentz.mlr(x, z, 2 a) of the same point.
    """
    c = scalar_like(c, x)
    root = c.sqrt()
    direction = torch.nn.functional.normalize(z, dim=-1)
    towards = 2 * root * (x @ direction.mT) * torch.cosh(2 * root * a)
    away = (1 + c * squared_norm(x)) * torch.sinh(2 * root * a)
    return 2 / root * vector_norm(z) * torch.asinh((towards - away) / _gap(x, c))

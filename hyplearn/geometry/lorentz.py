"""The hyperboloid of sectional curvature -c in space coordinates (Bdeir Section 3.1 with K = 1/c).

A point is its space part x, (..., n); its time x_t = sqrt(1/c + |x|^2) is derived, so every tensor is a point for every
c > 0. A tangent vector at x is its space part v, (..., n), with v_t = x.v / x_t. k = 1/sqrt(c) is the radius. c is a
keyword, a 0-dim tensor or a number. Points and vectors broadcast against each other; the manifold dimension is last.

No formula below subtracts two large numbers to get a small one: the Lorentz square of a difference and the metric are
written as sums of squares (`squared_chord`, `inner`). Nothing is clamped; callers keep radii within `d_max`. No
product along the way is larger than about the square of a time, so that nothing overflows before that square does, at
a radius, and a radius over k, of 1e18 in float32: ratios are formed first.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from hyplearn.geometry.centring import Centred, centring_operator
from hyplearn.geometry.numerics import (
    asinhc,
    check_any,
    coshm1c,
    distance_norm,
    dot,
    in_single_precision,
    of_one_type,
    safe_sqrt,
    scalar_like,
    sinhc,
    squared_norm,
    tanhc,
    vector_norm,
)
from hyplearn.geometry.pairwise import distance_operator
from hyplearn.regions import region

CurvatureMove = Literal["logexp", "scale"]

# Largest time that keeps x_t^2 - |x|^2 distinct from 0 with a factor of two to spare at c = 1. float64 and float32 as
# Bdeir states them, the half types by the same rule.
X_T_MAX = {torch.float64: 1e8, torch.float32: 2e3, torch.float16: 22.0, torch.bfloat16: 8.0}

# f(s D) = TIGHT_SHARE * D: the share of the limit that the tightness s refers to (Bdeir Eq. 3).
TIGHT_SHARE = 0.99

# 1 - (x_t - y_t)^2 / |x + y|^2, about 4 y_t/x_t, from which on down `cosh_minus_one` would lose too many digits. Points
# within d_max of the origin, in float32, do not come so far apart.
UNEVEN = 1e-3

# About as many points of each set give the midst from which pairwise distances are seen.
SAMPLE = 128


def reduced(value: Tensor, keepdim: bool) -> Tensor:
    return value if keepdim else value.squeeze(-1)


@in_single_precision
def time(x: Tensor, *, c: Tensor | float, keepdim: bool = False) -> Tensor:
    """x_t = sqrt(1/c + |x|^2). (..., n) to (...), or (..., 1) with keepdim."""
    c = scalar_like(c, x)
    return reduced((squared_norm(x) + 1 / c).sqrt(), keepdim)


@in_single_precision
def to_ambient(x: Tensor, *, c: Tensor | float) -> Tensor:
    """Time first: (..., n) to (..., n + 1), the form of geoopt and of nearest-neighbour search."""
    return torch.cat([time(x, c=c, keepdim=True), x], dim=-1)


def from_ambient(x: Tensor) -> Tensor:
    """Drop the time: (..., n + 1) to (..., n), for points and for tangent vectors."""
    return x[..., 1:]


# Distances


@in_single_precision
def squared_chord(x: Tensor, y: Tensor, *, c: Tensor | float) -> Tensor:
    """|x - y|_L^2 = |x - y|^2 - (x_t - y_t)^2 = 4/c sinh^2(d sqrt(c)/2), (..., 1), as a sum of squares.

    With h = (x_t - y_t)/(x_t + y_t) the vector w = (x - y) - h (x + y) has no time, so that
    |x - y|_L^2 = (|w|^2 + 4 h^2/c) / (1 - h^2), and 1 - h^2 = 4 x_t y_t/(x_t + y_t)^2. The printed difference loses
    everything for far points on one ray; here rounding enters squared. w itself is (1 - h)(x - y) - 2 h y, where
    1 - h = 2 y_t/(x_t + y_t), if y is nearer to the origin, and the same with x and y exchanged if not. Both forms hold
    for every h, so one test of h decides, and values and gradients do not depend on how a tie is rounded.
    """
    c = scalar_like(c, x)
    x_t, y_t = time(x, c=c, keepdim=True), time(y, c=c, keepdim=True)
    difference, total_t = x - y, x_t + y_t
    h = dot(difference, x + y) / total_t.square()
    y_nearer = h > 0
    w = 2 * torch.where(y_nearer, y_t, x_t) / total_t * difference - 2 * h * torch.where(y_nearer, y, x)
    return (squared_norm(w) + 4 / c * h.square()) * (total_t / (2 * x_t)) * (total_t / (2 * y_t))


@in_single_precision
def dist(x: Tensor, y: Tensor, *, c: Tensor | float, keepdim: bool = False) -> Tensor:
    """Geodesic distance, 2k asinh(|x - y|_L / 2k). Gradient 0 at coincident points. (..., n), (..., n) to (...)."""
    c = scalar_like(c, x)
    chord = squared_chord(x, y, c=c)
    return reduced(safe_sqrt(chord) * asinhc(c * chord / 4), keepdim)


@in_single_precision
def dist0(x: Tensor, *, c: Tensor | float, keepdim: bool = False) -> Tensor:
    """Distance to the origin, k asinh(|x|/k). (..., n) to (...)."""
    c = scalar_like(c, x)
    return reduced(distance_norm(x) * asinhc(c * squared_norm(x)), keepdim)


def distance_rows(x: Tensor, c: Tensor) -> Tensor:
    """What x brings to cosh(d/k) - 1 = c (x_t y_t - 1/c - x.y), a product of rows and columns: (N, n) to (N, n + 3).

    x_t y_t - 1/c = k a + k b + a b with a = x_t - k = |x|^2/(x_t + k), b likewise: exact near the origin too.
    """
    k = c.rsqrt()
    a = squared_norm(x) / (time(x, c=c, keepdim=True) + k)
    return c * torch.cat([x, k * a, a, torch.ones_like(a)], dim=-1)


def distance_columns(y: Tensor, c: Tensor) -> Tensor:
    """What y brings, see `distance_rows`: (M, n) to (M, n + 3)."""
    k = c.rsqrt()
    b = squared_norm(y) / (time(y, c=c, keepdim=True) + k)
    return torch.cat([-y, torch.ones_like(b), b, k * b], dim=-1)


def _factors(w: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """f = 1, t = x_t/k = sqrt(1 + w) of w = c |x|^2, and their slopes. See `centring`."""
    t = (1 + w).sqrt()
    return torch.ones_like(w), t, torch.zeros_like(w), 1 / (2 * t)


def distance_features(
    x: Tensor, y: Tensor, c: Tensor, *, to_lorentz: Callable[..., Tensor], centred: Centred
) -> tuple[Tensor, Tensor]:
    """Rows of x (B, N, n) and columns of y (B, M, n) as seen from their midst, the centroid of a sample of both.

    Seen from anywhere, for every c, distances are the same, so that the midst counts as constant; it is the origin if a
    point is not finite, which must not spoil the distances of others. In float64, with no wider type to see them in,
    centring would cost far points digits: they stay. to_lorentz(x, c=c) and centred are those of the model of x and y.
    """
    if x.dtype == torch.float64:
        x, y = to_lorentz(x, c=c), to_lorentz(y, c=c)
    else:
        sample = torch.cat([t.detach()[:, :: max(1, t.shape[1] // SAMPLE)] for t in (x, y)], dim=1).double()
        m = centroid(to_lorentz(sample, c=c.detach()), c=c.detach()).unsqueeze(1).nan_to_num(0.0, 0.0, 0.0)
        same = y is x
        x = centred(x, m, c)
        y = x if same else centred(y, m, c)
    return distance_rows(x, c), distance_columns(y, c)


def cosh_minus_one(x: Tensor, y: Tensor, c: Tensor) -> Tensor:
    """cosh(d/k) - 1 = c/2 |x - y|_L^2 of close pairs: (P, n), (P, n) to (P,). Half the work of `squared_chord`.

    Split e = x - y into b s along s = x + y and q across it: |x - y|_L^2 = |q|^2 + |b s|^2 (1 - |s|^2/(x_t + y_t)^2),
    where (x_t + y_t)^2 - |s|^2 = 4/c + |x - y|_L^2; solved for the chord, no term is the difference of large ones but
    where one time is thousands of the other: such a pair, close only beside the spread of all, gets `squared_chord`.
    """
    e, s = x - y, x + y
    along, s_square = (e * s).sum(-1), s.square().sum(-1)
    b = along / torch.where(s_square > 0, s_square, 1.0)
    q_square = torch.addcmul(e, -b.unsqueeze(-1), s).square().sum(-1)
    t = b * along / (time(x, c=c) + time(y, c=c)).square()
    uneven = 1 - t < UNEVEN
    if not uneven.any():
        return (c / 2 * q_square + 2 * t) / (1 - t)
    even = (c / 2 * q_square + 2 * t) / torch.where(uneven, 1.0, 1 - t)
    return torch.where(uneven, c / 2 * squared_chord(x, y, c=c).squeeze(-1), even)


_cdist = distance_operator(
    "lorentz_cdist",
    features=partial(
        distance_features, to_lorentz=lambda x, c: x, centred=centring_operator("lorentz_centred", _factors)
    ),
    near=cosh_minus_one,
    direct=lambda x, y, c: dist(x, y, c=c),
)


@in_single_precision
def cdist(x: Tensor, y: Tensor, *, c: Tensor | float) -> Tensor:
    """All pairwise geodesic distances, as accurate as `dist`. (..., N, n), (..., M, n) to (..., N, M).

    One matrix product, and the close pairs from their difference; see `pairwise`. Differentiable once.
    """
    return _cdist(x, y, scalar_like(c, x))


# Tangent vectors


def _split(v: Tensor, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """v = h x + r with h = v_t/x_t, (..., 1), so that the tangent vector is h times the point plus an r without time.

    For a radial v far out r is its (k/x_t)^2th part. Its component along x is therefore set once more, from x.r = h/c.
    """
    x_t_squared = squared_norm(x) + 1 / c
    h = dot(x, v) / x_t_squared
    r = v - h * x
    return r + (h / c - dot(x, r)) / x_t_squared * x, h


@in_single_precision
def inner(u: Tensor, v: Tensor, x: Tensor, *, c: Tensor | float, keepdim: bool = False) -> Tensor:
    """Riemannian inner product at x, u.v - u_t v_t. (..., n) x 3 to (...).

    Written r_u.r_v + h_u h_v/c with u = h_u x + r_u, v = h_v x + r_v: the same without cancellation for radial vectors.
    """
    c = scalar_like(c, x)
    (r_u, h_u), (r_v, h_v) = _split(u, x, c), _split(v, x, c)
    return reduced(dot(r_u, r_v) + h_u * h_v / c, keepdim)


@in_single_precision
def norm(u: Tensor, x: Tensor, *, c: Tensor | float, keepdim: bool = False) -> Tensor:
    """Riemannian norm of u at x, gradient 0 at u = 0. (..., n), (..., n) to (...)."""
    return reduced(safe_sqrt(inner(u, u, x, c=c, keepdim=True)), keepdim)


@in_single_precision
def egrad2rgrad(x: Tensor, g: Tensor, *, c: Tensor | float) -> Tensor:
    """Riemannian gradient from the gradient g of the space coordinates: g + c (x.g) x, the inverse metric."""
    c = scalar_like(c, x)
    return g + c * dot(x, g) * x


@in_single_precision
def transp(x: Tensor, y: Tensor, v: Tensor, *, c: Tensor | float) -> Tensor:
    """Parallel transport of v from x to y along the geodesic: v + <y,v>_L / (1/c - <x,y>_L) (x + y), space part.

    With v = h x + r and q = |x - y|_L^2: <y,v>_L = (y - x).r - h q/2 and 1/c - <x,y>_L = 2/c + q/2; terms collected by
    x and y.
    """
    c = scalar_like(c, x)
    r, h = _split(v, x, c)
    q, along = squared_chord(x, y, c=c), dot(y - x, r)
    whole = 2 / c + q / 2
    return r + (along + 2 / c * h) / whole * x + (along - h * q / 2) / whole * y


@in_single_precision
def transp0(y: Tensor, v: Tensor, *, c: Tensor | float) -> Tensor:
    """Parallel transport of v from the origin to y: v + y (y.v) / (k (k + y_t))."""
    c = scalar_like(c, y)
    k = c.rsqrt()
    return v + dot(y, v) / (k * (k + time(y, c=c, keepdim=True))) * y


@in_single_precision
def transp0back(x: Tensor, v: Tensor, *, c: Tensor | float) -> Tensor:
    """Parallel transport of v from x to the origin: v - x v_t / (k + x_t), which is r + h k/(k + x_t) x."""
    c = scalar_like(c, x)
    r, h = _split(v, x, c)
    k = c.rsqrt()
    return r + h * k / (k + time(x, c=c, keepdim=True)) * x


# Exponential and logarithm


@in_single_precision
@region
def expmap0(v: Tensor, *, c: Tensor | float) -> Tensor:
    """Exponential map at the origin, k sinh(|v|/k) v/|v|. Smooth at v = 0. (..., n) to (..., n)."""
    c = scalar_like(c, v)
    return sinhc(c * squared_norm(v)) * v


@in_single_precision
@region
def logmap0(x: Tensor, *, c: Tensor | float) -> Tensor:
    """Logarithm at the origin, k asinh(|x|/k) x/|x|. Smooth at x = 0. (..., n) to (..., n)."""
    c = scalar_like(c, x)
    return asinhc(c * squared_norm(x)) * x


@in_single_precision
def expmap(x: Tensor, v: Tensor, *, c: Tensor | float) -> Tensor:
    """Exponential map at x: cosh(a) x + sinh(a)/a v with a = |v|_x / k. (..., n), (..., n) to (..., n).

    With v = h x + r: a^2 = c |r|^2 + h^2, and the factor of x is g = cosh(a) + h sinh(a)/a, for h < 0 (towards the
    origin) taken as (1 + c |r|^2 sinh(a)^2/a^2) / (cosh(a) - h sinh(a)/a), the same without the difference.
    """
    c = scalar_like(c, x)
    r, h = _split(v, x, c)
    square = c * squared_norm(r)
    a_squared = square + h.square()
    sinh, cosh = sinhc(a_squared), 1 + a_squared * coshm1c(a_squared)
    total = cosh + h.abs() * sinh
    inward = 1 / total + square * sinh * (sinh / total)
    return torch.where(h < 0, inward, cosh + h * sinh) * x + sinh * r


@in_single_precision
def logmap(x: Tensor, y: Tensor, *, c: Tensor | float) -> Tensor:
    """Logarithm of y at x: a/sinh(a) (y - cosh(a) x) with a = d(x, y)/k. (..., n), (..., n) to (..., n).

    From w = sinh^2(a/2): cosh(a) = 1 + 2w and a/sinh(a) = asinhc(w)/sqrt(1 + w), smooth at y = x. w x is never formed.
    """
    c = scalar_like(c, x)
    w = c * squared_chord(x, y, c=c) / 4
    cosh, angle = (1 + w).sqrt(), asinhc(w)  # cosh(a/2)
    return angle / cosh * (y - x) - 2 * angle * (w / cosh) * x


@in_single_precision
def boost(x: Tensor, b: Tensor, *, c: Tensor | float) -> Tensor:
    """The isometry that moves the origin to b along their geodesic; its inverse is the boost by -b.

    y_t = (b_t x_t + b.x)/k is the cosine of d(x, -b), so it comes from that chord; y = x + b (x_t + y_t)/(b_t + k).
    x: (..., n), b: broadcasts against x. Bdeir Section 3.3, in rapidity form.
    """
    c = scalar_like(c, x)
    k = c.rsqrt()
    y_t = k + squared_chord(x, -b, c=c) / (2 * k)
    return x + (time(x, c=c, keepdim=True) + y_t) / (time(b, c=c, keepdim=True) + k) * b


@in_single_precision
@region
def centroid(x: Tensor, *, c: Tensor | float, weights: Tensor | None = None, dim: int | tuple[int, ...] = -2) -> Tensor:
    """Weighted Lorentzian centroid, k m / sqrt(m_t^2 - |m|^2) with m = sum w x (Bdeir Section 3.1, sign corrected).

    x: (..., N, n) reduced over dim, which must not be the last. weights: broadcasts against x without its last
    dimension, not negative, with a positive sum; only their ratios count.

    With p the point above the mean space part and q the mean of |x - p|_L^2, m_t^2 - |m|^2 = 1/c + q + q^2/(4 p_t^2):
    a sum of positive terms, where the difference of squares has no digit left for far points.
    """
    check_any(x, dim)
    c = scalar_like(c, x)
    if weights is None:
        mean = x.mean(dim, keepdim=True)
        q = squared_chord(x, mean, c=c).mean(dim, keepdim=True)
    else:
        share = weights.unsqueeze(-1).expand(*x.shape[:-1], 1)
        share = share / share.sum(dim, keepdim=True)
        mean = (share * x).sum(dim, keepdim=True)
        q = (share * squared_chord(x, mean, c=c)).sum(dim, keepdim=True)
    scale = (1 + c * (q + (q / (2 * time(mean, c=c, keepdim=True))).square())).rsqrt()
    return (mean * scale).squeeze(dim)


# Radial maps: rescaling and moves between curvatures


def d_max(*, c: Tensor | float, dtype: torch.dtype = torch.float32, x_t_max: float | None = None) -> Tensor:
    """Largest distance to the origin, k arccosh(x_t_max / k), 0-dim of `dtype`, without gradient (Bdeir Eq. 1).

    x_t_max defaults to X_T_MAX[dtype] and must exceed k, the time of the origin; otherwise the result is NaN.
    """
    c = torch.as_tensor(c, dtype=dtype).detach()
    return torch.acosh(c.sqrt() * (X_T_MAX[dtype] if x_t_max is None else x_t_max)) * c.rsqrt()


def limit_and_rate(c: Tensor, s: float, x_t_max: float | None) -> tuple[Tensor, Tensor]:
    """D and r of Eq. 3. r = atanh(0.99)/(s D) reaches 0.99 D at s D; the printed atanh(0.99/(s D)) does not."""
    if not s > 0:
        raise ValueError(f"s={s} must be > 0: it is the tightness of Bdeir Eq. (3), 2 in the paper")
    limit = d_max(c=c, dtype=c.dtype, x_t_max=x_t_max)
    return limit, math.atanh(TIGHT_SHARE) / (s * limit)


@of_one_type
@region
def rescale0(v: Tensor, *, c: Tensor | float, s: float, x_t_max: float | None = None) -> Tensor:
    """Maximum distance rescaling of a vector: norm d to D tanh(r d), at most D (Bdeir Eqs. 2-3).

    v: (..., n), a tangent vector at the origin or Euclidean features. s > 0: norms up to s D stay distinct. The slope
    at 0 is 2.647/s, so s = 2 makes short vectors longer, and the map must not be applied twice.
    """
    limit, rate = limit_and_rate(scalar_like(c, v), s, x_t_max)
    return limit * rate * tanhc(rate.square() * squared_norm(v)) * v


@of_one_type
def rescale(x: Tensor, *, c: Tensor | float, s: float, x_t_max: float | None = None) -> Tensor:
    """Maximum distance rescaling of a point: distance to the origin d to D tanh(r d) (Bdeir Eqs. 2-3).

    Equal to expmap0(rescale0(logmap0(x))), as one factor per point. x: (..., n). s as in `rescale0`.
    """
    c = scalar_like(c, x)
    limit, rate = limit_and_rate(c, s, x_t_max)
    square = squared_norm(x)
    stretch = asinhc(c * square)  # d / |x|
    stretch = stretch * limit * rate * tanhc(rate.square() * square * stretch.square())  # d' / |x|
    return sinhc(c * square * stretch.square()) * stretch * x


def check_mode(mode: str) -> None:
    if mode not in ("logexp", "scale"):
        raise ValueError(f"mode={mode!r} must be 'logexp' (keeps d(x, 0), Bdeir Algorithm 1) or 'scale' (keeps d/k)")


@in_single_precision
def change_curvature(
    x: Tensor, *, c_old: Tensor | float, c_new: Tensor | float, mode: CurvatureMove = "logexp"
) -> Tensor:
    """Move a point from curvature -c_old to -c_new (Bdeir Algorithm 1). (..., n) to (..., n).

    'logexp' keeps distance and direction to the origin, through the tangent space shared by all c; 'scale' is the
    homothety sqrt(c_old/c_new) x, which multiplies all distances by that factor.
    """
    check_mode(mode)
    c_old, c_new = scalar_like(c_old, x), scalar_like(c_new, x)
    if mode == "scale":
        return (c_old / c_new).sqrt() * x
    return expmap0(logmap0(x, c=c_old), c=c_new)


@in_single_precision
def change_curvature_tangent(
    x: Tensor, v: Tensor, *, c_old: Tensor | float, c_new: Tensor | float, mode: CurvatureMove = "logexp"
) -> Tensor:
    """Move a tangent vector at x (a point of curvature -c_old) along with `change_curvature`.

    'logexp': parallel transport to the origin with c_old, out to the moved point with c_new; keeps the norm.
    """
    check_mode(mode)
    c_old, c_new = scalar_like(c_old, x), scalar_like(c_new, x)
    if mode == "scale":
        return (c_old / c_new).sqrt() * v
    moved = change_curvature(x, c_old=c_old, c_new=c_new)
    return transp0(moved, transp0back(x, v, c=c_old), c=c_new)


@in_single_precision
@region
def mlr(x: Tensor, z: Tensor, a: Tensor, *, c: Tensor | float) -> Tensor:
    """Logits of Lorentz multinomial logistic regression. (..., n), (classes, n), (classes,) to (..., classes).

    |z| times the signed distance from x to the hyperplane of class (z, a): k |z| asinh(alpha / (k |z|)) with
    alpha = cosh(a/k) z.x - sinh(a/k) |z| x_t. No sign and no absolute value, so the gradient exists at alpha = 0.
    """
    c = scalar_like(c, x)
    root = c.sqrt()
    direction = torch.nn.functional.normalize(z, dim=-1)
    alpha = torch.cosh(root * a) * (x @ direction.mT) - torch.sinh(root * a) * time(x, c=c, keepdim=True)
    return vector_norm(z) * torch.asinh(root * alpha) / root

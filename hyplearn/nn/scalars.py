"""Per-position scalars of a Lorentz layer stack (the closed forms behind `fused.py`).

Between a convolution and its nonlinearity every Lorentz operation maps the convolution's output `y` at one position to
`A y + S v` with scalars A, S of that position and a few vectors v shared by all positions. The functions here compute
those scalars from squared norms and dot products alone, elementwise, in float32 or better. The layers (`conv.py`,
`batchnorm.py`, ...) state the same operations point by point.

Everything here is in units of the hyperboloid's radius k = 1/sqrt(c): a point x stands as x/k on the hyperboloid of
curvature -1, with q = |x|^2 / k^2 = c |x|^2 and time sqrt(1 + q). Ratios of lengths, which is what A and S are, are the
same in all units; c appears in the conversion of the inputs alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hyplearn.nn import monitor
from hyplearn.nn.processes import total

ATANH_LIMIT = math.atanh(0.99)  # Bdeir Eq. (3): the share of d_max that the distance s * d_max is mapped to


@dataclass(frozen=True)
class Limits:
    """Maximum-distance rescaling at the present curvature: `d -> d_max tanh(r d)`, Bdeir Eqs. (1)-(3), in units of k.

    Computed from the detached curvature, so that no gradient reaches c through the limit itself.
    """

    d_max: Tensor
    r: Tensor
    t_max: Tensor

    @classmethod
    def of(cls, c: Tensor, *, s: float, x_t_max: float) -> Limits:
        t_max = x_t_max * c.detach().sqrt()
        d_max = torch.acosh(t_max)
        return cls(d_max=d_max, r=ATANH_LIMIT / (s * d_max), t_max=t_max)


# ------------------------------------------------------------------------------------------------- radial factors
# Each gives the factor f(q) of a radial map and, where a gradient is wanted, f'(q), both from the same few
# intermediates: autograd through the elementary functions would cost four times as many operations.

Pair = tuple[Tensor, Tensor | None]


def _floored(q: Tensor) -> Tensor:
    """q, never 0: a floor below the resolution of 1 keeps every ratio finite and its limit at 0 exact."""
    return q + torch.finfo(q.dtype).eps ** 2


def _asinh_root(q: Tensor, rho: Tensor, t: Tensor) -> Tensor:
    """asinh(sqrt(q)) from rho = sqrt(q), t = sqrt(1 + q); torch does not vectorise asinh on the CPU."""
    return torch.log1p(rho + q / (1 + t))


def _rescale(q: Tensor, want_slope: bool, limits: Limits) -> Pair:
    q = _floored(q)
    rho, t = torch.sqrt(q), torch.sqrt(1 + q)
    share = torch.tanh(limits.r * _asinh_root(q, rho, t))
    sinh = torch.sinh(limits.d_max * share)
    factor = sinh / rho
    if not want_slope:
        return factor, None
    rate = (limits.d_max * limits.r) * (1 - share * share) * torch.sqrt(1 + sinh * sinh)
    return factor, (rate / t - factor) / (2 * q)


def _rescale0(q: Tensor, want_slope: bool, limits: Limits) -> Pair:
    q = _floored(q)
    norm = torch.sqrt(q)
    share = torch.tanh(limits.r * norm)
    factor = limits.d_max * share / norm
    if not want_slope:
        return factor, None
    return factor, ((limits.d_max * limits.r) * (1 - share * share) - factor) / (2 * q)


def _expmap0(q: Tensor, want_slope: bool, limits: Limits) -> Pair:
    q = _floored(q)
    norm = torch.sqrt(q)
    factor = torch.sinh(norm) / norm
    return factor, (torch.cosh(norm) - factor) / (2 * q) if want_slope else None


def _logmap0(q: Tensor, want_slope: bool, limits: Limits) -> Pair:
    q = _floored(q)
    rho, t = torch.sqrt(q), torch.sqrt(1 + q)
    factor = _asinh_root(q, rho, t) / rho
    return factor, (1 / t - factor) / (2 * q) if want_slope else None


_RADIAL = {"rescale": _rescale, "rescale0": _rescale0, "expmap0": _expmap0, "logmap0": _logmap0}


class _Radial(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, kind: str, limits: Limits) -> Tensor:
        factor, slope = _RADIAL[kind](q, True, limits)
        ctx.save_for_backward(slope)
        return factor

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        (slope,) = ctx.saved_tensors
        return g * slope, None, None


def radial_factor(q: Tensor, kind: str, limits: Limits) -> Tensor:
    """Factor by which a radial map multiplies a vector of squared norm q.

    `rescale`: maximum-distance rescaling of a point, `sinh(d_max tanh(r d)) / |x|`. `rescale0`: of a tangent vector at
    the origin, `d_max tanh(r n) / n` (Bdeir Eq. 2). `expmap0`, `logmap0`: exponential and logarithm at the origin.
    """
    if torch.compiler.is_compiling() or not (q.requires_grad and torch.is_grad_enabled()):
        return _RADIAL[kind](q, False, limits)[0]
    factor: Tensor = _Radial.apply(q, kind, limits)
    return factor


def scale_factor(q: Tensor, w: Tensor) -> Tensor:
    """Factor that multiplies the distance to the origin by w > 0: `sinh(w d) / |x|`."""
    q = _floored(q)
    rho, t = torch.sqrt(q), torch.sqrt(1 + q)
    return torch.sinh(w * _asinh_root(q, rho, t)) / rho


def match_factor(q_patch: Tensor, q: Tensor, eps: float) -> Tensor:
    """Norm matching of the rotation convolution: `|x_patch| / |W x_patch|` (Bdeir Section 3.3)."""
    return torch.sqrt((q_patch + eps) / (q + eps))


# -------------------------------------------------------------------------------------------- from y to the point


@dataclass(frozen=True)
class Placement:
    """How the output y of a convolution becomes a point: norm match, rescaling, boost, rescaling (Bdeir Eq. 5)."""

    match: bool = True
    eps: float = 1e-12
    rescale_before: bool = True
    boost: str = "vector"  # vector | scale | none
    rescale_after: bool = True


def place(
    q_patch: Tensor | None,
    q: Tensor,
    dot_b: Tensor | None,
    b: Tensor | None,
    limits: Limits,
    placement: Placement | None,
) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """Scalars (A, S, t) of the point `A y + S b` that the convolution output y stands for.

    q = |y|^2, q_patch = |x_patch|^2 and dot_b = y . b per position; b the boost point (or the factor of a radial
    scale). `placement=None`: y is the point itself. A or S is None where it is 1 or 0 everywhere.
    """
    if placement is None:
        return None, None, torch.sqrt(1 + q)
    if placement.match:
        assert q_patch is not None
        a = match_factor(q_patch, q, placement.eps)
        q = a * a * q
    else:
        a = torch.ones_like(q)
    if placement.rescale_before:
        a, q = _rescaled(a, q, limits)
    if placement.boost == "scale":
        assert b is not None
        factor = scale_factor(q, b)
        a, q = a * factor, factor * factor * q
    s = None
    if placement.boost == "vector":
        assert b is not None and dot_b is not None
        q_b = b.square().sum()
        b_t = torch.sqrt(1 + q_b)
        dot = a * dot_b
        s = torch.sqrt(1 + q) + dot / (1 + b_t)  # (x_t + x_t') / (1 + b_t) with x_t' = b_t x_t + x.b
        q = torch.relu(q + s * (2 * dot + s * q_b))  # |x + s b|^2; relu: rounding may leave it below 0
    if placement.rescale_after:
        factor = radial_factor(q, "rescale", limits)
        monitor.give("rescaled/conv", lambda: factor < 1)
        a, q = a * factor, factor * factor * q
        s = None if s is None else s * factor
    return a, s, torch.sqrt(1 + q)


def _rescaled(a: Tensor, q: Tensor, limits: Limits) -> tuple[Tensor, Tensor]:
    factor = radial_factor(q, "rescale", limits)
    monitor.give("rescaled/conv", lambda: factor < 1)
    return a * factor, factor * factor * q


# ----------------------------------------------------------------------------------------------------- batch norm


@dataclass(frozen=True)
class Normalization:
    """What the batch norm does besides its parameters. eps in units of the distance, not of k."""

    eps: float = 1e-5
    dispersion: str = "mean_distance"  # mean_distance | rms
    two_stage: bool = True
    rescale: bool = True
    synchronized: bool = False  # statistics over all processes

    def total(self, x: Tensor) -> Tensor:
        """Sum over processes where statistics are synchronized."""
        return total(x) if self.synchronized else x


def midpoint(space: Tensor, time: Tensor, limits: Limits) -> Tensor:
    """Lorentzian centroid from sums of points: space (..., C), time (...). Returns space coordinates (..., C).

    The squared Lorentz norm is floored at that of the farthest representable centroid, so rounding cannot turn it
    negative for points that nearly coincide close to d_max.
    """
    norm = torch.linalg.vector_norm(space, dim=-1)
    squared = (time - norm) * (time + norm)
    floor = (time.detach() / limits.t_max).square()
    return space * torch.rsqrt(torch.maximum(squared, floor)).unsqueeze(-1)


def mean_of(space: Tensor, time: Tensor, limits: Limits, normalization: Normalization) -> Tensor:
    """Centroid of a batch from the sums of each image, space (B, C) and time (B,).

    Two-stage: the centroid of the images' centroids (HCNN); otherwise the centroid of all positions.
    """
    if normalization.two_stage:
        space = midpoint(space, time, limits)
        time = torch.sqrt(1 + space.square().sum(-1))
    return midpoint(normalization.total(space.sum(0)), normalization.total(time.sum(0)), limits)


@dataclass(frozen=True)
class Rows:
    """Per-position scalars of points `x = A y + S b`: dot products of y with beta and the mean."""

    a: Tensor | None
    s: Tensor | None
    t: Tensor
    dot_beta: Tensor
    dot_mean: Tensor


def centre(
    x: Rows,
    b: Tensor | None,
    beta: Tensor,
    mean: Tensor,
    gamma: Tensor,
    eps: Tensor,
    limits: Limits,
    normalization: Normalization,
    dispersion: Tensor | None,
) -> tuple[Tensor, list[Tensor], Tensor]:
    """Batch norm of points given by scalars: log at the mean, transport to the origin, rescale, boost to beta.

    Returns (A', [S_b,] S_mean, S_beta and the dispersion) of `A' y + S_b b + S_mean mean + S_beta beta`. The
    dispersion is measured unless given.
    """
    dot_mean, dot_beta = x.dot_mean, x.dot_beta
    if x.a is not None:
        dot_mean, dot_beta = x.a * dot_mean, x.a * dot_beta
    if x.s is not None:
        assert b is not None
        dot_mean, dot_beta = dot_mean + x.s * (b @ mean), dot_beta + x.s * (b @ beta)
    mean_t = torch.sqrt(1 + mean.square().sum())
    # time after centring minus 1, from which the distance to the mean follows without arccosh near 1
    rise = torch.relu(mean_t * x.t - dot_mean - 1)
    if dispersion is None:
        dispersion = measure(distance_of(rise), normalization)
    factor, time = spread(rise, gamma / (dispersion + eps), limits, normalization.rescale)
    toward = (x.t + 1 + rise) / (1 + mean_t)  # centred point: x - toward * mean
    beta_t = torch.sqrt(1 + beta.square().sum())
    s_beta = time + factor * (dot_beta - toward * (mean @ beta)) / (1 + beta_t)
    coefficients = [] if x.s is None else [factor * x.s]
    coefficients += [-factor * toward, s_beta]
    return (factor if x.a is None else factor * x.a), coefficients, dispersion


def measure(distance: Tensor, normalization: Normalization) -> Tensor:
    """Dispersion of points from their distances to the mean."""
    amount = distance if normalization.dispersion == "mean_distance" else distance.square()
    if normalization.synchronized:
        amount = total(amount.sum()) / total(distance.new_tensor(float(distance.numel())))
    else:
        amount = amount.mean()
    return amount if normalization.dispersion == "mean_distance" else amount.sqrt()


class _Distance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rise: Tensor) -> Tensor:
        sinh = torch.sqrt(_floored(rise * (rise + 2)))
        ctx.save_for_backward(sinh)
        return torch.log1p(rise + sinh)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (sinh,) = ctx.saved_tensors
        return g / sinh


def distance_of(rise: Tensor) -> Tensor:
    """arccosh(1 + rise), without cancellation."""
    if torch.compiler.is_compiling() or not (rise.requires_grad and torch.is_grad_enabled()):
        return torch.log1p(rise + torch.sqrt(_floored(rise * (rise + 2))))
    distance: Tensor = _Distance.apply(rise)
    return distance


def _spread(
    rise: Tensor, gain: Tensor, limits: Limits, rescale: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor]:
    radius = torch.sqrt(_floored(rise * (rise + 2)))
    distance = torch.log1p(rise + radius)
    length, share = gain * distance, None
    if rescale:
        share = torch.tanh(limits.r * length)
        limited = limits.d_max * share
        monitor.give("rescaled/norm", lambda: limited < gain * distance)
        length = limited
    sinh = torch.sinh(length)
    return sinh / radius, torch.sqrt(1 + sinh * sinh), radius, distance, share, sinh


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rise: Tensor, gain: Tensor, limits: Limits, rescale: bool) -> tuple[Tensor, Tensor]:
        factor, time, radius, distance, share, sinh = _spread(rise, gain, limits, rescale)
        ctx.save_for_backward(rise, gain, factor, time, radius, distance, share, sinh)
        ctx.limits = limits
        return factor, time

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_factor: Tensor, g_time: Tensor) -> Any:
        rise, gain, factor, time, radius, distance, share, sinh = ctx.saved_tensors
        g_factor = g_factor / radius
        g_length = g_factor * time + g_time * sinh  # factor = sinh(length) / radius, time = cosh(length)
        if share is not None:
            g_length = g_length * ((1 - share * share) * (ctx.limits.d_max * ctx.limits.r))
        g_gain = torch.dot(g_length.flatten(), distance.flatten())
        g_rise = (gain * g_length - g_factor * factor * (1 + rise)) / radius  # distance' = 1/radius
        return g_rise, g_gain, None, None


def spread(rise: Tensor, gain: Tensor, limits: Limits, rescale: bool) -> tuple[Tensor, Tensor]:
    """Tangent rescaling of a centred point: (new radius / old radius, new time) for the new distance `gain * d`,
    kept within d_max if `rescale`. rise = time - 1 of the point."""
    if torch.compiler.is_compiling() or not (torch.is_grad_enabled() and (rise.requires_grad or gain.requires_grad)):
        return _spread(rise, gain, limits, rescale)[:2]
    factor, time = _Spread.apply(rise, gain, limits, rescale)
    return factor, time

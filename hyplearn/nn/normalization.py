"""Lorentz batch norm as per-position scalars, in units of k, see `scalars.py`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hyplearn.nn import monitor
from hyplearn.nn.processes import total
from hyplearn.nn.scalars import Limits, dot

_TINY = 1e-30  # floor of a squared radius: no 0/0 at the mean, and below all that float32 resolves


@dataclass(frozen=True)
class Normalization:
    """What the batch norm does besides its parameters. eps is added to the dispersion."""

    eps: float = 1e-5
    dispersion: str = "mean_distance"  # mean_distance | rms
    two_stage: bool = True
    rescale: bool = True
    synchronized: bool = False  # statistics over all processes

    def total(self, x: Tensor) -> Tensor:
        """Sum over processes where statistics are synchronized."""
        return total(x) if self.synchronized else x


# The centroid of a batch


def midpoint(space: Tensor, time: Tensor, limits: Limits) -> Tensor:
    """Lorentzian centroid from sums of points: space (..., C), time (...). Returns space coordinates (..., C).

    The squared Lorentz norm is floored at that of the farthest representable centroid, so rounding cannot turn it
    negative for points that nearly coincide close to d_max.
    """
    return space * _inverse_norm(space, time, limits)[0].unsqueeze(-1)


def _inverse_norm(space: Tensor, time: Tensor, limits: Limits) -> tuple[Tensor, Tensor]:
    """1 / sqrt(time^2 - |space|^2), and whether the floor is not met."""
    norm = torch.linalg.vector_norm(space, dim=-1)
    squared = (time - norm) * (time + norm)
    floor = (time.detach() / limits.t_max).square()
    return torch.rsqrt(torch.maximum(squared, floor)), squared > floor


def midpoint_vjp(g: Tensor, space: Tensor, time: Tensor, limits: Limits) -> tuple[Tensor, Tensor]:
    """Gradients of (space, time) from that of the centroid."""
    inverse, free = _inverse_norm(space, time, limits)
    through = (g * space).sum(-1) * inverse**3 * free
    return g * inverse.unsqueeze(-1) + through.unsqueeze(-1) * space, -through * time


def mean_of(space: Tensor, time: Tensor, limits: Limits, normalization: Normalization) -> Tensor:
    """Centroid of a batch from the sums of each image, space (B, C) and time (B,).

    Two-stage: the centroid of the images' centroids (HCNN); otherwise the centroid of all positions.
    """
    if normalization.two_stage:
        space = midpoint(space, time, limits)
        time = torch.sqrt(1 + space.square().sum(-1))
    return midpoint(normalization.total(space.sum(0)), normalization.total(time.sum(0)), limits)


def mean_of_vjp(
    g: Tensor, space: Tensor, time: Tensor, limits: Limits, normalization: Normalization
) -> tuple[Tensor, Tensor]:
    """Gradients of (space, time) from that of the mean, which every process has a part of."""
    points, times = space, time
    if normalization.two_stage:
        points = midpoint(space, time, limits)
        times = torch.sqrt(1 + points.square().sum(-1))
    whole = normalization.total(points.sum(0)), normalization.total(times.sum(0))
    g_points, g_times = midpoint_vjp(normalization.total(g), *whole, limits)
    if not normalization.two_stage:
        return g_points.expand_as(space), g_times.expand_as(time)
    return midpoint_vjp(g_points + (g_times / times).unsqueeze(-1) * points, space, time, limits)


# Centring, scaling, shifting


@dataclass
class Centred:
    """`a y + s_b b + s_mean mean + s_beta beta`, the normalized point, per position; s_b is None without a boost.

    The other fields are intermediates for the backward pass.
    """

    a: Tensor
    s_b: Tensor | None
    s_mean: Tensor
    s_beta: Tensor
    dispersion: Tensor
    rise: Tensor
    gain: Tensor
    spread: Spread
    toward: Tensor
    shifted: Tensor

    @property
    def coefficients(self) -> list[Tensor]:
        """In the order b, mean, beta."""
        return [s for s in (self.s_b, self.s_mean, self.s_beta) if s is not None]


@dataclass
class Spread:
    """Tangent rescaling of a centred point: factor = new radius / old radius, time = new time."""

    factor: Tensor
    time: Tensor
    radius: Tensor
    distance: Tensor
    share: Tensor | None
    sinh: Tensor


def centre(
    a: Tensor | None,
    s: Tensor | None,
    q: Tensor,
    t: Tensor,
    dot_beta: Tensor,
    dot_mean: Tensor,
    b: Tensor | None,
    beta: Tensor,
    mean: Tensor,
    gamma: Tensor,
    eps: Tensor,
    limits: Limits,
    normalization: Normalization,
    dispersion: Tensor | None,
) -> Centred:
    """Batch norm of points `x = a y + s b`, q = |x|^2, of time t.

    Logarithm at the mean, transport to the origin, rescaling, boost to beta.
    dot_beta = y . beta, dot_mean = y . mean. The dispersion is measured unless given.
    """
    to_mean, to_beta = _dots(a, s, dot_mean, dot_beta, b, mean, beta)
    q_mean = mean.square().sum()
    mean_t = torch.sqrt(1 + q_mean)
    # time after centring minus 1, mean_t t - x.mean - 1, as half the Lorentz square of x - mean: exact near the origin
    rise = 0.5 * torch.relu(q - 2 * to_mean + q_mean - ((q - q_mean) / (t + mean_t)).square())
    radius = torch.sqrt(rise * (rise + 2) + _TINY)
    distance = torch.log1p(rise + radius)
    if dispersion is None:
        dispersion = _measure(distance, normalization)
    gain = gamma / (dispersion + eps)
    spread = _spread(radius, distance, gain, limits, normalization.rescale)
    toward = (t + 1 + rise) / (1 + mean_t)  # centred point: x - toward * mean
    shifted = to_beta - toward * (mean @ beta)
    factor, beta_t = spread.factor, torch.sqrt(1 + beta.square().sum())
    return Centred(
        a=factor if a is None else factor * a,
        s_b=None if s is None else factor * s,
        s_mean=-factor * toward,
        s_beta=spread.time + factor * shifted / (1 + beta_t),
        dispersion=dispersion,
        rise=rise,
        gain=gain,
        spread=spread,
        toward=toward,
        shifted=shifted,
    )


def _dots(
    a: Tensor | None, s: Tensor | None, dot_mean: Tensor, dot_beta: Tensor,
    b: Tensor | None, mean: Tensor, beta: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """x . mean and x . beta of `x = a y + s b`."""
    if a is not None:
        dot_mean, dot_beta = a * dot_mean, a * dot_beta
    if s is not None and b is not None:
        dot_mean, dot_beta = dot_mean + s * (b @ mean), dot_beta + s * (b @ beta)
    return dot_mean, dot_beta


def _measure(distance: Tensor, normalization: Normalization) -> Tensor:
    amount = distance if normalization.dispersion == "mean_distance" else distance.square()
    if normalization.synchronized:
        amount = total(amount.sum()) / _count(distance, normalization)
    else:
        amount = amount.mean()
    return amount if normalization.dispersion == "mean_distance" else amount.sqrt()


def _count(distance: Tensor, normalization: Normalization) -> Tensor:
    return normalization.total(distance.new_tensor(float(distance.numel())))


def _spread(radius: Tensor, distance: Tensor, gain: Tensor, limits: Limits, rescale: bool) -> Spread:
    length, share = gain * distance, None
    if rescale:
        unlimited = length
        share = torch.tanh(limits.r * unlimited)
        length = limits.d_max * share
        monitor.give("rescaled/norm", lambda: length < unlimited)
    sinh = torch.sinh(length)
    return Spread(sinh / radius, torch.sqrt(1 + sinh * sinh), radius, distance, share, sinh)


@dataclass
class CentreGradients:
    """Gradients of the inputs of `centre`, None for one that is None; `log_root` of log sqrt(c) through the limits."""

    a: Tensor | None
    s: Tensor | None
    t: Tensor
    dot_beta: Tensor
    dot_mean: Tensor
    b: Tensor | None
    beta: Tensor
    mean: Tensor
    gamma: Tensor
    eps: Tensor
    dispersion: Tensor | None
    log_root: Tensor


def centre_vjp(
    made: Centred,
    g_a: Tensor,
    g_coefficients: tuple[Tensor, ...],
    a: Tensor | None,
    s: Tensor | None,
    q: Tensor,
    t: Tensor,
    dot_beta: Tensor,
    dot_mean: Tensor,
    b: Tensor | None,
    beta: Tensor,
    mean: Tensor,
    gamma: Tensor,
    eps: Tensor,
    limits: Limits,
    normalization: Normalization,
    given: bool,
) -> CentreGradients:
    """Gradients of the inputs of `centre` from those of (a, coefficients). given: the dispersion was.

    q and t are one variable, whose gradient is that of t."""
    factor, one_mean, one_beta = made.spread.factor, *(1 + torch.sqrt(1 + v.square().sum()) for v in (mean, beta))
    g_mean_row, g_beta_row = g_coefficients[-2:]
    lever = g_beta_row / one_beta
    g_factor = (g_a if a is None else g_a * a) - g_mean_row * made.toward + lever * made.shifted
    if s is not None:
        g_factor = g_factor + g_coefficients[0] * s
    to_beta = lever * factor  # gradient of x . beta
    mean_beta = mean @ beta
    g_toward = (g_mean_row * factor + to_beta * mean_beta).neg_() / one_mean
    g_rise, g_gain, g_root = _spread_vjp(made, g_factor, g_beta_row, limits)
    g_share = -g_gain * made.gain / (made.dispersion + eps)  # gradient of dispersion + eps
    if not given:
        g_rise = g_rise + _measure_vjp(made, g_share, normalization)
    g_rise = (g_rise + g_toward) * (made.rise > 0)
    g_t = g_toward + g_rise * (one_mean - 1)
    g_mean_t = dot(g_rise, t) - dot(g_toward, made.toward)
    g_mean_beta = -dot(to_beta, made.toward)
    g_beta_t = -dot(to_beta, made.shifted) / one_beta
    g_mean = (g_mean_t / (one_mean - 1)) * mean + g_mean_beta * beta
    g_beta = (g_beta_t / (one_beta - 1)) * beta + g_mean_beta * mean
    gradients = CentreGradients(
        a=None, s=None, t=g_t, dot_beta=to_beta, dot_mean=-g_rise, b=None, beta=g_beta, mean=g_mean,
        gamma=g_gain / (made.dispersion + eps), eps=g_share, dispersion=g_share if given else None, log_root=g_root,
    )  # fmt: skip
    if s is not None and b is not None:
        g_b_mean, g_b_beta = -dot(g_rise, s), dot(to_beta, s)
        gradients.s = g_coefficients[0] * factor - g_rise * (b @ mean) + to_beta * (b @ beta)
        gradients.b = g_b_mean * mean + g_b_beta * beta
        gradients.mean, gradients.beta = g_mean + g_b_mean * b, g_beta + g_b_beta * b
    if a is not None:
        gradients.a = g_a * factor - g_rise * dot_mean + to_beta * dot_beta
        gradients.dot_mean, gradients.dot_beta = -g_rise * a, to_beta * a
    return gradients


def _spread_vjp(made: Centred, g_factor: Tensor, g_time: Tensor, limits: Limits) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of (rise, gain, log sqrt(c) through the limits).

    factor = sinh(length) / radius, time = cosh(length), d distance = d rise / radius.
    """
    spread = made.spread
    g_factor = g_factor / spread.radius
    g_length, g_root = g_factor * spread.time + g_time * spread.sinh, g_factor.new_zeros(())
    if spread.share is not None:
        rate = (1 - spread.share.square()) * (limits.d_max * limits.r)
        g_root = limits.d_max * dot(g_length, spread.share)
        g_length = g_length * rate
        g_gain = dot(g_length, spread.distance)
        g_root = g_root - made.gain * g_gain
    else:
        g_gain = dot(g_length, spread.distance)
    g_rise = (made.gain * g_length - g_factor * spread.factor * (1 + made.rise)) / spread.radius
    return g_rise, g_gain, g_root


def _measure_vjp(made: Centred, g: Tensor, normalization: Normalization) -> Tensor:
    """Gradient of rise through the dispersion."""
    spread = made.spread
    g = normalization.total(g) / _count(spread.distance, normalization)
    if normalization.dispersion == "mean_distance":
        return g / spread.radius
    return (g / made.dispersion) * spread.distance / spread.radius

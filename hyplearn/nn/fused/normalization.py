"""Lorentz batch norm as per-position scalars, in units of k, see `scalars.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from hyplearn.nn import monitor
from hyplearn.nn.fused.scalars import Limits, dot, numbers
from hyplearn.nn.processes import total


@dataclass(frozen=True)
class Normalization:
    """What the batch norm does besides its parameters. eps is added to the dispersion.

    tangent_limit: longest argument of the exponential map, in units of k.
    """

    eps: float = 1e-5
    dispersion: Literal["mean_distance", "rms"] = "mean_distance"
    two_stage: bool = True
    rescale: bool = True
    tangent_limit: float | None = None
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


def _inverse_norm(space: Tensor, time: Tensor, limits: Limits) -> tuple[Tensor, Tensor, Tensor]:
    """1 / sqrt(time^2 - |space|^2), the square and its floor."""
    norm = torch.linalg.vector_norm(space, dim=-1)
    squared = (time - norm) * (time + norm)
    floor = (time.detach() / limits.t_max).square()
    return torch.rsqrt(torch.maximum(squared, floor)), squared, floor


def midpoint_vjp(g: Tensor, space: Tensor, time: Tensor, limits: Limits) -> tuple[Tensor, Tensor]:
    """Gradients of (space, time) from that of the centroid."""
    inverse, squared, floor = _inverse_norm(space, time, limits)
    through = torch.linalg.vecdot(g, space) * (inverse * inverse * inverse) * (squared > floor)
    return torch.addcmul(g * inverse.unsqueeze(-1), through.unsqueeze(-1), space), -through * time


def _times(points: Tensor) -> Tensor:
    return torch.sqrt(numbers(points).one + torch.linalg.vecdot(points, points))


def mean_of(space: Tensor, time: Tensor, limits: Limits, normalization: Normalization) -> Tensor:
    """Centroid of a batch from the sums of each image, space (B, C) and time (B,).

    Two-stage: the centroid of the images' centroids (HCNN); otherwise the centroid of all positions.
    """
    if normalization.two_stage:
        space = midpoint(space, time, limits)
        time = _times(space)
    return midpoint(normalization.total(space.sum(0)), normalization.total(time.sum(0)), limits)


def mean_of_vjp(
    g: Tensor, space: Tensor, time: Tensor, limits: Limits, normalization: Normalization
) -> tuple[Tensor, Tensor]:
    """Gradients of (space, time) from that of the mean, which every process has a part of."""
    points, times = space, time
    if normalization.two_stage:
        points = midpoint(space, time, limits)
        times = _times(points)
    whole = normalization.total(points.sum(0)), normalization.total(times.sum(0))
    g_points, g_times = midpoint_vjp(normalization.total(g), *whole, limits)
    if not normalization.two_stage:
        return g_points.expand_as(space), g_times.expand_as(time)
    return midpoint_vjp(torch.addcmul(g_points, (g_times / times).unsqueeze(-1), points), space, time, limits)


# Centring, scaling, shifting


@dataclass(frozen=True)
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
    directions: Directions

    @property
    def coefficients(self) -> list[Tensor]:
        """Coefficients of the vectors, in the order b, mean, beta."""
        return [s for s in (self.s_b, self.s_mean, self.s_beta) if s is not None]


@dataclass(frozen=True)
class Spread:
    """Tangent rescaling of a centred point: factor = new radius / old radius, time = new time.

    inside: where the tangent vector is within its limit, None without a limit.
    """

    factor: Tensor
    time: Tensor
    radius: Tensor
    distance: Tensor
    share: Tensor | None
    inside: Tensor | None
    sinh: Tensor


class CentreInputs(NamedTuple):
    """Points `x = a y + s b` of each position with q = |x|^2 and time t, and what the batch norm does to them.

    a or s is None where it is 1 or 0, b with s. dot_beta = y . beta, dot_mean = y . mean. dispersion: None where it is
    to be measured.
    """

    a: Tensor | None
    s: Tensor | None
    q: Tensor
    t: Tensor
    dot_beta: Tensor
    dot_mean: Tensor
    b: Tensor | None
    beta: Tensor
    mean: Tensor
    gamma: Tensor
    eps: Tensor
    dispersion: Tensor | None


def centre(x: CentreInputs, limits: Limits, normalization: Normalization) -> Centred:
    """Batch norm of points: logarithm at the mean, transport to the origin, rescaling, boost to beta."""
    n, v = numbers(x.t), Directions.of(x.b, x.mean, x.beta)
    to_mean, to_beta = _dots(x, v)
    # time after centring minus 1, mean_t t - x.mean - 1, as half the square of x - mean: nothing cancels near 0
    time_gap = (x.q - v.q_mean) / (x.t + v.mean_t)
    rise = n.half * torch.relu(x.q + v.q_mean - (to_mean + to_mean) - time_gap * time_gap)
    above = rise + n.two  # more than the radius, and equal to it where the product overflows
    radius = torch.minimum(torch.sqrt(rise * above + n.tiny), above)
    distance = torch.log1p(rise + radius)
    dispersion = _measure(distance, normalization) if x.dispersion is None else x.dispersion
    gain = x.gamma / (dispersion + x.eps)
    spread = _spread(radius, distance, gain, limits, normalization)
    toward = (x.t + n.one + rise) / v.one_mean  # centred point: x - toward * mean
    shifted = to_beta - toward * v.mean_beta
    factor = spread.factor
    return Centred(
        a=factor if x.a is None else factor * x.a,
        s_b=None if x.s is None else factor * x.s,
        s_mean=-factor * toward,
        s_beta=spread.time + factor * shifted / v.one_beta,
        dispersion=dispersion,
        rise=rise,
        gain=gain,
        spread=spread,
        toward=toward,
        shifted=shifted,
        directions=v,
    )


@dataclass(frozen=True)
class Directions:
    """Products of the vectors b, mean and beta, and their times: 0-dim tensors, b_mean and b_beta None without b."""

    q_mean: Tensor
    mean_beta: Tensor
    b_mean: Tensor | None
    b_beta: Tensor | None
    mean_t: Tensor
    one_mean: Tensor
    beta_t: Tensor
    one_beta: Tensor

    @classmethod
    def of(cls, b: Tensor | None, mean: Tensor, beta: Tensor) -> Directions:
        """Compute all products of the vectors as one Gram matrix; compiled, they are sums of one kernel."""
        if torch.compiler.is_compiling():
            return cls._sums(b, mean, beta)
        vectors = torch.stack([mean, beta] if b is None else [mean, beta, b])
        gram, n = vectors @ vectors.mT, numbers(vectors)
        times = torch.sqrt(n.one + gram.diagonal())
        mean_t, beta_t, *_ = times.unbind()
        one_mean, one_beta, *_ = (n.one + times).unbind()
        rows = [row.unbind() for row in gram.unbind()]
        b_mean, b_beta = (None, None) if b is None else rows[2][:2]
        return cls(rows[0][0], rows[0][1], b_mean, b_beta, mean_t, one_mean, beta_t, one_beta)

    @classmethod
    def _sums(cls, b: Tensor | None, mean: Tensor, beta: Tensor) -> Directions:
        q_mean = (mean * mean).sum()
        mean_t, beta_t = torch.sqrt(1 + q_mean), torch.sqrt(1 + (beta * beta).sum())
        b_mean, b_beta = (None, None) if b is None else ((b * mean).sum(), (b * beta).sum())
        return cls(q_mean, (mean * beta).sum(), b_mean, b_beta, mean_t, 1 + mean_t, beta_t, 1 + beta_t)


def _dots(x: CentreInputs, v: Directions) -> tuple[Tensor, Tensor]:
    """Dot products of the points with mean and with beta."""
    dot_mean, dot_beta = x.dot_mean, x.dot_beta
    if x.a is not None:
        dot_mean, dot_beta = x.a * dot_mean, x.a * dot_beta
    if x.s is not None and v.b_mean is not None and v.b_beta is not None:
        dot_mean, dot_beta = dot_mean + x.s * v.b_mean, dot_beta + x.s * v.b_beta
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


def _spread(radius: Tensor, distance: Tensor, gain: Tensor, limits: Limits, normalization: Normalization) -> Spread:
    length, share, inside, limit = gain * distance, None, None, normalization.tangent_limit
    if normalization.rescale:
        unlimited = length
        share = torch.tanh(limits.r * unlimited)
        length = limits.d_max * share
        monitor.give("rescaled/norm", lambda: length < unlimited)
    if limit is not None:
        inside = length <= limit
        monitor.give("limited/norm", lambda: ~inside)
        length = length.clamp_max(limit)
    sinh = torch.sinh(length)
    return Spread(sinh / radius, torch.sqrt(numbers(sinh).one + sinh * sinh), radius, distance, share, inside, sinh)


class CentreGradients(NamedTuple):
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
    log_root: Tensor | None


def centre_vjp(
    made: Centred,
    g_a: Tensor,
    g_coefficients: tuple[Tensor, ...],
    x: CentreInputs,
    limits: Limits,
    normalization: Normalization,
) -> CentreGradients:
    """Gradients of the inputs of `centre` from those of (a, coefficients).

    q and t are one variable, whose gradient is that of t.
    """
    factor, v, given = made.spread.factor, made.directions, x.dispersion is not None
    g_mean_row, g_beta_row = g_coefficients[-2:]
    lever = g_beta_row / v.one_beta
    g_factor = (g_a if x.a is None else g_a * x.a) - g_mean_row * made.toward + lever * made.shifted
    if x.s is not None:
        g_factor = g_factor + g_coefficients[0] * x.s
    to_beta = lever * factor  # gradient of x . beta
    g_toward = (g_mean_row * factor + to_beta * v.mean_beta) / -v.one_mean
    g_rise, g_gain, g_root = _spread_vjp(made, g_factor, g_beta_row, limits)
    scale = made.dispersion + x.eps
    g_scale = -g_gain * made.gain / scale
    if not given:
        g_rise = g_rise + _measure_vjp(made, g_scale, normalization)
    g_rise = torch.where(made.rise > 0, g_rise + g_toward, numbers(g_rise).zero)
    g_mean, g_beta = _vectors_vjp(made, x, g_rise, g_toward, to_beta)
    gradients = CentreGradients(
        a=None, s=None, t=g_toward + g_rise * v.mean_t, dot_beta=to_beta, dot_mean=-g_rise, b=None, beta=g_beta,
        mean=g_mean, gamma=g_gain / scale, eps=g_scale, dispersion=g_scale if given else None, log_root=g_root,
    )  # fmt: skip
    if x.s is not None:
        gradients = _boost_vjp(gradients, g_coefficients[0] * factor, x, v)
    return gradients if x.a is None else _scale_vjp(gradients, g_a * factor, x.a, x)


def _vectors_vjp(
    made: Centred, x: CentreInputs, g_rise: Tensor, g_toward: Tensor, to_beta: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of mean and beta through their times and their dot product."""
    v = made.directions
    g_mean_t = dot(g_rise, x.t) - dot(g_toward, made.toward)
    g_mean_beta, g_beta_t = -dot(to_beta, made.toward), -dot(to_beta, made.shifted) / v.one_beta
    g_mean = (g_mean_t / v.mean_t) * x.mean + g_mean_beta * x.beta
    return g_mean, (g_beta_t / v.beta_t) * x.beta + g_mean_beta * x.mean


def _boost_vjp(g: CentreGradients, g_s: Tensor, x: CentreInputs, v: Directions) -> CentreGradients:
    """The gradients with those of s and b, g_s being that of s through its own coefficient."""
    assert x.s is not None and x.b is not None and v.b_mean is not None and v.b_beta is not None
    g_b_mean, g_b_beta = dot(g.dot_mean, x.s), dot(g.dot_beta, x.s)
    return g._replace(
        s=g_s + g.dot_mean * v.b_mean + g.dot_beta * v.b_beta,
        b=g_b_mean * x.mean + g_b_beta * x.beta,
        mean=g.mean + g_b_mean * x.b,
        beta=g.beta + g_b_beta * x.b,
    )


def _scale_vjp(g: CentreGradients, g_a: Tensor, a: Tensor, x: CentreInputs) -> CentreGradients:
    """The gradients with that of a, g_a being that through its own coefficient; a multiplies both dot products."""
    return g._replace(
        a=g_a + g.dot_mean * x.dot_mean + g.dot_beta * x.dot_beta,
        dot_mean=g.dot_mean * a,
        dot_beta=g.dot_beta * a,
    )


def _spread_vjp(
    made: Centred, g_factor: Tensor, g_time: Tensor, limits: Limits
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of (rise, gain, log sqrt(c) through the limits).

    factor = sinh(length) / radius, time = cosh(length), d distance = d rise / radius.
    """
    spread = made.spread
    g_factor = g_factor / spread.radius
    n, g_root = numbers(g_factor), None
    g_length = g_factor * spread.time + g_time * spread.sinh
    if spread.inside is not None:
        g_length = g_length * spread.inside
    if spread.share is not None:
        rate = (n.one - spread.share * spread.share) * limits.steepest
        g_root = limits.d_max * dot(g_length, spread.share)
        g_length = g_length * rate
        g_gain = dot(g_length, spread.distance)
        g_root = g_root - made.gain * g_gain
    else:
        g_gain = dot(g_length, spread.distance)
    g_rise = (made.gain * g_length - g_factor * spread.factor * (n.one + made.rise)) / spread.radius
    return g_rise, g_gain, g_root


def _measure_vjp(made: Centred, g: Tensor, normalization: Normalization) -> Tensor:
    """Gradient of rise through the dispersion."""
    spread = made.spread
    g = normalization.total(g) / _count(spread.distance, normalization)
    if normalization.dispersion == "mean_distance":
        return g / spread.radius
    return (g / made.dispersion) * spread.distance / spread.radius

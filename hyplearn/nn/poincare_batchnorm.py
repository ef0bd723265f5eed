"""Poincare batch normalization (Lou et al., 2020, with the Poincare midpoint of van Spengler et al., 2023)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from hyplearn.geometry import lorentz
from hyplearn.geometry.numerics import asinhc, coshm1c, scalar_like, sinhc
from hyplearn.manifolds import PoincareBall
from hyplearn.manifolds.foreign import ours
from hyplearn.manifolds.precision import full_precision
from hyplearn.nn.checks import any_image, in_full_precision, positive
from hyplearn.nn.poincare_tangent import clip_factor, place, to_hyperboloid, to_tangent
from hyplearn.nn.processes import processes, total
from hyplearn.regions import region


class PoincareBatchNorm2d(nn.Module):
    """exp_beta( gamma / sqrt(variance + eps) P_{mean -> beta}(log_mean x) ), tangent vectors (B, n, H, W) to the same.

    mean: midpoint of all positions of the batch, the Lorentzian centroid of the isometric points. variance: their mean
    squared distance to it. beta (n,) is learned as a tangent vector at the origin, so that a change of c needs no move
    of it; gamma () is learned. In eval mode mean and variance are running averages with weight `momentum` for a new
    batch; the public code of van Spengler et al. keeps none and normalizes with the statistics of the test batch.
    Points that come to lie beyond d_max of beta are clipped to it. synchronized: statistics over all processes.
    momentum in (0, 1], eps > 0. Computes in float32 or better.
    Raises ValueError for another number of channels.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self,
        num_features: int,
        *,
        manifold: PoincareBall,
        momentum: float = 0.1,
        eps: float = 1e-5,
        synchronized: bool = False,
    ) -> None:
        super().__init__()
        positive("num_features", num_features)
        if not 0 < momentum <= 1:
            raise ValueError(f"momentum={momentum} must lie in (0, 1]: it is the weight of the new batch")
        if not eps > 0:
            raise ValueError(f"eps={eps} must be > 0")
        self.manifold, self.momentum, self.eps, self.synchronized = ours(manifold), momentum, eps, synchronized
        self.beta = nn.Parameter(torch.zeros(num_features))
        self.gamma = nn.Parameter(torch.ones(()))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(()))

    @full_precision
    def forward(self, v: Tensor) -> Tensor:
        if v.dim() != 4 or v.shape[1] != self.beta.shape[0]:
            raise ValueError(f"v of shape {tuple(v.shape)} must be (B, {self.beta.shape[0]}, H, W)")
        in_full_precision(self, self.beta)
        if self.training:
            any_image(v, synchronized=self.synchronized)
        options = _Options(self.training, self.momentum, self.eps, self.manifold.x_t_max, self.synchronized)
        # sums over processes are no part of a compiled graph
        summed = self.synchronized and processes() > 1
        normalize = _normalize.__wrapped__ if summed else _normalize  # type: ignore[attr-defined]
        c = scalar_like(self.manifold.c, v)
        out: Tensor
        out, mean, variance = normalize(v, self.beta, self.gamma, self.running_mean, self.running_var, c, options)
        if self.training:
            self._track(mean, variance)
        return out

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        torch._foreach_copy_([self.running_mean, self.running_var], [mean, variance])

    def extra_repr(self) -> str:
        return f"{self.beta.shape[0]}, momentum={self.momentum}, eps={self.eps}, synchronized={self.synchronized}"


class _Options(NamedTuple):
    """The layer's settings; training: whether the batch's statistics are measured, and the running ones follow."""

    training: bool
    momentum: float
    eps: float
    x_t_max: float | None
    synchronized: bool

    def total(self, x: Tensor) -> Tensor:
        """Sum over processes where statistics are synchronized."""
        return total(x) if self.synchronized else x


@region
def _normalize(
    v: Tensor,
    beta: Tensor,
    gamma: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    c: Tensor,
    options: _Options,
) -> tuple[Tensor, Tensor, Tensor]:
    """exp_beta(rate P_{mean -> beta} log_mean(x)) as a sum of scalars times x, mean and beta; the running statistics.

    With d the distance to the mean, w = sinh^2(d sqrt(c)/2) and f = d sqrt(c)/sinh(d sqrt(c)):
    log_mean(x) = f (x - (1 + 2w) mean); its transport subtracts f tilt (mean + beta).
    """
    x_t_max, rows = options.x_t_max, v.permute(0, 2, 3, 1)
    stretch, q = place(rows, c=c, x_t_max=x_t_max)  # the points x = stretch rows, q = |x|^2
    if options.training:
        mean = _midpoint(rows, stretch, q, c, options)
    else:
        mean = to_hyperboloid(running_mean.to(c.dtype), c=c, x_t_max=x_t_max)
    beta = to_hyperboloid(beta.to(c.dtype), c=c, x_t_max=x_t_max)
    x_t, mean_t, beta_t = (q + 1 / c).sqrt(), lorentz.time(mean, c=c), lorentz.time(beta, c=c)
    to_mean, to_beta = _products(stretch, rows, mean, beta)
    # differences of times from squares: they keep their digits where all points are close to the origin
    rise = (q - _dot(mean, mean)) / (x_t + mean_t)
    w = c / 4 * torch.relu(q - 2 * to_mean + _dot(mean, mean) - rise.square())
    square = 4 / c * w * asinhc(w).square()  # d^2
    variance = running_var
    if options.training:
        variance = _variance(square, options)
        running_mean, running_var = _followed(running_mean, running_var, mean, variance, c, options)
    rate = gamma * (variance + options.eps).rsqrt()
    clip = clip_factor(rate.square() * square / 4, c=c, x_t_max=x_t_max)
    rate = clip * rate
    angle = c * rate.square() * square  # squared
    a = rate * sinhc(angle) * asinhc(w) * (1 + w).rsqrt()
    across = c * (beta_t * mean_t - _dot(beta, mean))
    tilt = (c * (beta_t * rise - to_beta + _dot(beta, mean)) - 2 * w * across) / (1 + across)
    along_mean, along_beta = -a * (1 + 2 * w + tilt), 1 + angle * coshm1c(angle) - a * tilt
    if torch.compiler.is_compiling():  # one kernel
        out = a * stretch * rows + along_mean * mean + along_beta * beta
    else:
        out = a * stretch * rows + torch.cat([along_mean, along_beta], dim=-1) @ torch.stack([mean, beta])
    return to_tangent(out, c=c).permute(0, 3, 1, 2), running_mean, running_var


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum() if torch.compiler.is_compiling() else x @ y


def _products(stretch: Tensor, rows: Tensor, mean: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    """The dot products of the points with mean and with beta."""
    if torch.compiler.is_compiling():
        return tuple(stretch * (rows * vector).sum(-1, keepdim=True) for vector in (mean, beta))  # type: ignore[return-value]
    to_mean, to_beta = (stretch * (rows @ torch.stack([mean, beta]).mT)).split(1, dim=-1)
    return to_mean, to_beta


def _midpoint(rows: Tensor, stretch: Tensor, q: Tensor, c: Tensor, options: _Options) -> Tensor:
    """Midpoint of all positions, of all processes if synchronized: k S / sqrt(S_t^2 - |S|^2) with S = sum x."""
    space, time = stretch.flatten() @ rows.flatten(0, 2), (q + 1 / c).sqrt().sum()
    space, time = options.total(space), options.total(time)
    length = torch.linalg.vector_norm(space)
    # rounding may leave no difference for points that coincide far out: the midpoint's time is at most x_t_max
    x_t_max = lorentz.X_T_MAX[c.dtype] if options.x_t_max is None else options.x_t_max
    square: Tensor = (c * (time - length) * (time + length)).clamp_min((time.detach() / x_t_max).square())
    return square.rsqrt() * space


def _variance(square: Tensor, options: _Options) -> Tensor:
    if options.synchronized:
        return total(square.sum()) / total(square.new_tensor(float(square.numel())))
    return square.mean()


@torch.no_grad()
def _followed(
    running_mean: Tensor, running_var: Tensor, mean: Tensor, variance: Tensor, c: Tensor, options: _Options
) -> tuple[Tensor, Tensor]:
    """The running statistics a step closer to the batch's."""
    both = torch.stack([to_hyperboloid(running_mean.to(c.dtype), c=c, x_t_max=options.x_t_max), mean])
    weights = both.new_tensor([1 - options.momentum, options.momentum])
    new_mean = to_tangent(lorentz.centroid(both, c=c, weights=weights), c=c)
    return new_mean, running_var.lerp(variance.to(running_var.dtype), options.momentum)

"""Poincare batch normalization (Lou et al., 2020, with the Poincare midpoint of van Spengler et al., 2023)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hyplearn.geometry import lorentz
from hyplearn.geometry.numerics import scalar_like, squared_norm
from hyplearn.manifolds import PoincareBall
from hyplearn.manifolds.precision import full_precision
from hyplearn.nn.choices import positive
from hyplearn.nn.poincare_tangent import to_hyperboloid, to_tangent
from hyplearn.nn.processes import total


class PoincareBatchNorm2d(nn.Module):
    """exp_beta( gamma / sqrt(variance + eps) P_{mean -> beta}(log_mean x) ), tangent vectors (B, n, H, W) to the same.

    mean: midpoint of all positions of the batch, the Lorentzian centroid of the isometric points. variance: their mean
    squared distance to it. beta (n,) is learned as a tangent vector at the origin, so that a change of c needs no move
    of it; gamma () is learned. In eval mode mean and variance are running averages with weight `momentum` for a new
    batch; the public code of van Spengler et al. keeps none and normalizes with the statistics of the test batch.
    synchronized: statistics over all processes. momentum in (0, 1], eps > 0. Computes in float32 or better.
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
        self.manifold, self.momentum, self.eps, self.synchronized = manifold, momentum, eps, synchronized
        self.beta = nn.Parameter(torch.zeros(num_features))
        self.gamma = nn.Parameter(torch.ones(()))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(()))

    @full_precision
    def forward(self, v: Tensor) -> Tensor:
        if v.dim() != 4 or v.shape[1] != self.beta.shape[0]:
            raise ValueError(f"v of shape {tuple(v.shape)} must be (B, {self.beta.shape[0]}, H, W)")
        c = scalar_like(self.manifold.c, v)
        x = self._point(v.permute(0, 2, 3, 1), c)
        mean = self._mean(x.flatten(0, 2), c) if self.training else self._point(self.running_mean, c)
        centred = lorentz.logmap0(lorentz.boost(x, -mean, c=c), c=c)  # log at the mean, carried to the origin
        variance = self.running_var
        if self.training:
            variance = self._variance(centred)
            self._track(mean, variance, c)
        scaled = self.gamma * (variance + self.eps).rsqrt() * centred
        return to_tangent(self._shift(scaled, mean, c), c=c).permute(0, 3, 1, 2)

    def _point(self, v: Tensor, c: Tensor) -> Tensor:
        return to_hyperboloid(v, c=c, x_t_max=self.manifold.x_t_max)

    def _mean(self, x: Tensor, c: Tensor) -> Tensor:
        """Midpoint of (N, n), of all processes if synchronized."""
        if not self.synchronized:
            return lorentz.centroid(x, c=c)
        space, time = total(x.sum(0)), total(lorentz.time(x, c=c).sum())
        return space * (c * (time.square() - space.square().sum())).rsqrt()

    def _variance(self, centred: Tensor) -> Tensor:
        square = squared_norm(centred)
        if not self.synchronized:
            return square.mean()
        return total(square.sum()) / total(square.new_tensor(float(square.numel())))

    def _shift(self, v: Tensor, mean: Tensor, c: Tensor) -> Tensor:
        """exp at beta of P_{mean -> beta} P_{0 -> mean} v."""
        beta = self._point(self.beta, c)
        return lorentz.expmap(beta, lorentz.transp(mean, beta, lorentz.transp0(mean, v, c=c), c=c), c=c)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, c: Tensor) -> None:
        both = torch.stack([self._point(self.running_mean.to(mean.dtype), c), mean])
        weights = both.new_tensor([1 - self.momentum, self.momentum])
        self.running_mean.copy_(to_tangent(lorentz.centroid(both, c=c, weights=weights), c=c))
        self.running_var.lerp_(variance.to(self.running_var.dtype), self.momentum)

    def extra_repr(self) -> str:
        return f"{self.beta.shape[0]}, momentum={self.momentum}, eps={self.eps}, synchronized={self.synchronized}"

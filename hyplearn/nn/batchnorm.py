"""Lorentz batch norm."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from hyplearn.errors import one_of
from hyplearn.manifolds import AmbientLorentz, Lorentz, ManifoldParameter
from hyplearn.manifolds.foreign import ours
from hyplearn.nn import monitor
from hyplearn.nn.checks import any_image, in_full_precision, positive
from hyplearn.nn.fused.norm import Block, NormalizeInputs, normalize
from hyplearn.nn.fused.normalization import Normalization, midpoint
from hyplearn.nn.fused.scalars import Limits, dot, numbers, radial
from hyplearn.nn.layout import channels_last
from hyplearn.nn.processes import total
from hyplearn.regions import region

Dispersion = Literal["mean_distance", "rms", "per_channel"]
Centroid = Literal["two_stage", "joint"]
Coordinates = Literal["space", "ambient"]


class LorentzBatchNorm2d(nn.Module):
    """Batch norm of a Lorentz feature map (B, n, H, W): centre, scale the dispersion, move to beta.

    `x -> boost_beta(exp_0(f(gamma / (dispersion + eps) log_0(boost_-mean(x)))))`, with f the maximum-distance rescaling
    in the tangent space (Bdeir Section 3.2). boost_-mean followed by log_0 is the logarithm at the mean transported to
    the origin.

    dispersion: `mean_distance` to the mean (HCNN and Bdeir), `rms` (the root of the Frechet variance), `per_channel`
        (a standard deviation and a gamma for each tangent coordinate; all are divided by sqrt(n), so that the vectors
        have the dispersion 1 there as well).
    centroid: `two_stage`, the centroid of the images' centroids (HCNN), or `joint`, of all positions.
    tangent_limit: longest argument of the exponential map in units of k, None for any. The published HCNN has 10, which
        keeps every output within 10 k of beta; a longer vector counts as one of this length and direction, so that no
        gradient lengthens it.
    synchronized: statistics over all processes of the default group.
    coordinates: how beta is stored. `ambient`, time first and by geoopt, is the naive form of Bdeir Table 5 (with
        `curvature_scheme=False` beta leaves the manifold); it takes the slower path layer by layer.
    beta is a point of the manifold, gamma Euclidean. The running mean is stored as a tangent vector at the origin, so a
    change of curvature leaves it valid; it moves along the geodesic-like two-point centroid, weight `momentum` for the
    new mean.
    """

    running_mean: Tensor
    running_dispersion: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self,
        num_features: int,
        *,
        manifold: Lorentz,
        momentum: float = 0.1,
        eps: float = 1e-5,
        dispersion: Dispersion = "mean_distance",
        centroid: Centroid = "two_stage",
        rescale: bool = True,
        tangent_limit: float | None = None,
        synchronized: bool = False,
        coordinates: Coordinates = "space",
    ) -> None:
        super().__init__()
        positive("num_features", num_features)
        one_of("dispersion", dispersion, Dispersion)
        one_of("centroid", centroid, Centroid)
        one_of("coordinates", coordinates, Coordinates)
        if not 0 < momentum <= 1:
            raise ValueError(f"momentum={momentum} must lie in (0, 1]: it is the weight of the new batch")
        if tangent_limit is not None and not tangent_limit > 0:
            raise ValueError(f"tangent_limit={tangent_limit} must be > 0, or None for tangent vectors of any length")
        self.manifold, self.num_features, self.momentum, self.eps = ours(manifold), num_features, momentum, eps
        self.dispersion, self.centroid, self.rescale, self.synchronized = dispersion, centroid, rescale, synchronized
        self.tangent_limit = tangent_limit
        shape = (num_features,) if dispersion == "per_channel" else ()
        self.coordinates = coordinates
        self.beta = self._origin()
        self.gamma = nn.Parameter(torch.ones(shape))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_dispersion", torch.ones(shape))
        self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.long))

    @property
    def fusable(self) -> bool:
        """Whether the norm is per-position scalars times vectors; a dispersion for each channel is not, nor a
        beta with a time of its own."""
        return self.dispersion != "per_channel" and self.coordinates == "space"

    @property
    def channels_share(self) -> float:
        """sqrt(n) where each channel has a dispersion of its own: n of 1 make a vector of length sqrt(n)."""
        return self.num_features**0.5 if self.dispersion == "per_channel" else 1.0

    def normalization(self) -> Normalization:
        """The options for the fused path, which a `fusable` norm has."""
        assert self.dispersion != "per_channel"
        return Normalization(
            eps=self.eps,
            dispersion=self.dispersion,
            two_stage=self.centroid == "two_stage",
            rescale=self.rescale,
            tangent_limit=self.tangent_limit,
            synchronized=self.synchronized,
        )

    def limits(self, c: Tensor | None = None) -> Limits:
        """The rescaling limits at the present curvature, which a caller may know as c."""
        return Limits.of_manifold(self.manifold, c)

    def statistics(self) -> tuple[Tensor | None, Tensor | None]:
        """Mean and dispersion to normalise by: the running ones in eval mode, None (measure) in training."""
        if self.training:
            return None, None
        return self.manifold.expmap0(self._within_limit(self.running_mean)), self.running_dispersion

    @torch.no_grad()
    def track(self, mean: Tensor, dispersion: Tensor, limits: Limits | None = None, c: Tensor | None = None) -> None:
        """Let the running statistics follow those of a batch: mean (n,), a point; dispersion () or (n,).

        The running mean moves to the centroid of itself and the new mean with weights 1 - momentum and momentum.
        """
        c = self.manifold.c if c is None else c
        limits = limits or self.limits(c)
        old = self._within_limit(self.running_mean)
        mean, dispersion = _followed(old, self.running_dispersion, mean, dispersion, c, limits, self.momentum)
        torch._foreach_copy_([self.running_mean, self.running_dispersion], [mean, dispersion])
        self.num_batches_tracked.add_(1)

    def forward(self, x: Tensor) -> Tensor:
        self.check(x)
        if not self.fusable:
            return self.by_definition(x)
        mean, dispersion = self.statistics()
        inputs = NormalizeInputs(
            y=x,
            q_patch=None,
            residual=None,
            b=None,
            beta=self.beta,
            gamma=self.gamma,
            c=self.manifold.c,
            mean=mean,
            dispersion=dispersion,
        )
        block = Block(placement=None, normalization=self.normalization(), activation=False)
        out, mean, dispersion = normalize(inputs, limits=self.limits(), block=block)
        if self.training:
            self.track(mean, dispersion)
        return out

    def check(self, x: Tensor) -> None:
        """Raise ValueError for a wrong shape, a single point in training, which has no dispersion, or half weights."""
        in_full_precision(self, self.beta)
        if x.dim() != 4 or x.shape[1] != self.num_features:
            raise ValueError(f"x of shape {tuple(x.shape)} must be (B, {self.num_features}, H, W)")
        if self.training:
            any_image(x, synchronized=self.synchronized)
        if self.training and x.numel() == self.num_features and not self.synchronized:
            raise ValueError("a batch of one image of 1 x 1 positions has no dispersion; use more images per batch")

    def by_definition(self, x: Tensor) -> Tensor:
        """Normalize point by point through the manifold's operations; the only path of `per_channel`."""
        with torch.autocast(x.device.type, enabled=False):
            points = channels_last(x.to(torch.promote_types(x.dtype, torch.float32))).permute(0, 2, 3, 1)
            mean, dispersion = self.statistics()
            if mean is None:
                mean = self._mean(points.flatten(1, 2))
            v = self.manifold.logmap0(self.manifold.boost(points, -mean))
            if dispersion is None:
                dispersion = self._dispersion(v)
            v = v * (self.gamma / (dispersion + self.eps) / self.channels_share)
            if self.rescale:
                limited = self.manifold.rescale0(v)
                monitor.give_shrunk("norm", v, limited)
                v = limited
            if self.tangent_limit is not None:
                v, unlimited = self._within_limit(v), v
                monitor.give("limited/norm", lambda: v.square().sum(-1) < unlimited.square().sum(-1))
            out = self._shift(self.manifold.expmap0(v))
        if self.training:
            self.track(mean, dispersion)
        return out.permute(0, 3, 1, 2).to(x.dtype)

    def _within_limit(self, v: Tensor) -> Tensor:
        """v, a tangent vector at the origin (..., n), or one of its direction at the limit where it is longer."""
        if self.tangent_limit is None:
            return v
        longest = self.tangent_limit * self.manifold.c.rsqrt()
        limited: Tensor = v * (longest / torch.linalg.vector_norm(v, dim=-1, keepdim=True).maximum(longest))
        return limited

    def _origin(self) -> ManifoldParameter:
        origin = torch.zeros(self.num_features)
        if self.coordinates == "space":
            return ManifoldParameter(origin, manifold=self.manifold)
        ambient = self.manifold.to_ambient(origin).detach()
        return ManifoldParameter(ambient, manifold=AmbientLorentz(self.manifold))

    def _shift(self, x: Tensor) -> Tensor:
        """Boost from the origin to beta; with the stored time of beta, right or wrong, where it has one."""
        if self.coordinates == "space":
            return self.manifold.boost(x, self.beta)
        monitor.give("off_manifold/beta", lambda: self.beta.manifold.off_manifold(self.beta))
        beta_t, beta, k, x_t = self.beta[0], self.beta[1:], self.manifold.c.rsqrt(), self.manifold.time(x)
        y_t = (beta_t * x_t + x @ beta) / k
        shifted: Tensor = x + ((x_t + y_t) / (beta_t + k)).unsqueeze(-1) * beta
        return shifted

    def _mean(self, points: Tensor) -> Tensor:
        """Centroid of points (B, L, n), over all processes if synchronized."""
        if self.centroid == "two_stage":
            points = self.manifold.centroid(points, dim=1)
        points = points.flatten(0, -2)
        if not self.synchronized:
            return self.manifold.centroid(points, dim=0)
        space, time = total(points.sum(0)), total(self.manifold.time(points).sum())
        return space * (self.manifold.c * (time.square() - space.square().sum())).rsqrt()

    def _dispersion(self, v: Tensor) -> Tensor:
        v = v.flatten(0, -2)
        count = total(v.new_tensor(float(v.shape[0]))) if self.synchronized else v.shape[0]
        if self.dispersion == "mean_distance":
            return self._total(torch.linalg.vector_norm(v, dim=-1).sum()) / count
        square = self._total(v.square().sum(0)) / count
        return torch.sqrt(square + self.eps) if self.dispersion == "per_channel" else torch.sqrt(square.sum())

    def _total(self, x: Tensor) -> Tensor:
        return total(x) if self.synchronized else x

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, dispersion={self.dispersion}, centroid={self.centroid}, rescale={self.rescale}, "
            f"tangent_limit={self.tangent_limit}, momentum={self.momentum}, eps={self.eps}, "
            f"synchronized={self.synchronized}"
        )


@region
def _followed(
    old: Tensor,
    running_dispersion: Tensor,
    mean: Tensor,
    dispersion: Tensor,
    c: Tensor,
    limits: Limits,
    momentum: float,
) -> tuple[Tensor, Tensor]:
    """The running statistics a step closer to the batch's. old: the running mean, a tangent vector within the limit."""
    root = c.sqrt()
    old = root * old
    old = old * radial(dot(old, old), "expmap0", limits).factor
    new = root * mean.to(old.dtype)
    one = numbers(old).one
    times = [torch.sqrt(dot(x, x) + one) for x in (old, new)]
    both = midpoint(old.lerp(new, momentum), times[0].lerp(times[1], momentum), limits)
    new_mean = both * (radial(dot(both, both), "logmap0", limits).factor / root)
    return new_mean, running_dispersion.lerp(dispersion.to(running_dispersion.dtype), momentum)

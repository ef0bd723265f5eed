"""HIER and LHIER: hierarchical proxies as the common ancestors of related points (Bdeir Eq. 6)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hyplearn.errors import one_of
from hyplearn.losses.base import EmbeddingLoss, build_part
from hyplearn.losses.host import free_to_read
from hyplearn.losses.proxy_points import at_distance
from hyplearn.losses.triplets import Triplets, generator_on, reciprocal_triplets
from hyplearn.manifolds import CurvedManifold, manifold_parameter
from hyplearn.nn.space import Space

ProxyKind = Literal["manifold", "tangent"]

log = logging.getLogger(__name__)

# Entries of a temporary tensor (triplets x proxies): 4 MiB in float32.
BLOCK = 1 << 20

# Where the authors' proxies start: 0.9 of their clip radius 2.3, which in the ball is half the geodesic length.
RADIUS = 2 * 2.3 * 0.9


def hierarchical(
    distances: Tensor, triplets: Triplets, *, tau: float, margin: float, masked: bool, generator: torch.Generator
) -> Tensor:
    """Bdeir Eq. 6, mean over the triplets, with the common ancestors drawn from the proxies. A tensor ().

    distances: (N, M), of the points to the proxies. The ancestor of a pair (of a triplet) is drawn with logits
    -max(d)/tau, d over the two (three) distances to a proxy, by the straight-through Gumbel-softmax of temperature 1:
    one proxy in the forward pass, the softmax of the noisy logits in the backward pass. masked: as the authors' code,
    a triplet whose two ancestors are one proxy is worth 0; False: as printed, it is worth 3 margin, a constant whose
    gradient comes from the softmax alone. Without triplets 0, with gradient 0. Differentiable once.
    """
    if not len(triplets.anchor):
        return distances[:0].sum()
    loss: Tensor = _Hierarchical.apply(
        distances, triplets, tau, margin, masked, generator, distances.requires_grad and torch.is_grad_enabled()
    )
    return loss


class _Hierarchical(torch.autograd.Function):
    """Value and gradient in one pass over blocks of triplets: noise is drawn once, only the gradient (N, M) is kept."""

    @staticmethod
    def forward(
        ctx: Any,
        distances: Tensor,
        triplets: Triplets,
        tau: float,
        margin: float,
        masked: bool,
        generator: torch.Generator,
        with_gradient: bool,
    ) -> Tensor:
        noise = generator_on(generator, distances.device)
        total, gradient = distances.new_zeros(()), torch.zeros_like(distances) if with_gradient else None
        for block in triplets.split(max(1, BLOCK // max(1, distances.shape[1]))):
            costs = _noisy_costs(distances, block, tau, noise)
            ancestors = costs.argmin(2)
            hinges = _hinges(distances, block, ancestors, margin)
            active = hinges > 0 if block.counted is None else (hinges > 0) & block.counted[:, None]
            if masked:
                active &= (ancestors[:, 0] != ancestors[:, 1])[:, None]
            total += torch.where(active, hinges, 0.0).sum()
            if gradient is not None:
                _add_gradient(gradient, distances, block, costs, ancestors, active, tau)
        ctx.gradient = None if gradient is None else gradient / triplets.number
        return total / triplets.number

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad * ctx.gradient, None, None, None, None, None, None


def _rows(distances: Tensor, triplets: Triplets) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(distances.index_select(0, index) for index in triplets.indices)  # type: ignore[return-value]


def _noisy_costs(distances: Tensor, triplets: Triplets, tau: float, generator: torch.Generator) -> Tensor:
    """max(d)/tau minus Gumbel noise, of pairs and of triplets: (T, 2, M). The ancestor is where it is least.

    log(-log u) is minus the noise; u = 0 gives inf, a proxy that is not drawn. Numbers come in the order of the
    triplets, so the size of a block changes nothing.
    """
    d_i, d_j, d_k = _rows(distances, triplets)
    pair = torch.maximum(d_i, d_j)
    costs = torch.rand(len(pair), 2, pair.shape[1], dtype=pair.dtype, device=pair.device, generator=generator)
    costs.log_().neg_().log_()
    costs[:, 0].add_(pair, alpha=1 / tau)
    costs[:, 1].add_(torch.maximum(pair, d_k, out=pair), alpha=1 / tau)
    return costs


def _hinges(distances: Tensor, triplets: Triplets, ancestors: Tensor, margin: float) -> Tensor:
    """d(x_i, p_ij) - d(x_i, p_ijk) + margin and its two fellows, before the cut at 0: (T, 3)."""
    near, far = (distances[torch.stack(triplets.indices, 1), ancestors[:, which, None]] for which in (0, 1))
    return (near - far) * _signs(near) + margin


def _signs(like: Tensor) -> Tensor:
    """1, 1, -1 of point, partner and other one, (3,), without a copy from the host."""
    signs = like.new_ones(3)
    signs[2] = -1
    return signs


def _add_gradient(
    gradient: Tensor,
    distances: Tensor,
    triplets: Triplets,
    costs: Tensor,
    ancestors: Tensor,
    active: Tensor,
    tau: float,
) -> None:
    """Add the gradient of the summed hinges by the distances to `gradient` (N, M).

    With a_i, a_j, a_k = 1, 1, -1 where the hinge is active, and the one-hot choices w of the pair and w' of the
    triplet, the sum is v.(w - w') with v = a_i d_i + a_j d_j + a_k d_k. So the distances receive a (w - w') directly,
    and the logits, with their softmax s for w, s o (v - s.v) and its negative, passed on to the farthest of the points.
    """
    if free_to_read(active):  # most triplets have no active hinge
        used = active.any(1).nonzero().squeeze(1)
        triplets = Triplets(*(index[used] for index in triplets.indices))
        active, ancestors, costs = active[used], ancestors[used], costs.index_select(0, used)
    signs = active * _signs(costs)
    for which, sign in ((0, 1.0), (1, -1.0)):
        place = (torch.stack(triplets.indices, 1), ancestors[:, which, None].expand(-1, 3))
        gradient.index_put_(place, sign * signs, accumulate=True)
    d_i, d_j, d_k = _rows(distances, triplets)
    v = torch.addcmul(d_i * signs[:, :1], d_j, signs[:, 1:2]).addcmul_(d_k, signs[:, 2:])
    soft = costs.neg_().softmax(2)  # costs are not needed any more
    v = v[:, None] - torch.linalg.vecdot(soft, v[:, None]).unsqueeze(2)
    to_pair, to_triple = soft.mul_(v).unbind(1)
    to_pair, to_triple = to_pair.mul_(-1 / tau), to_triple.mul_(1 / tau)
    of_other = d_k > torch.maximum(d_i, d_j)
    to_other = to_triple * of_other
    to_pair = to_pair + to_triple - to_other
    to_anchor = to_pair * (d_i >= d_j)
    for index, part in zip(triplets.indices, (to_anchor, to_pair - to_anchor, to_other), strict=True):
        gradient.index_add_(0, index, part)


class HIER(EmbeddingLoss):
    """The hierarchical regulariser: points below proxies, plus proxies below proxies, each `hierarchical`.

    On the first hyperbolic space. On a Lorentz space, with `rescale`, it is LHIER (Bdeir Section 4.1).

    proxies: how many. tau, margin, masked: see `hierarchical`. topk, triplets: neighbours of a point and triplets per
    anchor, see `reciprocal_triplets`. label_boost: points of one class count as nearest, as in the authors' code; False
    leaves the labels out. parametrization: 'manifold', the proxies are points stepped by a Riemannian optimizer
    (Bdeir), or 'tangent', as in the authors' code they are Euclidean vectors u, mapped at every step to points at
    distance 2 |u|, |u| cut at `clip`, and with `riemannian` the gradient of these points is scaled by the inverse
    metric. radius: distance from the origin at which the proxies start, r.m.s. rescale: proxies are rescaled before use
    (Bdeir Eqs. 2-3).
    """

    def __init__(
        self,
        *,
        spaces: Sequence[Space],
        sizes: Sequence[int],
        proxies: int = 512,
        tau: float = 0.1,
        margin: float = 0.1,
        topk: int = 20,
        triplets: int = 50,
        masked: bool = True,
        label_boost: bool = True,
        parametrization: ProxyKind = "manifold",
        radius: float = RADIUS,
        rescale: bool = False,
        clip: float = 2.3,
        riemannian: bool = True,
    ) -> None:
        super().__init__()
        _check(proxies=proxies, tau=tau, topk=topk, triplets=triplets, radius=radius, clip=clip)
        if not margin >= 0:
            raise ValueError(f"margin={margin} must be >= 0, a geodesic distance; 0.1 in HIER")
        one_of("parametrization", parametrization, ProxyKind)
        self.tau, self.margin, self.topk, self.triplets = tau, margin, topk, triplets
        self.masked, self.label_boost, self.parametrization = masked, label_boost, parametrization
        self.rescale, self.clip, self.riemannian = rescale, clip, riemannian
        self.index = _first_hyperbolic(spaces)
        self.manifold = spaces[self.index].manifold
        self.within(spaces)
        vectors = radius / 2 * torch.randn(proxies, sizes[self.index]) / sizes[self.index] ** 0.5
        self.rho: nn.Parameter = (
            manifold_parameter(at_distance(2 * vectors, self.manifold), self.manifold)
            if parametrization == "manifold"
            else nn.Parameter(vectors)
        )

    def check(self, spaces: Sequence[Space], *, batch_size: int) -> None:
        """Warns where every point is a neighbour of every other, so that no triplet has a third point to push away."""
        for name, count in (("batch", batch_size), ("proxies", len(self.rho))):
            if count <= self.topk:
                log.warning(
                    "topk=%d covers all %d points of the %s: they form no triplets, and the regulariser of the %s is "
                    "0; lower topk or raise their number",
                    *(self.topk, count, name, name),
                )

    def points(self) -> Tensor:
        """The proxies as points, (proxies, n), before rescaling."""
        if self.parametrization == "manifold":
            return self.rho
        length = torch.linalg.vector_norm(self.rho, dim=-1, keepdim=True)
        points = at_distance(2 * self.rho * (self.clip / length.clamp_min(self.clip)), self.manifold)
        if self.riemannian and points.requires_grad:
            at = points.detach()
            points.register_hook(lambda gradient: self.manifold.egrad2rgrad(at, gradient))
        return points

    def compute(
        self, points: Sequence[Tensor], labels: Tensor, spaces: Sequence[Space], *, generator: torch.Generator | None
    ) -> Tensor:
        if generator is None:
            raise ValueError("generator=None: HIER draws triplets and ancestors; pass a torch.Generator of the run")
        x, space = points[self.index], spaces[self.index]
        if space.manifold is not self.manifold:
            raise ValueError(
                f"spaces[{self.index}] has another manifold object than the one HIER was built for; its proxies would "
                "keep an old curvature: pass the spaces of the model to both"
            )
        rho = self.manifold.rescale(self.points()) if self.rescale else self.points()
        with torch.no_grad():
            among = space.distance(x, x)
        below = space.distance(x, rho)
        own = space.distance(rho, rho)
        return self._term(among, labels if self.label_boost else None, below, generator) + self._term(
            own.detach(), None, own, generator
        )

    def _term(self, among: Tensor, labels: Tensor | None, below: Tensor, generator: torch.Generator) -> Tensor:
        triplets = reciprocal_triplets(among, labels, topk=self.topk, per_anchor=self.triplets, generator=generator)
        return hierarchical(below, triplets, tau=self.tau, margin=self.margin, masked=self.masked, generator=generator)

    def proxies(self) -> Mapping[str, Sequence[nn.Parameter]]:
        """Return the hierarchical proxies by the name of their parameter group."""
        return {"hierarchical_proxies": [self.rho]}

    def extra_repr(self) -> str:
        return (
            f"proxies={len(self.rho)}, tau={self.tau}, margin={self.margin}, topk={self.topk}, "
            f"triplets={self.triplets}, masked={self.masked}, parametrization={self.parametrization!r}, "
            f"rescale={self.rescale}"
        )


class HierarchicalLoss(EmbeddingLoss):
    """lambda_metric base + lambda_hier hier: a metric loss with the hierarchical regulariser.

    base, hier: an embedding loss and `HIER`, as classes or partials; what they take of spaces, sizes and num_classes
    is passed on. lambda_metric, lambda_hier: >= 0.
    """

    def __init__(
        self,
        *,
        spaces: Sequence[Space],
        sizes: Sequence[int],
        num_classes: int,
        base: Callable[..., EmbeddingLoss],
        hier: Callable[..., EmbeddingLoss],
        lambda_metric: float = 1.0,
        lambda_hier: float = 0.5,
    ) -> None:
        super().__init__()
        for name, value in (("lambda_metric", lambda_metric), ("lambda_hier", lambda_hier)):
            if not value >= 0:
                raise ValueError(f"{name}={value} must be >= 0: it is the weight of a loss")
        self.lambda_metric, self.lambda_hier = lambda_metric, lambda_hier
        self.within(spaces)
        self.base = build_part(base, spaces=spaces, sizes=sizes, num_classes=num_classes)
        self.hier = build_part(hier, spaces=spaces, sizes=sizes, num_classes=num_classes)
        self.least_per_class = max(self.base.least_per_class, self.hier.least_per_class)
        self.equal_per_class = self.base.equal_per_class or self.hier.equal_per_class

    def check(self, spaces: Sequence[Space], *, batch_size: int) -> None:
        self.base.check(spaces, batch_size=batch_size)
        self.hier.check(spaces, batch_size=batch_size)

    def compute(
        self, points: Sequence[Tensor], labels: Tensor, spaces: Sequence[Space], *, generator: torch.Generator | None
    ) -> Tensor:
        metric = self.base(points, labels, spaces, generator=generator)
        regulariser = self.hier(points, labels, spaces, generator=generator)
        total: Tensor = self.lambda_metric * metric + self.lambda_hier * regulariser
        return total

    def proxies(self) -> Mapping[str, Sequence[nn.Parameter]]:
        """Return the proxies of both parts."""
        return {**self.base.proxies(), **self.hier.proxies()}

    def scalars(self) -> Sequence[nn.Parameter]:
        """Return the learned scalars of the metric loss."""
        return self.base.scalars()

    def distance_weights(self, spaces: Sequence[Space]) -> tuple[float, ...]:
        """Return the distance weights of the metric loss."""
        return self.base.distance_weights(spaces)

    def extra_repr(self) -> str:
        return f"lambda_metric={self.lambda_metric}, lambda_hier={self.lambda_hier}"


def _first_hyperbolic(spaces: Sequence[Space]) -> int:
    for index, space in enumerate(spaces):
        if isinstance(space.manifold, CurvedManifold):
            return index
    raise ValueError(
        f"spaces are {[space.name for space in spaces]}, none hyperbolic; HIER needs a lorentz or poincare space: "
        "choose a hyp_, hier_ or lhier_ model, or a loss without hierarchical proxies"
    )


def _check(**positive: float) -> None:
    for name, value in positive.items():
        if not value > 0:
            raise ValueError(f"{name}={value} must be > 0 in HIER")

"""Losses of points and class proxies: ProxyAnchor, ProxyNCA, ProxyNCA++, SoftTriple and normalised softmax.

With similarity 'cosine' a proxy is a free vector of which only the directions count. With 'geometry' it is a point of
each space, given by a free vector at the origin (`placement.bounded`): any optimizer steps it, it stays finite, and it
need not move with a learned curvature.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from pytorch_metric_learning import losses as pml
from pytorch_metric_learning.utils.loss_and_miner_utils import logsumexp
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from hyplearn.losses.adapter import AdaptedLoss, Form, Similarity, side_by_side
from hyplearn.losses.host import mean_where, values
from hyplearn.losses.proxy_points import bounded
from hyplearn.manifolds import Sphere
from hyplearn.nn.space import Space

# Share of the embeddings' radius at which proxies of a hyperbolic or flat space start; HIER starts its own there too.
START = 0.9


class ClassProxyLoss(AdaptedLoss):
    """A loss with proxies, one vector (sum n_i) or several per class; a subclass says where they are and what to do."""

    def __init__(
        self,
        *,
        spaces: Sequence[Space],
        sizes: Sequence[int],
        num_classes: int,
        similarity: Similarity,
        scale: float,
    ) -> None:
        super().__init__(similarity=similarity, scale=scale)
        if num_classes < 1:
            raise ValueError(f"num_classes={num_classes} must be >= 1, the number of training classes")
        if len(spaces) != len(sizes):
            raise ValueError(f"sizes={list(sizes)} must name one size for each of {len(spaces)} spaces")
        self.sizes, self.num_classes = list(sizes), num_classes
        self.within(spaces)

    @property
    @abstractmethod
    def vectors(self) -> nn.Parameter:
        """The proxies as they are learned."""

    @abstractmethod
    def value(self, x: Tensor, labels: Tensor, proxies: Tensor) -> Tensor:
        """The loss of points x (B, sum n_i) and proxies (P, sum n_i)."""

    def start(self, vectors: Tensor, spaces: Sequence[Space]) -> None:
        """Draw the first proxies in place, (P, sum n_i).

        With 'geometry', N(0, 1) at a distance of about START scale outside of spheres.
        """
        if self.distance.similarity == "cosine":
            return
        for block, space in zip(vectors.split(self.sizes, 1), spaces, strict=True):
            if not isinstance(space.manifold, Sphere):
                block.normal_(std=START * self.distance.scale / block.shape[1] ** 0.5)

    def placed(self, vectors: Tensor, spaces: Sequence[Space]) -> Tensor:
        """Proxies as points side by side, (P, sum n_i) to (P, sum n_i)."""
        if self.distance.similarity == "cosine":
            return vectors
        blocks = zip(vectors.split(self.sizes, 1), spaces, strict=True)
        return torch.cat([bounded(block, space) for block, space in blocks], 1)

    def compute(
        self, points: Sequence[Tensor], labels: Tensor, spaces: Sequence[Space], *, generator: torch.Generator | None
    ) -> Tensor:
        x, sizes = side_by_side(points)
        self._check(labels, sizes)
        with self.distance.over(spaces, sizes):
            return self.value(x, labels, self.placed(self._rows(self.vectors), spaces).to(x.dtype))

    def _rows(self, vectors: Tensor) -> Tensor:
        return vectors

    def _check(self, labels: Tensor, sizes: Sequence[int]) -> None:
        if list(sizes) != self.sizes:
            raise ValueError(f"points have sizes {list(sizes)}, the proxies {self.sizes}; build both for one model")
        present = values(labels)
        low, high = int(present.min()), int(present.max())
        if not 0 <= low <= high < self.num_classes:
            raise ValueError(
                f"labels in [{low}, {high}] must lie in [0, {self.num_classes}), one for each of num_classes="
                f"{self.num_classes} proxies"
            )

    def proxies(self) -> Mapping[str, Sequence[nn.Parameter]]:
        """Return the class proxies by the name of their parameter group."""
        return {"class_proxies": [self.vectors]}

    def extra_repr(self) -> str:
        return f"num_classes={self.num_classes}, {super().extra_repr()}"


class _PMLProxyLoss(ClassProxyLoss):
    """A loss of pytorch-metric-learning, whose own parameter holds the vectors and sees the points in their place."""

    parameter = "proxies"
    transposed = False

    def __init__(
        self,
        metric: nn.Module,
        *,
        spaces: Sequence[Space],
        sizes: Sequence[int],
        num_classes: int,
        similarity: Similarity,
        scale: float,
    ) -> None:
        super().__init__(spaces=spaces, sizes=sizes, num_classes=num_classes, similarity=similarity, scale=scale)
        self.metric = metric
        metric.distance = self.distance
        self.start(self._rows(self.vectors.data), spaces)

    @property
    def vectors(self) -> nn.Parameter:
        vectors: nn.Parameter = getattr(self.metric, self.parameter)
        return vectors

    def _rows(self, vectors: Tensor) -> Tensor:
        return vectors.mT if self.transposed else vectors

    def value(self, x: Tensor, labels: Tensor, proxies: Tensor) -> Tensor:
        loss: Tensor = functional_call(self.metric, {self.parameter: self._rows(proxies)}, (x, labels))
        return loss.reshape(())

    def own(self, labels: Tensor) -> Tensor:
        """(B, num_classes) bool: the class of each point."""
        return labels[:, None] == torch.arange(self.num_classes, device=labels.device)


class ProxyAnchor(_PMLProxyLoss):
    """Proxy Anchor (Kim et al. 2020), the base loss of HIER: similarity s, margin, alpha as printed.

    Mean over the classes present of log(1 + sum_pos exp(-alpha (s - margin))) plus mean over all of
    log(1 + sum_neg exp(alpha (s + margin))). The number of classes present is known without the device.
    """

    def __init__(
        self,
        *,
        spaces: Sequence[Space],
        sizes: Sequence[int],
        num_classes: int,
        margin: float = 0.1,
        alpha: float = 32.0,
        similarity: Similarity = "cosine",
        scale: float = 4.6,
    ) -> None:
        super().__init__(
            pml.ProxyAnchorLoss(num_classes, sum(sizes), margin=margin, alpha=alpha),
            spaces=spaces,
            sizes=sizes,
            num_classes=num_classes,
            similarity=similarity,
            scale=scale,
        )
        self.margin, self.alpha = margin, alpha

    def value(self, x: Tensor, labels: Tensor, proxies: Tensor) -> Tensor:
        own, s = self.own(labels), self.distance(x, proxies)
        pull = logsumexp(self.alpha * (self.margin - s), keep_mask=own, add_one=True, dim=0)
        push = logsumexp(self.alpha * (s + self.margin), keep_mask=~own, add_one=True, dim=0)
        total: Tensor = pull.sum() / len(np.unique(values(labels))) + push.sum() / self.num_classes
        return total


class ProxyNCA(_PMLProxyLoss):
    """ProxyNCA as pytorch-metric-learning has it: -log of the own proxy's share in the softmax of -softmax_scale D.

    D is the squared chord. A sample whose share underflows is left out of the mean there; `ProxyNCAPlusPlus` keeps it.
    """

    form: Form = "square"

    def __init__(
        self,
        *,
        spaces: Sequence[Space],
        sizes: Sequence[int],
        num_classes: int,
        softmax_scale: float = 1.0,
        similarity: Similarity = "cosine",
        scale: float = 4.6,
    ) -> None:
        super().__init__(
            pml.ProxyNCALoss(num_classes, sum(sizes), softmax_scale=softmax_scale),
            spaces=spaces,
            sizes=sizes,
            num_classes=num_classes,
            similarity=similarity,
            scale=scale,
        )
        self.softmax_scale = softmax_scale

    def value(self, x: Tensor, labels: Tensor, proxies: Tensor) -> Tensor:
        shares = torch.softmax(self.softmax_scale * -self.distance(x, proxies), dim=1)
        share = (shares * self.own(labels).to(shares.dtype)).sum(1)
        there = share != 0
        return mean_where(-torch.where(there, share, 1).log(), there)


class SoftTriple(_PMLProxyLoss):
    """SoftTriple (Qian et al. 2019): several centres per class, their similarities averaged by a softmax over gamma.

    la, gamma, margin, centers_per_class as printed; without the regulariser that merges centres of a class.
    """

    parameter, transposed = "fc", True

    def __init__(
        self,
        *,
        spaces: Sequence[Space],
        sizes: Sequence[int],
        num_classes: int,
        centers_per_class: int = 10,
        la: float = 20.0,
        gamma: float = 0.1,
        margin: float = 0.01,
        similarity: Similarity = "cosine",
        scale: float = 4.6,
    ) -> None:
        metric = pml.SoftTripleLoss(
            num_classes, sum(sizes), centers_per_class=centers_per_class, la=la, gamma=gamma, margin=margin
        )
        super().__init__(
            metric, spaces=spaces, sizes=sizes, num_classes=num_classes, similarity=similarity, scale=scale
        )


class NormalizedSoftmax(_PMLProxyLoss):
    """Normalised softmax (Zhai and Wu 2019): cross entropy of similarities to one proxy per class over temperature."""

    parameter, transposed = "W", True

    def __init__(
        self,
        *,
        spaces: Sequence[Space],
        sizes: Sequence[int],
        num_classes: int,
        temperature: float = 0.05,
        similarity: Similarity = "cosine",
        scale: float = 4.6,
    ) -> None:
        _check_temperature(temperature)
        super().__init__(
            pml.NormalizedSoftmaxLoss(num_classes, sum(sizes), temperature=temperature),
            spaces=spaces,
            sizes=sizes,
            num_classes=num_classes,
            similarity=similarity,
            scale=scale,
        )


class ArcFace(_PMLProxyLoss):
    """ArcFace (Deng et al. 2019): cross entropy of logit_scale cos(angle to each proxy), plus margin for the own one.

    margin: in radians, 0.5 as printed; logit_scale: s there, 64. With similarity 'geometry' the angle is that of the
    similarity 1 - distance / scale in a space that is no sphere.
    """

    parameter, transposed = "W", True

    def __init__(
        self,
        *,
        spaces: Sequence[Space],
        sizes: Sequence[int],
        num_classes: int,
        margin: float = 0.5,
        logit_scale: float = 64.0,
        similarity: Similarity = "cosine",
        scale: float = 4.6,
    ) -> None:
        if not 0 <= margin < math.pi:
            raise ValueError(f"margin={margin} must lie in [0, pi): an angle in radians, 0.5 as printed")
        if not logit_scale > 0:
            raise ValueError(f"logit_scale={logit_scale} must be > 0: it multiplies the cosines, 64 as printed")
        super().__init__(
            pml.ArcFaceLoss(num_classes, sum(sizes), margin=math.degrees(margin), scale=logit_scale),
            spaces=spaces,
            sizes=sizes,
            num_classes=num_classes,
            similarity=similarity,
            scale=scale,
        )
        self.margin, self.logit_scale = margin, logit_scale

    def value(self, x: Tensor, labels: Tensor, proxies: Tensor) -> Tensor:
        s = self.distance(x, proxies)
        edge = 1 - torch.finfo(s.dtype).eps  # where the slope of the angle is still finite
        angle = s.clamp(-edge, edge).acos()
        falling = angle <= math.pi - self.margin
        far = s - self.margin * math.sin(self.margin)  # as the authors continue it, so that it goes on falling
        target = torch.where(falling, (angle + self.margin).cos(), far)
        return F.cross_entropy(self.logit_scale * torch.where(self.own(labels), target, s), labels)


class ProxyNCAPlusPlus(ClassProxyLoss):
    """ProxyNCA++ (Teh et al. 2020): mean of -log softmax(-D / temperature) of the own proxy, D the squared chord."""

    form: Form = "square"

    def __init__(
        self,
        *,
        spaces: Sequence[Space],
        sizes: Sequence[int],
        num_classes: int,
        temperature: float = 1 / 9,
        similarity: Similarity = "cosine",
        scale: float = 4.6,
    ) -> None:
        super().__init__(spaces=spaces, sizes=sizes, num_classes=num_classes, similarity=similarity, scale=scale)
        _check_temperature(temperature)
        self.temperature = temperature
        self.rho = nn.Parameter(torch.randn(num_classes, sum(sizes)))
        self.start(self.rho.data, spaces)

    @property
    def vectors(self) -> nn.Parameter:
        return self.rho

    def value(self, x: Tensor, labels: Tensor, proxies: Tensor) -> Tensor:
        return F.cross_entropy(-self.distance(x, proxies) / self.temperature, labels)


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(f"temperature={temperature} must be > 0")

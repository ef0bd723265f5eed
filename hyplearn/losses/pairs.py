"""Losses of pairs and triplets of a batch through pytorch-metric-learning, and of a batch with a memory."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence

import torch
from pytorch_metric_learning import losses as pml
from torch import Tensor, nn
from torch.nn import functional as F

from hyplearn.losses.adapter import AdaptedLoss, Form, Similarity, side_by_side
from hyplearn.losses.base import EmbeddingLoss, build_part
from hyplearn.losses.host import free_to_read, mean_where
from hyplearn.losses.miners import MinerName, build_miner, mined_triplets
from hyplearn.losses.triplets import draw_triplets
from hyplearn.manifolds import CurvedManifold
from hyplearn.nn.space import Space


class PairLoss(AdaptedLoss):
    """A loss over pairs (or triplets) of points of a batch and others, which are those of the batch, or a memory."""

    least_per_class = 2

    def compute(
        self, points: Sequence[Tensor], labels: Tensor, spaces: Sequence[Space], *, generator: torch.Generator | None
    ) -> Tensor:
        itself = torch.arange(len(labels), device=labels.device)
        return self.between(points, labels, points, labels, itself, spaces, generator=generator)

    def between(
        self,
        points: Sequence[Tensor],
        labels: Tensor,
        others: Sequence[Tensor],
        other_labels: Tensor,
        itself: Tensor,
        spaces: Sequence[Space],
        *,
        generator: torch.Generator | None,
        there: Tensor | None = None,
    ) -> Tensor:
        """The loss of points (B, n_i) with others (M, n_i). itself: (B,), which of the others a point is; no pair.

        there: (M,) bool, which of the others are there at all; None for all.
        """
        x, sizes = side_by_side(points)
        y = x if others is points else side_by_side(others)[0]
        positive = labels[:, None] == other_labels
        negative = ~positive
        positive[torch.arange(len(labels), device=labels.device), itself] = False
        if there is not None:
            positive, negative = positive & there, negative & there
        with self.distance.over(spaces, sizes):
            loss = self.value(x, labels, y, other_labels, positive, negative, generator)
        return loss.reshape(())

    @abstractmethod
    def value(
        self,
        x: Tensor,
        labels: Tensor,
        y: Tensor,
        other_labels: Tensor,
        positive: Tensor,
        negative: Tensor,
        generator: torch.Generator | None,
    ) -> Tensor:
        """The loss of points x (B, sum n_i) with y (M, sum n_i) over pairs (B, M), positive and negative ones."""


def _several(positive: Tensor, negative: Tensor) -> Tensor:
    """1 where there are two pairs of one kind, else 0: pytorch-metric-learning has no loss of a single pair."""
    return ((positive.sum() > 1) | (negative.sum() > 1)).float()


class Contrastive(PairLoss):
    """Contrastive loss on similarities: [pos_margin - s]+ of positive and [s - neg_margin]+ of negative pairs.

    Each is the mean over the pairs where it is not 0. Margins 1 and 0.5 are those of cross-batch memory.
    """

    def __init__(
        self,
        *,
        pos_margin: float = 1.0,
        neg_margin: float = 0.5,
        similarity: Similarity = "cosine",
        scale: float = 4.6,
    ) -> None:
        super().__init__(similarity=similarity, scale=scale)
        self.pos_margin, self.neg_margin = pos_margin, neg_margin

    def value(
        self,
        x: Tensor,
        labels: Tensor,
        y: Tensor,
        other_labels: Tensor,
        positive: Tensor,
        negative: Tensor,
        generator: torch.Generator | None,
    ) -> Tensor:
        s = self.distance(x, y)
        pull, push = F.relu(self.pos_margin - s), F.relu(s - self.neg_margin)
        total = mean_where(pull, positive & (pull > 0)) + mean_where(push, negative & (push > 0))
        return total * _several(positive, negative)


class MultiSimilarity(PairLoss):
    """Multi-similarity loss (Wang et al. 2019), mean over the samples of

    log(1 + sum_pos exp(-alpha (s - base))) / alpha + log(1 + sum_neg exp(beta (s - base))) / beta.

    epsilon: the pairs are those of the paper's miner with this epsilon (0.1 there); None: all pairs, as in HIER's code.
    """

    def __init__(
        self,
        *,
        alpha: float = 2.0,
        beta: float = 50.0,
        base: float = 0.5,
        epsilon: float | None = None,
        similarity: Similarity = "cosine",
        scale: float = 4.6,
    ) -> None:
        super().__init__(similarity=similarity, scale=scale)
        self.metric = pml.MultiSimilarityLoss(alpha=alpha, beta=beta, base=base, distance=self.distance)
        self.epsilon = epsilon

    def value(
        self,
        x: Tensor,
        labels: Tensor,
        y: Tensor,
        other_labels: Tensor,
        positive: Tensor,
        negative: Tensor,
        generator: torch.Generator | None,
    ) -> Tensor:
        s = self.distance(x, y)
        if self.epsilon is not None:
            positive, negative = self._mined(s.detach(), positive, negative, itself_too=y is not x)
        losses: Tensor = self.metric._compute_loss(s, positive, negative)["loss"]["losses"]
        return losses.mean() * _several(positive, negative)

    def _mined(self, s: Tensor, positive: Tensor, negative: Tensor, *, itself_too: bool) -> tuple[Tensor, Tensor]:
        """Return the pairs that the paper's miner keeps.

        Positives less similar than the most similar negative plus epsilon, and negatives more similar than the least
        similar positive minus epsilon. itself_too: the copy of a point in a memory counts as its positive there.
        """
        assert self.epsilon is not None
        limits = torch.finfo(s.dtype)
        compared = ~negative if itself_too else positive
        least = s.masked_fill(~compared, limits.max).amin(1, keepdim=True)
        most = s.masked_fill(~negative, limits.min).amax(1, keepdim=True)
        return positive & (s - self.epsilon < most), negative & (s + self.epsilon > least)


class Margin(PairLoss):
    """Margin loss (Wu et al. 2017): [d - beta + margin]+ of positive and [beta - d + margin]+ of negative pairs.

    d is the chord. triplets: how many (positive, negative) are drawn uniformly for each anchor. learn_beta: beta is a
    parameter, with nu beta added to the loss.
    """

    form: Form = "length"

    def __init__(
        self,
        *,
        margin: float = 0.2,
        beta: float = 1.2,
        nu: float = 0.0,
        learn_beta: bool = False,
        triplets: int = 50,
        similarity: Similarity = "cosine",
        scale: float = 4.6,
    ) -> None:
        super().__init__(similarity=similarity, scale=scale)
        if triplets < 1:
            raise ValueError(f"triplets={triplets} must be >= 1, the triplets drawn for each anchor")
        self.triplets, self.margin, self.nu = triplets, margin, nu
        self.metric = pml.MarginLoss(margin=margin, beta=beta, nu=nu, learn_beta=learn_beta, distance=self.distance)
        self.fixed_beta = None if learn_beta else self.metric.beta.item()

    def value(
        self,
        x: Tensor,
        labels: Tensor,
        y: Tensor,
        other_labels: Tensor,
        positive: Tensor,
        negative: Tensor,
        generator: torch.Generator | None,
    ) -> Tensor:
        if generator is None:
            raise ValueError("generator=None: Margin draws triplets; pass a torch.Generator of the run")
        drawn = draw_triplets(positive, negative, per_anchor=self.triplets, generator=generator)
        beta = self.metric.beta.to(x.dtype) if self.fixed_beta is None else self.fixed_beta
        d = self.distance(x, y)
        pull = F.relu(d[drawn.anchor, drawn.partner] - beta + self.margin)
        push = F.relu(beta - d[drawn.anchor, drawn.other] + self.margin)
        losses = pull + push
        counted = torch.ones_like(drawn.anchor, dtype=torch.bool) if drawn.counted is None else drawn.counted
        active = ((pull > 0) & counted).sum() + ((push > 0) & counted).sum()
        total = losses.masked_fill(~counted, 0).sum() / active.clamp_min(1)
        return total if self.fixed_beta is not None else total + beta * self.nu * counted.any()


class Triplet(PairLoss):
    """Triplet loss (Schroff et al. 2015): mean of [d(a, p) - d(a, n) + margin]+ over the triplets where it is not 0.

    d is the chord, see `SpaceDistance`. miner: which triplets, by its name in `hyplearn.losses.miners`; 'all': all.
    Miners are pytorch-metric-learning's, and wait for a GPU at every step; 'all' does not.
    """

    form: Form = "length"

    def __init__(
        self,
        *,
        margin: float = 0.2,
        miner: MinerName = "semi_hard",
        similarity: Similarity = "cosine",
        scale: float = 4.6,
    ) -> None:
        super().__init__(similarity=similarity, scale=scale)
        if not margin > 0:
            raise ValueError(f"margin={margin} must be > 0: without one, points that fall together have no loss")
        self.margin = margin
        self.miner = build_miner(miner, self.distance, margin=margin)

    def value(
        self,
        x: Tensor,
        labels: Tensor,
        y: Tensor,
        other_labels: Tensor,
        positive: Tensor,
        negative: Tensor,
        generator: torch.Generator | None,
    ) -> Tensor:
        d = self.distance(x, y)
        if self.miner is None:
            allowed = positive[:, :, None] & negative[:, None, :]
            losses = F.relu(d[:, :, None] - d[:, None, :] + self.margin)
            return mean_where(losses, allowed & (losses > 0))
        anchor, near, far = mined_triplets(self.miner, x, labels, y, other_labels)
        losses = F.relu(d[anchor, near] - d[anchor, far] + self.margin)
        return mean_where(losses, positive[anchor, near] & negative[anchor, far] & (losses > 0))


class FastAP(AdaptedLoss):
    """FastAP (Cakir et al. 2019): 1 - average precision of every sample, from soft histograms of num_bins distances.

    The bins divide u in [0, 2] of `SpaceDistance`; what is farther counts in the last one.
    """

    form: Form = "share"
    least_per_class = 2

    def __init__(self, *, num_bins: int = 10, similarity: Similarity = "cosine", scale: float = 4.6) -> None:
        super().__init__(similarity=similarity, scale=scale)
        if num_bins < 1:
            raise ValueError(f"num_bins={num_bins} must be >= 1")
        self.num_bins = num_bins

    def compute(
        self, points: Sequence[Tensor], labels: Tensor, spaces: Sequence[Space], *, generator: torch.Generator | None
    ) -> Tensor:
        x, sizes = side_by_side(points)
        with self.distance.over(spaces, sizes):
            u = self.distance(x, x)
        negative = labels[:, None] != labels
        positive = ~negative
        positive.fill_diagonal_(False)
        middles = torch.linspace(0.0, 2.0, steps=self.num_bins + 1, device=u.device, dtype=u.dtype).view(-1, 1, 1)
        pulse = F.relu(1 - torch.abs(u - middles) / (2 / self.num_bins))
        near, far = ((pulse * pairs.to(u.dtype)).sum(2).mT for pairs in (positive, negative))
        before, all_before = near.cumsum(1), (near + far).cumsum(1)
        product = near * before
        used = (product > 0) & (all_before > 0)
        precision = torch.where(used, product / torch.where(used, all_before, 1), 0).sum(1)
        mates = positive.to(u.dtype).sum(1)
        return mean_where(1 - precision / mates.clamp_min(1), (mates > 0) & used.any())


class CrossBatchMemory(EmbeddingLoss):
    """Cross-batch memory (Wang et al. 2020): the batch against itself and the `size` latest points before it.

    base: `Contrastive` or `MultiSimilarity` or `Margin`, as class or partial. The batch enters the memory first, in the
    order given and without gradient, and a point is never compared with its own copy. Kept are tangent vectors at the
    origin, which mean the same point when a learned curvature moves, in buffers that are saved with the model. In
    evaluation the batch is compared with itself alone, and nothing is kept.
    """

    least_per_class = 1

    def __init__(
        self, *, spaces: Sequence[Space], sizes: Sequence[int], base: Callable[..., EmbeddingLoss], size: int = 1024
    ) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"size={size} must be >= 1, the number of points in the memory")
        built = build_part(base, spaces=spaces, sizes=sizes)
        if not isinstance(built, PairLoss):
            raise ValueError(
                f"base={type(built).__name__} has no form with a memory; take Contrastive, MultiSimilarity or Margin"
            )
        self.base, self.size, self.sizes = built, size, list(sizes)
        self.within(spaces)
        self.memory: Tensor
        self.labels: Tensor
        self.written: Tensor
        self.register_buffer("memory", torch.zeros(size, sum(sizes)))
        self.register_buffer("labels", torch.full((size,), -1))
        self.register_buffer("written", torch.zeros((), dtype=torch.int64))

    @property
    def sees_directions(self) -> bool:
        """Whether the loss between the points compares directions alone."""
        return self.base.sees_directions

    def check(self, spaces: Sequence[Space], *, batch_size: int) -> None:
        if batch_size > self.size:
            raise ValueError(
                f"size={self.size} of the memory must be at least the batch, {batch_size} points of all processes"
            )

    def compute(
        self, points: Sequence[Tensor], labels: Tensor, spaces: Sequence[Space], *, generator: torch.Generator | None
    ) -> Tensor:
        if not self.training:
            return self.base.compute(points, labels, spaces, generator=generator)
        place = self._enqueue(points, labels, spaces)
        filled, there = self.size, None
        if free_to_read(self.written):
            filled = min(int(self.written), self.size)
        else:
            there = torch.arange(self.size, device=self.written.device) < self.written
        blocks = self.memory[:filled].to(points[0].dtype, copy=True).split(self.sizes, 1)
        with torch.no_grad():
            others = [_from_origin(v, space) for v, space in zip(blocks, spaces, strict=True)]
        return self.base.between(
            points, labels, others, self.labels[:filled], place, spaces, generator=generator, there=there
        )

    @torch.no_grad()
    def _enqueue(self, points: Sequence[Tensor], labels: Tensor, spaces: Sequence[Space]) -> Tensor:
        """Put the batch into the memory and return where each of its points stands there, (B,)."""
        self.check(spaces, batch_size=len(labels))
        place = (self.written + torch.arange(len(labels), device=labels.device)) % self.size
        vectors = [_to_origin(x, space) for x, space in zip(points, spaces, strict=True)]
        self.memory[place] = torch.cat(vectors, 1).to(self.memory.dtype)
        self.labels[place] = labels
        self.written += len(labels)
        return place

    def proxies(self) -> Mapping[str, Sequence[nn.Parameter]]:
        """Return the proxies of the base loss."""
        return self.base.proxies()

    def distance_weights(self, spaces: Sequence[Space]) -> tuple[float, ...]:
        """Return the distance weights of the base loss."""
        return self.base.distance_weights(spaces)

    def extra_repr(self) -> str:
        return f"size={self.size}"


def _to_origin(x: Tensor, space: Space) -> Tensor:
    vectors: Tensor = space.manifold.logmap0(x) if isinstance(space.manifold, CurvedManifold) else x
    return vectors


def _from_origin(v: Tensor, space: Space) -> Tensor:
    points: Tensor = space.manifold.expmap0(v) if isinstance(space.manifold, CurvedManifold) else v
    return points

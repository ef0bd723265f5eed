"""Which negatives the pairwise loss listens to: the weights p(x-) of Yue Section 3.2 and how geometries differ in them.

The gradient of the loss of one anchor is sum_k p_k grad(D_+ - D_k) / tau over its negatives k (Eqs. 8-9), where
p_k = exp(-D_k/tau) / (exp(-D_+/tau) + sum_l exp(-D_l/tau)). Anchors, positives and negatives are those of the loss, see
`pairwise.pair_losses`; in a model of several spaces D/tau is the sum of Eq. 10. `scales` are the weight/tau of each
space, as `PairwiseCrossEntropy.distance_weights` gives them. Nothing here has a gradient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from hyplearn.losses.pairwise import slot_logits, slots
from hyplearn.manifolds.precision import promote
from hyplearn.nn.space import Space, space_names

TOP = (1, 5, 10)


@dataclass(frozen=True)
class TripletWeights:
    """Weights of the negatives under one metric, means over all anchors and positives of a batch.

    total: sum of p over the negatives, 1 - p of the positive: 0 when the anchor is solved. largest: the largest p of
    the batch. The others describe the negatives among themselves, q = p / total: entropy in nats, at most that of a
    uniform choice, log(2 N - 2); effective, exp(entropy), their effective number; top, the sum of the largest k of q.
    """

    total: float
    largest: float
    entropy: float
    effective: float
    top: dict[int, float]

    def as_row(self) -> dict[str, float]:
        shares = {f"top{k}": share for k, share in self.top.items()}
        return {
            "total": self.total,
            "largest": self.largest,
            "entropy": self.entropy,
            "effective": self.effective,
        } | shares


@dataclass(frozen=True)
class HardNegatives:
    """fused: of the metric that is trained. single: of each space alone, empty if there is one.

    overlap, jaccard: for each two spaces, how many of the `nearest` images of other classes (Fig. 1: 6) they have in
    common, as a share of one set and of the union; means over the batch.
    """

    fused: TripletWeights
    single: dict[str, TripletWeights]
    overlap: dict[tuple[str, str], float]
    jaccard: dict[tuple[str, str], float]

    def as_row(self) -> dict[str, float]:
        """Flat: hard_negatives/entropy, hard_negatives/top5_sphere, hard_negatives/overlap_sphere_poincare, ..."""
        row = dict(self.fused.as_row())
        for name, weights in self.single.items():
            row |= {f"{key}_{name}": value for key, value in weights.as_row().items()}
        row |= {f"overlap_{a}_{b}": share for (a, b), share in self.overlap.items()}
        row |= {f"jaccard_{a}_{b}": share for (a, b), share in self.jaccard.items()}
        return {f"hard_negatives/{key}": value for key, value in row.items()}


def _triplets(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of the positives, (P, N), and of their negatives, (P, N, 2 N) with -inf for the own class.

    logits: (m, N, m, N) of `slot_logits`; P = m (m - 1) ordered pairs of slots.
    """
    m, n = logits.shape[:2]
    own = torch.eye(n, dtype=torch.bool, device=logits.device)[:, None]
    others = logits.masked_fill(own, -math.inf).transpose(1, 2)  # [i, j, a, b]
    within = others.diagonal(dim1=0, dim2=1).movedim(-1, 0).unsqueeze(1).expand_as(others)  # the slot of the anchor
    pairs = ~torch.eye(m, dtype=torch.bool, device=logits.device)
    return logits.diagonal(dim1=1, dim2=3)[pairs], torch.cat([others, within], dim=-1)[pairs]


def _weights(logits: Tensor, top: Sequence[int]) -> TripletWeights:
    positive, negative = _triplets(logits)
    q = negative.softmax(-1)
    total = (negative.logsumexp(-1) - positive).sigmoid()
    entropy = torch.special.entr(q).sum(-1)
    largest = q.topk(min(max(top), q.shape[-1])).values.cumsum(-1)  # all but 2 N - 2 are 0
    numbers = torch.stack(
        [
            total.mean(),
            (total * largest[..., 0]).max(),
            entropy.mean(),
            entropy.exp().mean(),
            *(largest[..., min(k, q.shape[-1]) - 1].mean() for k in top),
        ]
    ).tolist()
    total_mean, p_max, entropy_mean, effective, *shares = numbers
    return TripletWeights(total_mean, p_max, entropy_mean, effective, dict(zip(top, shares, strict=True)))


def _nearest(logits: Tensor, nearest: int) -> Tensor:
    """Mark the images that are among the `nearest` of other classes, (B, B) bool."""
    m, n = logits.shape[:2]
    own = torch.eye(n, dtype=torch.bool, device=logits.device)[:, None]
    flat = logits.masked_fill(own, -math.inf).reshape(m * n, m * n)
    found = flat.topk(nearest).indices
    return torch.zeros_like(flat, dtype=torch.bool).scatter_(1, found, True)


@torch.no_grad()
def hard_negatives(
    points: Sequence[Tensor],
    labels: Tensor,
    spaces: Sequence[Space],
    scales: Sequence[float],
    *,
    top: Sequence[int] = TOP,
    nearest: int = 6,
) -> HardNegatives:
    """Statistics of a batch, of the metric that is trained and of each of its spaces.

    points, labels, spaces: of the loss, with the same demands on the batch. scales: > 0, weight/tau of each space. top:
    shares of the largest k weights, 1 where there are at most k negatives. nearest: how many images of other classes
    make the hard set of an anchor whose overlap is measured; ValueError if the batch has fewer.
    """
    if min(top) < 1:
        raise ValueError(f"top={tuple(top)} must be numbers of negatives, 1 or more")
    order = slots(labels)
    others = order.numel() - order.shape[0]
    if not 1 <= nearest <= others:
        raise ValueError(f"nearest={nearest} must lie between 1 and {others}, the images of other classes in the batch")
    points = [promote(x) for x in points]
    factors = [torch.as_tensor(scale, dtype=x.dtype, device=x.device) for x, scale in zip(points, scales, strict=True)]
    each = [
        slot_logits([x], order, [space], [factor]) for x, space, factor in zip(points, spaces, factors, strict=True)
    ]
    names = space_names(spaces)
    fused = _weights(torch.stack(each).sum(0) if len(each) > 1 else each[0], top)
    if len(each) == 1:
        return HardNegatives(fused, {}, {}, {})
    sets = dict(zip(names, (_nearest(logits, nearest) for logits in each), strict=True))
    common = {(a, b): (sets[a] & sets[b]).sum(-1) for a, b in combinations(names, 2)}
    return HardNegatives(
        fused=fused,
        single={name: _weights(logits, top) for name, logits in zip(names, each, strict=True)},
        overlap={pair: (number / nearest).mean().item() for pair, number in common.items()},
        jaccard={pair: (number / (2 * nearest - number)).mean().item() for pair, number in common.items()},
    )


@dataclass(frozen=True)
class WeightCurve:
    """The negatives of one anchor in ascending order of D/tau, raw as in Yue Fig. 3.

    anchor, positive: indices in the batch. positive_distances: (spaces,), D_+. negatives: (2 N - 2,), indices in the
    batch. distances: (spaces, 2 N - 2), D_k. weights: (2 N - 2,), p_k.
    """

    anchor: int
    positive: int
    positive_distances: Tensor
    negatives: Tensor
    distances: Tensor
    weights: Tensor


@torch.no_grad()
def weight_curve(
    points: Sequence[Tensor],
    labels: Tensor,
    spaces: Sequence[Space],
    scales: Sequence[float],
    *,
    anchor: int,
    positive: int | None = None,
) -> WeightCurve:
    """The sorted weights of one anchor. positive: another image of its class, by default the next one in the batch.

    anchor, positive: indices in the batch, ValueError for those that are no pair. Everything else as in
    `hard_negatives`.
    """
    points, order = [promote(x) for x in points], slots(labels)
    if not 0 <= anchor < len(labels):
        raise ValueError(f"anchor={anchor} must be an index in the batch of {len(labels)}")
    own = (labels == labels[anchor]).nonzero().flatten().tolist()
    if positive is None:
        positive = own[(own.index(anchor) + 1) % len(own)]
    if positive == anchor or positive not in own:
        raise ValueError(f"positive={positive} must be another image of the class of anchor={anchor}: one of {own}")
    used = order[[own.index(anchor), own.index(positive)]].flatten()
    negatives = used[labels[used] != labels[anchor]]
    rows = torch.cat([s.distance(x[anchor : anchor + 1], x) for x, s in zip(points, spaces, strict=True)])
    exponent = -(rows * torch.tensor(scales, dtype=rows.dtype, device=rows.device).unsqueeze(-1)).sum(0)
    negatives = negatives[exponent[negatives].argsort(descending=True, stable=True)]
    weights = exponent[torch.cat([negatives.new_tensor([positive]), negatives])].softmax(0)[1:]
    return WeightCurve(anchor, positive, rows[:, positive], negatives, rows[:, negatives], weights)

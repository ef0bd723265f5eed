"""Pairwise cross-entropy in one geometry (Yue Eqs. 4-6) and in several at once (Mix, Yue Eq. 10)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hyplearn.errors import one_of
from hyplearn.losses.base import EmbeddingLoss
from hyplearn.losses.host import values
from hyplearn.nn.space import Space, distances

Convention = Literal["distance", "dot"]
Reduction = Literal["pairs_sum", "mean", "sum", "m2"]


def slots(labels: Tensor) -> Tensor:
    """Return where in the batch the i-th image of each class stands: (B,) to (m, N), classes in ascending order.

    The i-th images of all classes form slot i; the order within a class is that of the batch. ValueError unless every
    one of N >= 2 classes has the same number m >= 2 of images. Waits for the device where nobody has said what the
    labels are, see `hyplearn.losses.host`.
    """
    classes, counts = np.unique(values(labels), return_counts=True)
    if len(classes) < 2:
        raise ValueError(
            f"labels {classes.tolist()} are of one class, which leaves no negatives; take 2 classes or more"
        )
    m = len(labels) // len(classes)
    if m < 2 or not (counts == m).all():
        few, many = counts.argmin(), counts.argmax()
        raise ValueError(
            f"labels: {counts[few]} image(s) of class {classes[few]} and {counts[many]} of class "
            f"{classes[many]} in one batch; every class must have the same number of images, 2 or more: use a "
            "sampler that draws m images of each class"
        )
    return labels.argsort(stable=True).view(len(classes), m).mT


def slot_logits(points: Sequence[Tensor], order: Tensor, spaces: Sequence[Space], scales: Sequence[Tensor]) -> Tensor:
    """-sum_s scale_s D_s, (m, N, m, N): of image i of class a to image j of class b at [i, a, j, b].

    order: (m, N) of `slots`. scales: what multiplies the distances of each space, (). One (B, B) matrix per space.
    """
    total: Tensor | None = None
    rows = [x[order.flatten()] for x in points]
    for distance, scale in zip(distances(rows, rows, spaces), scales, strict=True):
        term = -scale * distance
        total = term if total is None else total + term
    assert total is not None
    return total.view(*order.shape, *order.shape)


def pair_losses(logits: Tensor) -> Tensor:
    """The loss of every anchor with every positive, (m, m, N): image i of class a with image j of it at [i, j, a].

    logits: (m, N, m, N) of `slot_logits`. With the ordered pair of slots (i, j), anchor a has one positive, image j of
    its class, and 2 (N - 1) negatives, the images i and j of the other classes (Yue Eq. 6 with K = 2 N); other images
    of its own class take no part. In the form of Eq. 7, log(1 + sum_k exp(s_k - s_+)). The entries [i, i] mean nothing.
    """
    positive = logits.diagonal(dim1=1, dim2=3)  # (m, m, N)
    own = torch.eye(logits.shape[1], dtype=torch.bool, device=logits.device)[:, None]
    towards = logits.masked_fill(own, -math.inf).logsumexp(-1).transpose(1, 2)  # the negatives in slot j, [i, j, a]
    within = towards.diagonal(dim1=0, dim2=1).mT.unsqueeze(1)  # those in the slot of the anchor, [i, 1, a]
    return F.softplus(torch.logaddexp(towards, within) - positive, threshold=60)


def reduce_pairs(losses: Tensor, reduction: Reduction) -> Tensor:
    """One number from the losses (m, m, N) of all ordered pairs i != j.

    pairs_sum: mean over the N anchors, sum over the m (m - 1) pairs of slots, as the authors train. mean: over both.
    sum: over both, as Yue Eqs. 4, 6 and 10 are printed. m2: pairs_sum / m^2, the SupCon of the code of HIER.
    """
    m, _, n = losses.shape
    same = torch.eye(m, dtype=torch.bool, device=losses.device).unsqueeze(-1)
    divisor = {"pairs_sum": n, "mean": m * (m - 1) * n, "sum": 1, "m2": m * m * n}[reduction]
    return losses.masked_fill(same, 0).sum() / divisor


def pairwise_cross_entropy(
    points: Sequence[Tensor],
    labels: Tensor,
    spaces: Sequence[Space],
    scales: Sequence[Tensor],
    *,
    reduction: Reduction = "pairs_sum",
) -> Tensor:
    """Yue Eq. 6 with D = sum_s scale_s D_s / tau, all temperatures within the scales (). Returns ()."""
    return reduce_pairs(pair_losses(slot_logits(points, slots(labels), spaces, scales)), reduction)


def from_code_convention(t_e: float, t_h: float, lam: float) -> tuple[float, float]:
    """tau and lambda of Yue Eq. 10 for the authors' similarity s/t_e - lam d/t_h: 2 t_e and 2 lam t_e/t_h.

    Eq. 10 has D_cos = 2 - 2 s and one temperature: the constant cancels, the factor 2 does not.
    """
    return 2 * t_e, 2 * lam * t_e / t_h


def to_code_convention(tau: float, lam: float) -> tuple[float, float, float]:
    """t_e, t_h and lam of the authors' similarity s/t_e - lam d/t_h for tau and lambda of Yue Eq. 10."""
    return tau / 2, tau, lam


class PairwiseCrossEntropy(EmbeddingLoss):
    """Yue Eqs. 4-6 in one space and Eq. 10 in several, with logits -sum_s weight_s D_s / tau_s.

    tau: > 0, one for all spaces or one for each (Eq. 10 prints one, the authors use two). learned_tau: as parameters
    (their logarithms). convention: 'distance' takes D_cos = 2 - 2 cos on the sphere (Eq. 5), 'dot' 1 - cos, whose
    softmax is that of the authors' cos / tau; other spaces do not differ. reduction: see `reduce_pairs`. A batch
    has N >= 2 classes with the same number m >= 2 of images, in any order; ValueError otherwise.
    """

    least_per_class = 2
    equal_per_class = True

    def __init__(
        self,
        *,
        tau: float | Sequence[float] = 0.2,
        learned_tau: bool = False,
        convention: Convention = "distance",
        reduction: Reduction = "pairs_sum",
    ) -> None:
        super().__init__()
        values = (tau,) if isinstance(tau, int | float) else tuple(tau)
        if not values or not all(0 < value < math.inf for value in values):
            raise ValueError(
                f"tau={tau} must be > 0, one number for all spaces or one for each space, as in [0.1, 0.2]"
            )
        one_of("convention", convention, Convention)
        one_of("reduction", reduction, Reduction)
        self.convention, self.reduction = convention, reduction
        self.values = tuple(map(float, values))
        self.log_tau = nn.Parameter(torch.tensor(self.values).log()) if learned_tau else None

    @property
    def tau(self) -> tuple[float, ...]:
        """The present temperatures, one or one for each space. Waits for the device if they are learned."""
        return self.values if self.log_tau is None else tuple(self.log_tau.exp().tolist())

    def scalars(self) -> Sequence[nn.Parameter]:
        """The temperatures, where they are learned."""
        return () if self.log_tau is None else (self.log_tau,)

    def scales(self, spaces: Sequence[Space]) -> list[Tensor]:
        """Return what multiplies the distances of each space in the logits, (), differentiable."""
        if len(self.values) not in (1, len(spaces)):
            raise ValueError(
                f"tau={list(self.values)} has {len(self.values)} values for {len(spaces)} space(s) "
                f"({', '.join(space.name for space in spaces)}): give one number for all or one for each"
            )
        scales = []
        for s, space in enumerate(spaces):
            i = s if len(self.values) > 1 else 0
            tau = self.values[i] if self.log_tau is None else self.log_tau[i].exp()
            halved = space.name == "sphere" and self.convention == "dot"
            scales.append(space.weight * (0.5 if halved else 1.0) / tau)
        return scales

    def check(self, spaces: Sequence[Space], *, batch_size: int) -> None:
        self.scales(spaces)

    def compute(
        self, points: Sequence[Tensor], labels: Tensor, spaces: Sequence[Space], *, generator: torch.Generator | None
    ) -> Tensor:
        return pairwise_cross_entropy(points, labels, spaces, self.scales(spaces), reduction=self.reduction)

    def distance_weights(self, spaces: Sequence[Space]) -> tuple[float, ...]:
        """weight / tau of each space, halved on the sphere under 'dot'."""
        return tuple(scale.item() for scale in self.scales(spaces))

    def extra_repr(self) -> str:
        kind = "tau" if self.log_tau is None else "learned tau"
        values = ", ".join(f"{t:.6g}" for t in self.tau)
        return f"{kind}=({values}), convention={self.convention!r}, reduction={self.reduction!r}"

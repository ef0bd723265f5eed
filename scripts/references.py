"""Reference forms that the benchmark times against: what a direct transcription of the published formulas costs.

Plain on purpose, and used by nothing but `scripts/benchmark.py`.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def moebius_distance_matrix(x: Tensor, y: Tensor, c: float) -> Tensor:
    """2/sqrt(c) atanh(sqrt(c) |(-x) (+) y|) of all pairs by Moebius addition. (N, n), (M, n) to (N, M).

    With an (N, M, n) tensor for every step, and the 1e-5 of the published code in the clamp and the denominator.
    """
    a, b = -x[:, None], y[None]
    product = (a * b).sum(-1, keepdim=True)
    a_squared, b_squared = a.square().sum(-1, keepdim=True), b.square().sum(-1, keepdim=True)
    numerator = (1 + 2 * c * product + c * b_squared) * a + (1 - c * a_squared) * b
    total = numerator / (1 + 2 * c * product + c**2 * a_squared * b_squared + 1e-5)
    return 2 / c**0.5 * torch.atanh((c**0.5 * total.norm(dim=-1)).clamp(max=1 - 1e-5))


def hier_triplets_by_loop(
    similarity: Tensor, *, topk: int, per_anchor: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Triplets of reciprocal neighbours, one anchor at a time with numpy draws: the sampler of HIER as published.

    similarity: (N, N). The anchor itself may be drawn as its own negative, as in the published code.
    """
    size = len(similarity)
    nearest = similarity.topk(min(topk, size), dim=1).indices
    member = torch.zeros_like(similarity).scatter_(1, nearest, 1.0)
    mutual = (member * member.T).fill_diagonal_(-1.0)
    anchors, partners, others = [], [], []
    for i in range(size):
        related = torch.nonzero(mutual[i] == 1).squeeze(1).cpu().numpy()
        unrelated = torch.nonzero(mutual[i] < 1).squeeze(1).cpu().numpy()
        if len(related) <= 1:
            continue
        anchors.append(np.repeat(i, per_anchor))
        partners.append(rng.choice(related, per_anchor, replace=True))
        others.append(rng.choice(unrelated, per_anchor, replace=True))
    i, j, k = (torch.from_numpy(np.concatenate(drawn)) for drawn in (anchors, partners, others))
    return i, j, k


def hier_by_softmax(distances: Tensor, triplets: tuple[Tensor, Tensor, Tensor], *, tau: float, margin: float) -> Tensor:
    """The masked hinges of Bdeir Eq. 6 with torch's Gumbel-softmax over all (triplets, proxies), all through autograd.

    distances: (N, M), points to proxies.
    """
    d_i, d_j, d_k = (distances[index] for index in triplets)
    pair = torch.stack([d_i, d_j]).max(0).values
    triple = torch.stack([d_i, d_j, d_k]).max(0).values
    near = F.gumbel_softmax(-pair / tau, dim=1, hard=True)
    far = F.gumbel_softmax(-triple / tau, dim=1, hard=True)
    same = (near.argmax(1) == far.argmax(1)).float()
    value = torch.zeros_like(same)
    for d, sign in ((d_i, 1), (d_j, 1), (d_k, -1)):
        value = value + torch.relu(sign * ((near * d).sum(1) - (far * d).sum(1)) + margin)
    return (value * (1 - same)).mean()


def hier_reference(
    x: Tensor,
    labels: Tensor,
    rho: Tensor,
    *,
    c: float,
    tau: float,
    margin: float,
    topk: int,
    per_anchor: int,
    rng: np.random.Generator,
) -> Tensor:
    """HIER in its published form: one matrix of Moebius distances over points and proxies, loop sampler, full softmax.

    x: (B, n) and rho: (M, n), points of the ball.
    """
    nodes = torch.cat([x, rho])
    distances = moebius_distance_matrix(nodes, nodes, c)
    similarity, batch = (-distances.detach()).exp(), len(x)
    data = similarity[:batch, :batch] + (labels[:, None] == labels)
    own = similarity[batch:, batch:]
    total = x.new_zeros(())
    for among, rows in ((data, slice(0, batch)), (own, slice(batch, None))):
        triplets = hier_triplets_by_loop(among, topk=topk, per_anchor=per_anchor, rng=rng)
        total = total + hier_by_softmax(distances[rows, batch:], triplets, tau=tau, margin=margin)
    return total

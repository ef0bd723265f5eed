"""Triplets of related and unrelated points: reciprocal nearest neighbours and uniform draws, without a loop."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Triplets(NamedTuple):
    """Indices (T,) of points: each partner is related to its anchor, each other one is not, all three are distinct."""

    anchor: Tensor
    partner: Tensor
    other: Tensor


def generator_on(generator: torch.Generator, device: torch.device) -> torch.Generator:
    """The generator where it draws on `device`, else one that does, seeded by the next number of the given one.

    Many numbers are drawn where they are used; a generator of the CPU thus gives every process the same ones, and
    nothing waits for the device.
    """
    if generator.device.type == device.type:
        return generator
    seed = torch.randint(2**62, (), generator=generator, device=generator.device).item()
    return torch.Generator(device).manual_seed(int(seed))


def reciprocal_neighbours(distances: Tensor, labels: Tensor | None, *, topk: int) -> tuple[Tensor, Tensor]:
    """The k nearest points of each point, and which of them are reciprocal: in each other's set, and not the point.

    distances: (N, N). labels: (N,), points of one class come before all others, or None for distances alone. A point
    is one of its own k nearest, as in the authors' code, and no set has more than N. Returns (N, k) int64 and bool.
    """
    similarity = (-distances).exp()
    if labels is not None:
        similarity = similarity + (labels[:, None] == labels)
    size = len(distances)
    neighbours = similarity.topk(min(topk, size)).indices
    member = torch.zeros(size, size, dtype=torch.bool, device=distances.device).scatter_(1, neighbours, True)
    mutual = member.T.gather(1, neighbours)
    return neighbours, mutual & (neighbours != torch.arange(size, device=distances.device)[:, None])


def reciprocal_triplets(
    distances: Tensor, labels: Tensor | None, *, topk: int, per_anchor: int, generator: torch.Generator
) -> Triplets:
    """per_anchor triplets, drawn with replacement, of every point that has at least two reciprocal neighbours.

    The partner is uniform among those neighbours, the other one uniform among all points that are neither such a
    neighbour nor the anchor itself (the authors' sampler lets the anchor be its own negative). Arguments as in
    `reciprocal_neighbours`. No triplet where no point qualifies. Takes as many random numbers whatever the distances.
    """
    neighbours, mutual = reciprocal_neighbours(distances, labels, topk=topk)
    return draw_triplets(neighbours, mutual, fewest=2, per_anchor=per_anchor, generator=generator)


def draw_triplets(
    listed: Tensor, related: Tensor, *, fewest: int, per_anchor: int, generator: torch.Generator
) -> Triplets:
    """per_anchor draws for each of N points with at least `fewest` related points, and an unrelated one.

    listed: (N, k), indices of points, no index twice in a row. related: (N, k), which of them are related to the
    row's point. No sets are built: the r-th unrelated point is r plus the number of excluded points before it.
    """
    size, device = len(listed), listed.device
    itself = torch.arange(size, device=device)
    partners = torch.where(related, listed, size).sort().values  # padded by N
    count = related.sum(1)
    rest = size - 1 - count
    share = torch.rand(
        2, size, per_anchor, generator=generator_on(generator, device), device=device, dtype=torch.float64
    )
    first = _rank(share[0], count).clamp_(max=max(partners.shape[1] - 1, 0))
    excluded = torch.cat([partners, itself[:, None]], 1).sort().values
    before = torch.where(excluded < size, excluded - torch.arange(excluded.shape[1], device=device), size)
    second = _rank(share[1], rest)
    others = second + torch.searchsorted(before, second, right=True)
    anchors = ((count >= fewest) & (rest > 0)).nonzero().squeeze(1)
    return Triplets(
        itself[anchors].repeat_interleave(per_anchor),
        partners.gather(1, first)[anchors].flatten(),
        others[anchors].flatten(),
    )


def _rank(share: Tensor, count: Tensor) -> Tensor:
    """share (N, t) in [0, 1) to integers uniform in [0, count), 0 where count is 0."""
    return (share * count[:, None]).long()

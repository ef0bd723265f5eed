"""Triplets of related and unrelated points: reciprocal nearest neighbours and uniform draws, without a loop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from hyplearn.losses.host import free_to_read


class Triplets(NamedTuple):
    """Indices (T,) of points: each partner is related to its anchor, each other one is not, all three are distinct.

    counted: (T,) bool, where that holds, of triplets whose number nobody has waited for; None where all of them count.
    """

    anchor: Tensor
    partner: Tensor
    other: Tensor
    counted: Tensor | None = None

    @property
    def indices(self) -> tuple[Tensor, Tensor, Tensor]:
        """Anchor, partner and other one."""
        return self.anchor, self.partner, self.other

    @property
    def number(self) -> int | Tensor:
        """How many triplets count, at least 1; a tensor () where only the device knows."""
        return max(1, len(self.anchor)) if self.counted is None else self.counted.sum().clamp_min(1)

    def split(self, rows: int) -> Iterator[Triplets]:
        """Return blocks of that many triplets."""
        parts = [part.split(rows) for part in self if part is not None]
        yield from map(Triplets, *parts)


def generator_on(generator: torch.Generator, device: torch.device) -> torch.Generator:
    """The generator where it draws on `device`, else one that does, seeded by the next number of the given one.

    Many numbers are drawn where they are used; a generator of the CPU thus gives every process the same ones, and
    nothing waits for the device.
    """
    if generator.device.type == device.type:
        return generator
    seed = torch.randint(2**62, (1,), generator=generator, device=generator.device)
    return torch.Generator(device).manual_seed(int(seed.cpu().numpy()[0]))


def reciprocal_neighbours(distances: Tensor, labels: Tensor | None, *, topk: int) -> tuple[Tensor, Tensor]:
    """The k nearest points of each point, and which of them are reciprocal: in each other's set, and not the point.

    distances: (N, N). labels: (N,), points of one class come before all others, or None for distances alone. A point
    is one of its own k nearest, as in the authors' code, and no set has more than N. Returns (N, k) int64 and bool.
    """
    if labels is not None:  # the authors rank by exp(-d), plus 1 in a class, which far apart leaves no digits
        distances = distances - (labels[:, None] == labels) * (distances.amax() + 1)
    size = len(distances)
    neighbours = distances.topk(min(topk, size), largest=False).indices
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
    related = torch.zeros_like(distances, dtype=torch.bool).scatter_(1, neighbours, mutual)
    unrelated = ~related
    unrelated.fill_diagonal_(False)
    unrelated &= related.sum(1, keepdim=True) >= 2  # without an other one, the anchor is left out
    return draw_triplets(related, unrelated, per_anchor=per_anchor, generator=generator)


def draw_triplets(related: Tensor, unrelated: Tensor, *, per_anchor: int, generator: torch.Generator) -> Triplets:
    """per_anchor uniform draws of a partner and an other one, for every row that has both.

    related, unrelated: (N, M) bool, what row n may be given. Takes as many random numbers whatever they hold. On a CPU
    the other rows are left out; elsewhere, where that would wait for the device, their triplets do not count.
    """
    device = related.device
    share = torch.rand(
        2, len(related), per_anchor, generator=generator_on(generator, device), device=device, dtype=torch.float64
    )
    qualified, counted = related.any(1) & unrelated.any(1), None
    if free_to_read(related):
        anchors = qualified.nonzero().squeeze(1)
        related, unrelated, share = related[anchors], unrelated[anchors], share[:, anchors]
    else:
        anchors = torch.arange(len(related), device=device)
        counted = _repeated(qualified, per_anchor)
    return Triplets(
        _repeated(anchors, per_anchor),
        _draw(related, share[0]).flatten(),
        _draw(unrelated, share[1]).flatten(),
        counted,
    )


def _repeated(rows: Tensor, times: int) -> Tensor:
    """(N,) to (N times,), each of them so often in a row."""
    return rows[:, None].expand(-1, times).flatten()


def _draw(allowed: Tensor, share: Tensor) -> Tensor:
    """share (N, t), uniform in [0, 1), to columns uniform among those allowed (N, M) in the row.

    Where none is allowed, any column.
    """
    rank = allowed.cumsum(1, dtype=torch.int32)
    wanted = (share * rank[:, -1:]).to(torch.int32) + 1
    return torch.searchsorted(rank, wanted).clamp_max(allowed.shape[1] - 1)

"""Galleries in which many points coincide, as those of a collapsed model: search the distinct points, then expand.

Coinciding points are tied with each other for every query, and a search for the k nearest among them would have to
compare all of them. They are found by a hash of 64 bits of each embedding, the same on every device; embeddings of the
same hash are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

COMPARED = 1 << 22  # numbers that are hashed or compared at one time

_MULTIPLIERS_SEED = 20_240_607


def row_hashes(points: Sequence[Tensor]) -> Tensor:
    """Return a hash (N,) int64 of each row of all tensors (N, n_i) together: equal rows have the same.

    A sum of the bits, 32 at a time, times random odd numbers, modulo 2^64: no order of the sum changes it. -0 is 0.
    """
    found = torch.zeros(len(points[0]), dtype=torch.int64, device=points[0].device)
    generator = torch.Generator().manual_seed(_MULTIPLIERS_SEED)
    for x in points:
        words = x.shape[1] * (2 if x.dtype == torch.float64 else 1)
        odd = torch.randint(-(1 << 62), 1 << 62, (words,), generator=generator).mul_(2).add_(1).to(x.device)
        start = 0
        for block in x.split(max(1, COMPARED // words)):
            found[start : start + len(block)] += _bits(block).long().mul_(odd).sum(-1)
            start += len(block)
    return found


def _bits(block: Tensor) -> Tensor:
    """The bits of numbers, (b, words) int32."""
    wide = block if block.dtype == torch.float64 else block.float()
    return (wide + 0.0).contiguous().view(torch.int32)


class Groups(NamedTuple):
    """number: (N,), of each row's group of equal rows, in the order of their first rows. first: (G,), those rows."""

    number: Tensor
    first: Tensor


def groups_of(points: Sequence[Tensor], hashes: Tensor) -> Groups:
    """Group equal rows of all tensors (N, n_i) together."""
    order = hashes.argsort(stable=True)
    ranked = hashes[order]
    fresh = torch.ones_like(order, dtype=torch.bool)
    fresh[1:] = ranked[1:] != ranked[:-1]
    unlike = _unlike(points, order, fresh)
    if unlike is not None:
        order, fresh = _separated(points, order, fresh, unlike)
    place = fresh.cumsum(0) - 1
    number = torch.empty_like(place)
    number[order] = place
    first = torch.full((int(place[-1]) + 1,), len(order), dtype=torch.int64, device=order.device)
    first.scatter_reduce_(0, number, torch.arange(len(order), device=order.device), "amin")
    by_first = first.argsort()
    renumbered = torch.empty_like(by_first)
    renumbered[by_first] = torch.arange(len(by_first), device=order.device)
    return Groups(renumbered[number], first[by_first])


def _unlike(points: Sequence[Tensor], order: Tensor, fresh: Tensor) -> Tensor | None:
    """Places in `order` of rows whose hash, but not they, equals that of the one before; None without any."""
    same = (~fresh).nonzero().squeeze(-1)
    width = sum(x.shape[1] for x in points)
    found = []
    for places in same.split(max(1, COMPARED // width)):
        row, before = order[places], order[places - 1]
        differ = torch.stack([(x[row] != x[before]).any(-1) for x in points]).any(0)
        found.append(places[differ])
    unlike = torch.cat(found) if found else same
    return unlike if len(unlike) else None


def _separated(points: Sequence[Tensor], order: Tensor, fresh: Tensor, unlike: Tensor) -> tuple[Tensor, Tensor]:
    """The order and the starts of groups where different rows have one hash: those rows are sorted by themselves."""
    order, fresh = order.clone(), fresh.clone()
    run = fresh.cumsum(0) - 1
    for number in run[unlike].unique():
        places = (run == number).nonzero().squeeze(-1)
        rows = order[places]
        together = torch.cat([x[rows].double() + 0.0 for x in points], 1)
        group, by_group = together.unique(dim=0, return_inverse=True)[1].sort(stable=True)
        order[places] = rows[by_group]
        fresh[places[1:]] = group[1:] != group[:-1]
    return order, fresh


class Distinct:
    """The distinct points of a gallery and the positions that hold each."""

    def __init__(self, points: Sequence[Tensor], hashes: Tensor) -> None:
        group, self.first = groups_of(points, hashes)
        self.members = group.argsort(stable=True)
        self.counts = group.bincount(minlength=len(self.first))
        self.starts = self.counts.cumsum(0) - self.counts

    @property
    def most(self) -> int:
        """Return how many positions hold the same point, at most."""
        return int(self.counts.max())

    def expand(self, points: Tensor, distances: Tensor, k: int, own: Tensor | None) -> tuple[Tensor, Tensor]:
        """The k nearest positions and their D from the k + 1 nearest distinct points (or all, if there are fewer).

        points, distances: (B, K), sorted. own: (B,) positions that are left out, -1 for none.
        """
        held = self.counts[points].clamp(max=k + 1)
        enough = held.cumsum(-1) - held > k  # nearer points hold k + 1 positions already
        # but a point as far as the last of those may hold lower positions
        last = distances.masked_fill(enough, -torch.inf).amax(-1, keepdim=True)
        held = held.masked_fill(distances > last, 0)
        size = held.reshape(-1)
        place = torch.arange(int(size.sum()), device=points.device) - (size.cumsum(0) - size).repeat_interleave(size)
        position = self.members[self.starts[points.reshape(-1)].repeat_interleave(size) + place]
        row = torch.arange(len(points), device=points.device).repeat_interleave(held.sum(-1))
        distance = distances.reshape(-1).repeat_interleave(size)
        if own is not None:
            others = position != own[row]
            position, row, distance = position[others], row[others], distance[others]
        order = position.argsort()
        order = order[distance[order].argsort(stable=True)]
        order = order[row[order].argsort(stable=True)]
        position, row, distance = position[order], row[order], distance[order]
        width = row.bincount(minlength=len(points))
        rank = torch.arange(len(row), device=row.device) - (width.cumsum(0) - width)[row]
        kept = rank < k
        indices = points.new_full((len(points), k), -1)
        result = distances.new_full((len(points), k), torch.inf)
        indices[row[kept], rank[kept]] = position[kept]
        result[row[kept], rank[kept]] = distance[kept]
        return indices, result

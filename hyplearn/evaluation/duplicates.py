"""Galleries in which many points coincide, as those of a collapsed model: search the distinct points, then expand.

Coinciding points are tied with each other for every query, and a search for the k nearest among them would have to
compare all of them.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hyplearn.evaluation.metric import Embeddings


class Distinct:
    """The distinct points of a gallery and the positions that hold each."""

    def __init__(self, gallery: Embeddings) -> None:
        rows = np.concatenate([x.double().cpu().numpy() for x in gallery.points], axis=1) + 0.0  # -0 becomes 0
        as_bytes = rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1]))).squeeze(-1)
        _, first, inverse = np.unique(as_bytes, return_index=True, return_inverse=True)
        # numbered in the order of their first position, so that equally far ones are found in that order
        order = np.argsort(first)
        number = np.empty_like(order)
        number[order] = np.arange(len(order))
        group = torch.from_numpy(number[inverse]).to(gallery.device)
        self.first = torch.from_numpy(first[order]).to(gallery.device)
        self.members = group.argsort(stable=True)
        self.counts = group.bincount(minlength=len(order))
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

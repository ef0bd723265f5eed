"""Retrieval by its definition: every pair in float64, one row after another, sorted by (distance, position)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from hyplearn.evaluation.metric import Embeddings, Metric
from hyplearn.geometry import lorentz, poincare


def distances(x: Tensor, gallery: Tensor, metric: Metric) -> Tensor:
    """D of one point (n,) to each of (M, n), from the coordinates."""
    x, gallery = x.double(), gallery.double()
    if metric.kind == "lorentz":
        return lorentz.dist(x, gallery, c=metric.c)
    if metric.kind == "poincare":
        return poincare.dist(x, gallery, c=metric.c)
    if metric.kind == "sphere":
        # |x - y|^2 = 2 - 2 cos of unit vectors
        x, gallery = (t / t.norm(dim=-1, keepdim=True) for t in (x, gallery))
        return (x - gallery).square().sum(-1)
    return (x - gallery).square().sum(-1).sqrt()


def neighbours(query: Embeddings, gallery: Embeddings, k: int, own: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(Nq, k) positions and D; -1 and inf where there are no more. own: (Nq,) positions left out, -1 for none."""
    indices, found = [], []
    for i in range(len(query)):
        total = sum(
            metric.weight * distances(x[i], y, metric)
            for metric, x, y in zip(query.metrics, query.points, gallery.points, strict=True)
        )
        ranked = sorted((d, j) for j, d in enumerate(total.tolist()) if own is None or j != int(own[i]))[:k]
        ranked += [(float("inf"), -1)] * (k - len(ranked))
        found.append([d for d, _ in ranked])
        indices.append([j for _, j in ranked])
    return torch.tensor(indices), torch.tensor(found, dtype=torch.float64)


def queries(labels: list[int], ranked: list[list[int]], roles: list[tuple[bool, bool]]) -> Iterator[dict[str, float]]:
    """Measures of every query by plain loops. ranked: all gallery positions by distance, without the query itself."""
    for i, (is_query, _) in enumerate(roles):
        if not is_query:
            continue
        matches = sum(1 for j, (_, in_gallery) in enumerate(roles) if in_gallery and j != i and labels[j] == labels[i])
        hits = [labels[j] == labels[i] for j in ranked[i]]
        first = hits.index(True) + 1 if True in hits else None
        precision = [sum(hits[: r + 1]) / (r + 1) if hits[r] else 0.0 for r in range(matches)]
        yield {
            "query": i,
            "matches": matches,
            "first": first,
            "r_precision": sum(hits[:matches]) / matches if matches else 0.0,
            "map@r": sum(precision) / matches if matches else 0.0,
        }

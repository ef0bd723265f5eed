"""UMAP of embeddings by the distances of their own metric; needs the extra `umap`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from hyplearn.evaluation.delta import distance_matrix
from hyplearn.evaluation.metric import Embeddings
from hyplearn.plots.classes import Group
from hyplearn.plots.style import TEXT, TITLE, WIDTH, new_figure, save

NEIGHBOURS = 15
FEWEST = 5


def trained_distances(embeddings: Embeddings) -> Tensor:
    """All pairs (N, N), float64: the weighted sum of the dissimilarities of all spaces, 2 - 2 cos on the sphere."""
    total = torch.zeros(len(embeddings), len(embeddings), dtype=torch.float64)
    for points, metric in zip(embeddings.points, embeddings.metrics, strict=True):
        distances = distance_matrix(points, metric)
        total += metric.weight * ((2 * (distances / 2).sin()).square() if metric.kind == "sphere" else distances)
    return total


def umap_layout(distances: Tensor, *, seed: int) -> Tensor:
    """(N, 2) from distances (N, N); the same for the same seed. Raises ValueError for less than 5 points."""
    if len(distances) < FEWEST:
        raise ValueError(f"UMAP needs at least {FEWEST} points, got {len(distances)}")
    import umap  # an optional dependency, and it compiles for seconds

    model = umap.UMAP(
        n_neighbors=min(NEIGHBOURS, len(distances) - 1),
        metric="precomputed",
        random_state=seed,
        n_jobs=1,  # else it warns that a seed leaves one
        init="random",  # the spectral start depends on the linear algebra of the machine
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="using precomputed metric")  # of the inverse, which nobody asks for
        return torch.as_tensor(model.fit_transform(distances.numpy()))


def draw_umap(
    path: Path, layout: Tensor, classes: Sequence[Group], *, title: str, rows: Sequence[Mapping[str, object]]
) -> list[Path]:
    """Write the points (M, 2) by class as PNG and .csv. classes: rows of the M points."""
    figure = new_figure(WIDTH, 4.8)
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=TITLE - 1)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xticks([])
    axes.set_yticks([])
    for group in reversed(classes):
        x = layout[group.rows]
        label = f"{group.name} ({int(group.rows.sum())})"
        axes.scatter(
            x[:, 0].numpy(), x[:, 1].numpy(), s=15, color=group.colour, marker=group.marker,
            edgecolors="white", linewidths=0.25, label=label,
        )  # fmt: skip
    axes.set_xlabel("UMAP: neighbourhoods are kept, distances and radii are not", fontsize=TEXT)
    figure.legend(loc="outside right upper", frameon=False, fontsize=TEXT - 1, reverse=True)
    found = layout.tolist()
    return save(figure, path, [{**row, "x": x, "y": y} for row, (x, y) in zip(rows, found, strict=True)])

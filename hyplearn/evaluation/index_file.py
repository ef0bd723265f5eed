"""A FAISS index on the disk, for other programs to search: what its vectors are, and what a query has to be.

Each dissimilarity becomes an inner product of a query's vector and a gallery vector (see `forms`). The index holds the
gallery vectors in float32; a few of its neighbours more than asked for, ranked by the distance itself, are the exact
ones, which `check` proves for a sample of queries.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hyplearn.evaluation.metric import Embeddings, Metric
from hyplearn.evaluation.neighbours import MARGIN, neighbours

if TYPE_CHECKING:
    import faiss

_HYPERBOLOID = {
    "gallery": "k = 1/sqrt(c), y_t = sqrt(k^2 + |y|^2): vector (y_t - k, y)",
    "query": "x_t = sqrt(k^2 + |x|^2): vector (-x_t, x)",
    "distance": "2 k asinh(sqrt(max(0, c/2 (k (x_t - k) - score))))",
}
_BALL = {
    "gallery": "y = 2 p / (1 - c |p|^2) of the ball point p; k = 1/sqrt(c), y_t = sqrt(k^2 + |y|^2): (y_t - k, y)",
    "query": "x = 2 p / (1 - c |p|^2) of the ball point p; x_t = sqrt(k^2 + |x|^2): vector (-x_t, x)",
    "distance": _HYPERBOLOID["distance"],
}
_COSINE = {"gallery": "y / |y|", "query": "x / |x|", "distance": "2 - 2 score"}
_EUCLIDEAN = {"gallery": "(-|y|^2 / 2, y)", "query": "(1, x)", "distance": "sqrt(max(0, |x|^2 - 2 score))"}
RECIPES = {"lorentz": _HYPERBOLOID, "poincare": _BALL, "sphere": _COSINE, "euclidean": _EUCLIDEAN}


class Agreement(NamedTuple):
    """Share of `queries` queries whose k nearest are the exact ones, straight from the index, and re-ranked."""

    queries: int
    k: int
    plain: float
    reranked: float


def only_metric(embeddings: Embeddings) -> Metric:
    """The metric that becomes an inner product. Raises ValueError for a sum of several, which does not."""
    if len(embeddings.metrics) > 1:
        raise ValueError(
            f"{embeddings} is a sum of dissimilarities, which is no inner product: no index of one vector an image can "
            "search it. Search with hyplearn predict, or export a model of one space"
        )
    return embeddings.metrics[0]


def gallery_vectors(embeddings: Embeddings) -> Tensor:
    """(N, m) float32, what the index holds."""
    return only_metric(embeddings).form.gallery(embeddings.points[0].double()).vectors.float()


def query_vectors(embeddings: Embeddings) -> Tensor:
    """(N, m) float32, what the index is asked with."""
    return only_metric(embeddings).form.query(embeddings.points[0].double()).vectors.float()


def build(embeddings: Embeddings, ids: Tensor) -> faiss.Index:
    """A flat index of inner products that answers with ids (N,)."""
    import faiss  # in all three functions after torch, whose OpenMP runtime comes first

    vectors = gallery_vectors(embeddings).numpy()
    index: faiss.Index = faiss.IndexIDMap2(faiss.IndexFlatIP(vectors.shape[1]))
    index.add_with_ids(np.ascontiguousarray(vectors), ids.numpy().astype(np.int64))
    return index


def to_bytes(index: faiss.Index) -> bytes:
    """The content of a file that `faiss.read_index` reads."""
    import faiss

    content: bytes = faiss.serialize_index(index).tobytes()
    return content


def read(path: Path) -> faiss.Index:
    """Read the index in a file."""
    import faiss

    index: faiss.Index = faiss.read_index(str(path))
    return index


def check(
    index: faiss.Index, query: Embeddings, gallery: Embeddings, query_ids: Tensor, gallery_ids: Tensor, *, k: int
) -> Agreement:
    """Compare the index with the exact search. A query is no neighbour of itself."""
    k = min(k, len(gallery) - 1)
    exact = neighbours(query, gallery, k, query_ids=query_ids, gallery_ids=gallery_ids)
    count = min(k + 1 + MARGIN, len(gallery))
    _, found = index.search(np.ascontiguousarray(query_vectors(query).numpy()), count)
    order = gallery_ids.argsort()
    plain = reranked = 0
    for row, (ids, near) in enumerate(zip(torch.from_numpy(found), exact.indices, strict=True)):
        others = ids[ids != query_ids[row]]
        wanted = gallery_ids[near[near >= 0]]
        plain += set(others[: len(wanted)].tolist()) == set(wanted.tolist())
        columns = order[torch.searchsorted(gallery_ids[order], others)]
        distances = query.direct(torch.full_like(columns, row), gallery, columns)
        ranked = columns[np.lexsort((columns.numpy(), distances.numpy()))]
        reranked += torch.equal(gallery_ids[ranked[: len(wanted)]], wanted)
    return Agreement(len(query), k, plain / len(query), reranked / len(query))

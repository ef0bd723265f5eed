"""How well clusters of the embeddings agree with the classes: NMI and AMI of k-means."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from hyplearn.evaluation.inner_products import CURVED
from hyplearn.evaluation.metric import Embeddings, Metric
from hyplearn.geometry import lorentz, poincare, sphere

# Beyond this coordinate squares in float32, summed over images and coordinates, are near the largest number.
LARGEST = 1e12


def flattened(embeddings: Embeddings) -> Tensor:
    """Vectors for algorithms that know Euclidean distance only, (N, sum n_i) float64.

    Directions of the sphere; tangent vectors at the origin, which keep distance and direction to it, of the hyperboloid
    and the ball; Euclidean points as they are. Several spaces: side by side, each so long that a distance between the
    vectors is the weighted distance of the space, or on the sphere, where D is a square already, the root of weight D.
    """
    return torch.cat(
        [_flat(metric, x.double()) for metric, x in zip(embeddings.metrics, embeddings.points, strict=True)], dim=-1
    )


def _flat(metric: Metric, x: Tensor) -> Tensor:
    if metric.kind == "sphere":
        return math.sqrt(metric.weight) * sphere.proj(x)
    if metric.c is None or metric.kind not in CURVED:
        return metric.weight * x
    v = lorentz.logmap0(x, c=metric.c) if metric.kind == "lorentz" else 2 * poincare.logmap0(x, c=metric.c)
    return metric.weight * v


def _squares_in_float32(vectors: Tensor) -> Tensor:
    """Vectors as long as they are, or all divided by the largest coordinate where sums of squares would overflow.

    k-means knows no unit of length.
    """
    largest = vectors.abs().max()
    return vectors / largest if largest > LARGEST else vectors


def clustering(embeddings: Embeddings, labels: Tensor, *, seed: int) -> dict[str, float]:
    """nmi (arithmetic mean) and ami of k-means on `flattened`, as many clusters as classes, one start.

    nmi in [0, 1]; ami <= 1 and on average 0 for clusters that have nothing to do with the classes, negative for worse.
    labels: (N,). Slow with many classes: every step of k-means compares each image with each cluster. An approximation
    in curved spaces: k-means knows no hyperbolic distance.
    """
    from sklearn.cluster import KMeans  # scikit-learn takes a second to load
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score

    vectors, truth = _squares_in_float32(flattened(embeddings)).float().cpu().numpy(), labels.cpu().numpy()
    model = KMeans(n_clusters=len(labels.unique()), n_init=1, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct points than classes: collapsed embeddings
        found = model.fit_predict(vectors)
    return {
        "nmi": float(normalized_mutual_info_score(truth, found)),
        "ami": float(adjusted_mutual_info_score(truth, found)),
    }

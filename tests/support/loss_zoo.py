"""Every loss through pytorch-metric-learning and every kind of space, for the tests of the adapter."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from hyplearn.losses import (
    ArcFace,
    Contrastive,
    CrossBatchMemory,
    FastAP,
    Margin,
    MultiSimilarity,
    NormalizedSoftmax,
    ProxyAnchor,
    ProxyNCA,
    ProxyNCAPlusPlus,
    SoftTriple,
    Triplet,
)
from hyplearn.losses.base import EmbeddingLoss, build_part
from hyplearn.manifolds import Euclidean, Lorentz, Manifold, PoincareBall, Sphere
from hyplearn.nn.space import Space

CLASSES = 8
LABELS = torch.arange(24) % CLASSES
SIZES = {"sphere": [5], "poincare": [5], "lorentz": [5], "euclidean": [5], "two": [5, 4]}

WITH_PROXIES = {
    "proxy_anchor": ProxyAnchor,
    "proxy_nca": ProxyNCA,
    "proxy_nca_pp": ProxyNCAPlusPlus,
    "soft_triple": SoftTriple,
    "normalized_softmax": NormalizedSoftmax,
    "arcface": ArcFace,
}
WITH_PAIRS = {
    "contrastive": Contrastive,
    "multi_similarity": MultiSimilarity,
    "mined_multi_similarity": functools.partial(MultiSimilarity, epsilon=0.1),
    "margin": Margin,
    "fast_ap": FastAP,
    "triplet": functools.partial(Triplet, miner="all"),
    "memory": functools.partial(CrossBatchMemory, base=Contrastive, size=60),
}
ZOO: dict[str, Any] = {**WITH_PROXIES, **WITH_PAIRS}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def spaces_of(kind: str, *, c: float = 0.1) -> list[Space]:
    made: dict[str, list[Manifold]] = {
        "sphere": [Sphere()],
        "poincare": [PoincareBall(c, learned=False)],
        "lorentz": [Lorentz(c, learned=False)],
        "euclidean": [Euclidean()],
        "two": [Sphere(), PoincareBall(c, learned=False)],
    }
    weights = [1.0, 3.0]
    return [Space(manifold, weight=weight) for manifold, weight in zip(made[kind], weights, strict=False)]


def points_of(vectors: list[Tensor], spaces: list[Space]) -> list[Tensor]:
    """Free vectors as embeddings: directions on the sphere, else the points whose logarithm at the origin they are."""
    return [
        space.manifold.projx(v) if isinstance(space.manifold, Sphere) else space.manifold.expmap0(v)
        for v, space in zip(vectors, spaces, strict=True)
    ]


def vectors_of(kind: str, count: int = 24, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = seeded(seed)
    return [torch.randn(count, n, generator=generator, dtype=dtype).requires_grad_() for n in SIZES[kind]]


def built(name: str, kind: str, spaces: list[Space], **options: Any) -> EmbeddingLoss:
    torch.manual_seed(0)
    return build_part(functools.partial(ZOO[name], **options), spaces=spaces, sizes=SIZES[kind], num_classes=CLASSES)

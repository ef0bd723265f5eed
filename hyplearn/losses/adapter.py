"""pytorch-metric-learning in any geometry: its losses with the distance of our spaces, through one `BaseDistance`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from pytorch_metric_learning.distances import BaseDistance
from torch import Tensor
from torch.nn import functional as F

from hyplearn.errors import one_of
from hyplearn.geometry.numerics import safe_sqrt
from hyplearn.losses.base import EmbeddingLoss
from hyplearn.manifolds import Sphere
from hyplearn.nn.space import Space

Similarity = Literal["cosine", "geometry"]
Form = Literal["similarity", "share", "length", "square"]


class SpaceDistance(BaseDistance):  # type: ignore[misc]
    """The fused distance of spaces in the form a loss was made for; points of all spaces stand side by side.

    Every form is a function of u = sum_i w_i u_i / sum_i w_i with the weights of the spaces and u_i in [0, 2].
    similarity 'cosine': u_i = 1 - cos of the directions of the points, whatever the space, as in HIER's base losses;
    'geometry': u_i = D_cos / 2 = 1 - cos on the sphere, d / scale elsewhere. With scale the largest radius of the
    embeddings (4.6 for a clip of 2.3 in the ball) antipodes have u = 2 in every space, and the margins, temperatures
    and bins that papers give for unit vectors keep their meaning. The forms, and what they are for unit vectors:

    similarity: 1 - u, in [-1, 1], the cosine. share: u, cut at 2. square: 2 u, in [0, 4], the squared chord.
    length: the chord sqrt(2 u) where all u_i come from cosines; else u, for a geodesic distance is a length already.
    """

    def __init__(self, form: Form, *, similarity: Similarity, scale: float) -> None:
        super().__init__(normalize_embeddings=False, is_inverted=form == "similarity")
        one_of("similarity", similarity, Similarity)
        if not scale > 0:
            raise ValueError(f"scale={scale} must be > 0: the radius of the embeddings, 4.6 for a clip of 2.3")
        self.form, self.similarity, self.scale = form, similarity, scale
        self._spaces: Sequence[Space] = ()
        self._sizes: Sequence[int] = ()

    @contextmanager
    def over(self, spaces: Sequence[Space], sizes: Sequence[int]) -> Iterator[None]:
        """Say what the columns of embeddings mean, for the time of one loss."""
        self._spaces, self._sizes = spaces, sizes
        try:
            yield
        finally:
            self._spaces, self._sizes = (), ()

    def normalize(self, embeddings: Tensor, dim: int = 1, **kwargs: object) -> Tensor:
        """Identity: points lie where they lie."""
        return embeddings

    def compute_mat(self, query_emb: Tensor, ref_emb: Tensor) -> Tensor:
        """(B, sum n_i), (M, sum n_i) to (B, M), in this object's form."""
        left, right = query_emb.split(self._sizes, 1), ref_emb.split(self._sizes, 1)
        total: Tensor | None = None
        for x, y, space in zip(left, right, self._spaces, strict=True):
            term = self._share(x, y, space)
            if len(self._spaces) > 1:
                term = space.weight * term
            total = term if total is None else total + term
        assert total is not None
        if len(self._spaces) > 1:
            total = total / sum(space.weight for space in self._spaces)
        return self._formed(total)

    def _share(self, x: Tensor, y: Tensor, space: Space) -> Tensor:
        if self.similarity == "cosine":
            return 1 - F.normalize(x, dim=1) @ F.normalize(y, dim=1).mT
        return space.distance(x, y) / self.divisor(space)

    def _formed(self, u: Tensor) -> Tensor:
        if self.form == "similarity":
            return 1 - u
        if self.form == "share":
            return u.clamp(max=2)
        if self.form == "square":
            return 2 * u
        if self.form == "length" and all(self._is_cosine(space) for space in self._spaces):
            return safe_sqrt(2 * u)
        return u

    def _is_cosine(self, space: Space) -> bool:
        return self.similarity == "cosine" or isinstance(space.manifold, Sphere)

    def divisor(self, space: Space) -> float:
        """Return what divides the distances of a space: 2 where they are those of cosines, else the scale."""
        return 2.0 if self._is_cosine(space) else self.scale


class AdaptedLoss(EmbeddingLoss):
    """An embedding loss that sees points through a `SpaceDistance`, with similarity and scale as explained there."""

    form: Form = "similarity"

    def __init__(self, *, similarity: Similarity, scale: float) -> None:
        super().__init__()
        self.distance = SpaceDistance(self.form, similarity=similarity, scale=scale)

    @property
    def sees_directions(self) -> bool:
        """Whether the similarity is 'cosine', of directions alone."""
        return self.distance.similarity == "cosine"

    def distance_weights(self, spaces: Sequence[Space]) -> tuple[float, ...]:
        """weight / divisor of each space; with similarity 'cosine' for the cosine of the directions in each."""
        return tuple(space.weight.item() / self.distance.divisor(space) for space in spaces)

    def extra_repr(self) -> str:
        return f"similarity={self.distance.similarity!r}, scale={self.distance.scale}"


def side_by_side(points: Sequence[Tensor]) -> tuple[Tensor, list[int]]:
    """The points of all spaces as one (B, sum n_i), and the n_i."""
    return torch.cat(list(points), 1), [x.shape[1] for x in points]

"""One geometry of an embedding, shared by models, losses and evaluation: where points lie, what their distance is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hyplearn.manifolds import CurvedManifold, Euclidean, Lorentz, Manifold, PoincareBall, Sphere, full_precision
from hyplearn.manifolds.foreign import ours

_NAMES: dict[type[Manifold], str] = {
    Lorentz: "lorentz",
    PoincareBall: "poincare",
    Sphere: "sphere",
    Euclidean: "euclidean",
}


class Space(nn.Module):
    """A manifold with the weight its distances have beside those of other spaces (lambda of Yue Eq. 10).

    An embedding is a tuple of points, one tensor (B, n) per space; most models have one space, Mix has two.
    weight: > 0; learned: as a parameter (its logarithm), else exact, in float64.
    """

    log_weight: nn.Parameter | None

    def __init__(self, manifold: Manifold, *, weight: float = 1.0, learned: bool = False) -> None:
        super().__init__()
        if not 0 < weight < math.inf:
            raise ValueError(
                f"weight={weight} must be > 0: it multiplies the distances of a {self._name(manifold)} space"
            )
        self.manifold = ours(manifold)
        self.given = float(weight)
        self.log_weight = nn.Parameter(torch.tensor(math.log(weight))) if learned else None

    @staticmethod
    def _name(manifold: Manifold) -> str:
        return next((name for kind, name in _NAMES.items() if isinstance(manifold, kind)), type(manifold).__name__)

    @property
    def name(self) -> str:
        """lorentz, poincare, sphere or euclidean."""
        return self._name(self.manifold)

    @property
    def weight(self) -> Tensor:
        """Weight of the distances of this space: (), > 0, differentiable if learned, else a constant on the CPU.

        A constant is float64, which multiplies distances of any type without changing it.
        """
        if self.log_weight is None:
            return torch.full((), self.given, dtype=torch.float64, device="cpu")
        return self.log_weight.exp()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load a state; what earlier versions stored of a weight that is not learned says nothing and is left out."""
        if self.log_weight is None:
            state_dict.pop(f"{prefix}log_weight", None)
        super()._load_from_state_dict(state_dict, prefix, *args)

    @property
    def c(self) -> float | None:
        """The present curvature, None in a space without one. Waits for the device."""
        return self.manifold.c.item() if isinstance(self.manifold, CurvedManifold) else None

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """All pairs, without the weight, float32 or better. (N, n), (M, n) to (N, M), no (N, M, n) in between.

        On the sphere |x - y|^2 = 2 - 2 cos (D_cos of Yue Eq. 5), the geodesic distance elsewhere (D_hyp of Eq. 2).
        """
        if isinstance(self.manifold, Sphere):
            return _squared_chord(x, y)
        distances: Tensor = self.manifold.cdist(x, y)
        return distances

    def extra_repr(self) -> str:
        return f"{self.name}, weight={self.weight.item():.6g}"


@full_precision
def _squared_chord(x: Tensor, y: Tensor) -> Tensor:
    return 2 - 2 * (x @ y.mT)


def space_names(spaces: Sequence[Space]) -> list[str]:
    """A name for each space by its geometry, with a number from the second of a kind on: poincare, poincare2."""
    return numbered([space.name for space in spaces])


def numbered(kinds: Sequence[str]) -> list[str]:
    """The kinds, a number from 2 on behind those that stand there already."""
    before = [kinds[:index].count(kind) for index, kind in enumerate(kinds)]
    return [kind if count == 0 else f"{kind}{count + 1}" for kind, count in zip(kinds, before, strict=True)]


def distances(xs: Sequence[Tensor], ys: Sequence[Tensor], spaces: Sequence[Space]) -> list[Tensor]:
    """The distances of all pairs in each space, (N, M) each."""
    return [space.distance(x, y) for x, y, space in zip(xs, ys, spaces, strict=True)]

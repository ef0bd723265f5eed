"""The convex combination of the losses of two geometries, the ablation beside Yue Eq. 10.

Eq. 10 itself, which adds the distances and not the losses, is `PairwiseCrossEntropy` with two spaces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from hyplearn.losses.base import EmbeddingLoss
from hyplearn.nn.space import Space


class ConvexCombination(EmbeddingLoss):
    """(1 - lam) L_first + lam L_second, each of one space of a model with two (Yue Section 3.3, "Limitations").

    The mix models have the sphere first and the hyperbolic space second, which gives the paper's
    lam L_hyp + (1 - lam) L_NCE. lam: in [0, 1]. The weight of a space still multiplies its distances, within its own
    loss: 1 for the form of the paper. The two are losses of one space without arguments that the program supplies.
    """

    def __init__(self, *, first: EmbeddingLoss, second: EmbeddingLoss, lam: float = 0.5) -> None:
        super().__init__()
        if not 0 <= lam <= 1:
            raise ValueError(f"lam={lam} must lie in [0, 1]: it is the share of the second loss")
        self.first, self.second, self.lam = first, second, lam
        self.least_per_class = max(first.least_per_class, second.least_per_class)
        self.equal_per_class = first.equal_per_class or second.equal_per_class

    def check(self, spaces: Sequence[Space], *, batch_size: int) -> None:
        _check_two(spaces)
        self.first.check(spaces[:1], batch_size=batch_size)
        self.second.check(spaces[1:], batch_size=batch_size)

    def compute(
        self, points: Sequence[Tensor], labels: Tensor, spaces: Sequence[Space], *, generator: torch.Generator | None
    ) -> Tensor:
        _check_two(spaces)
        first: Tensor = self.first(points[:1], labels, spaces[:1], generator=generator)
        second: Tensor = self.second(points[1:], labels, spaces[1:], generator=generator)
        return (1 - self.lam) * first + self.lam * second

    def proxies(self) -> Mapping[str, Sequence[nn.Parameter]]:
        first, second = self.first.proxies(), self.second.proxies()
        return {group: [*first.get(group, ()), *second.get(group, ())] for group in {**first, **second}}

    def scalars(self) -> Sequence[nn.Parameter]:
        """Return the learned scalars of both losses."""
        return (*self.first.scalars(), *self.second.scalars())

    def distance_weights(self, spaces: Sequence[Space]) -> tuple[float, ...]:
        """Return the weights of the distances as the loss of each space scales them, times the share of that loss."""
        _check_two(spaces)
        return (1 - self.lam) * self.first.distance_weights(spaces[:1])[0], self.lam * self.second.distance_weights(
            spaces[1:]
        )[0]

    def extra_repr(self) -> str:
        return f"lam={self.lam}"


def _check_two(spaces: Sequence[Space]) -> None:
    if len(spaces) != 2:
        names = ", ".join(space.name for space in spaces)
        raise ValueError(f"a convex combination needs a model of two spaces, as mix_*, not of {len(spaces)} ({names})")

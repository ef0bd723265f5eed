from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hyplearn.losses.base import EmbeddingLoss, build_part
from hyplearn.nn.space import Space


class Taking(EmbeddingLoss):
    def __init__(self, *, sizes: Sequence[int], num_classes: int = 3, tau: float = 1.0) -> None:
        super().__init__()
        self.given = (list(sizes), num_classes, tau)

    def compute(
        self, points: Sequence[Tensor], labels: Tensor, spaces: Sequence[Space], *, generator: torch.Generator | None
    ) -> Tensor:
        return points[0].sum()


class TakingAnything(Taking):
    def __init__(self, **options: Any) -> None:
        assert not options
        super().__init__(sizes=[1])


def test_a_part_is_given_what_its_signature_names_and_keeps_what_it_holds() -> None:
    known = {"spaces": [], "sizes": [4], "num_classes": 7}
    for part, expected in (
        (Taking, ([4], 7, 1.0)),
        (functools.partial(Taking, tau=2.0), ([4], 7, 2.0)),
        (functools.partial(Taking, num_classes=5), ([4], 5, 1.0)),
        (TakingAnything, ([1], 3, 1.0)),
    ):
        built = build_part(part, **known)
        assert isinstance(built, Taking)
        assert built.given == expected

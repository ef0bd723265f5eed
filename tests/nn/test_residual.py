"""Residual sums."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from hyplearn.manifolds import Lorentz
from hyplearn.nn.residual import LorentzResidual
from tests.support.gradients import random


@pytest.mark.parametrize("c", [0.05, 1.0, 20.0])
def test_sum_of_space_coordinates_then_rescaling(c: float) -> None:
    manifold, x, y = Lorentz(c).double(), random(2, 4, 3, 2), random(2, 4, 3, 2, seed=1)
    assert_close(LorentzResidual(manifold, rescale=False)(x, y), x + y)
    expected = manifold.rescale((x + y).movedim(1, -1)).movedim(-1, 1)
    assert_close(LorentzResidual(manifold)(x, y), expected)


def test_a_chain_of_sums_stays_within_reach() -> None:
    residual, x = LorentzResidual(Lorentz()), 100 * torch.randn(2, 8, 3, 3)
    for _ in range(20):
        x = residual(x, x)
    assert residual.manifold.time(x.movedim(1, -1)).max() <= 2e3 * (1 + 1e-3)


def test_the_better_precision_wins() -> None:
    half, full = torch.randn(1, 2, 3, 3).bfloat16(), torch.randn(1, 2, 3, 3)
    for x, y in ((half, full), (full, half)):
        assert LorentzResidual(Lorentz(), rescale=False)(x, y).dtype == torch.float32

from __future__ import annotations

import pytest
import torch
from torch import nn

from hyplearn.inference.bounded import SMALLEST, BoundedTensors


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Linear(10**6, 10**6),
        lambda: nn.Embedding(10**12, 1),
        lambda: torch.zeros(10**12),
        lambda: torch.full((10**6, 10**6), 1.0),
        lambda: torch.randn(10**5, 10**5),
        lambda: torch.arange(10**12),
    ],
)
def test_no_tensor_is_larger_than_the_weights(make) -> None:
    with pytest.raises(ValueError, match="asks for a tensor of"), BoundedTensors(1000):
        make()


def test_models_of_their_size_are_built_with_the_same_numbers() -> None:
    def model() -> nn.Module:
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(100, 100), nn.BatchNorm1d(100))

    with BoundedTensors(4 * SMALLEST):
        bounded = model()
        torch.empty(SMALLEST + 1, device="meta")
    for name, value in model().state_dict().items():
        assert value.equal(bounded.state_dict()[name])

"""The weight of a space: exact where it is given, a parameter where it is learned."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from hyplearn.losses import PairwiseCrossEntropy
from hyplearn.manifolds import Euclidean
from hyplearn.nn.space import Space


@pytest.mark.parametrize("weight", [3.0, 0.1, 8.0, 1e-3])
def test_a_given_weight_is_exact(weight: float) -> None:
    space = Space(Euclidean(), weight=weight)
    assert space.weight.item() == weight
    assert space.double().weight.item() == weight
    assert not list(space.parameters())
    assert PairwiseCrossEntropy(tau=0.2).distance_weights([space]) == (weight / 0.2,)


def test_a_given_weight_leaves_the_type_of_distances() -> None:
    space, x = Space(Euclidean(), weight=3.0), torch.randn(4, 2)
    for dtype in (torch.float32, torch.float64):
        assert (space.weight * space.distance(x.to(dtype), x.to(dtype))).dtype == dtype


def test_a_learned_weight_has_the_type_of_the_model() -> None:
    assert Space(Euclidean(), weight=3.0, learned=True).weight.dtype == torch.float32
    torch.set_default_dtype(torch.float64)
    try:
        space = Space(Euclidean(), weight=3.0, learned=True)
    finally:
        torch.set_default_dtype(torch.float32)
    assert_close(space.weight.item(), 3.0, rtol=1e-15, atol=0)
    space.weight.backward()
    assert space.log_weight is not None
    assert space.log_weight.grad is not None


def test_states_with_the_logarithm_of_a_given_weight_are_still_read() -> None:
    model = torch.nn.ModuleList([Space(Euclidean(), weight=3.0), Space(Euclidean(), weight=2.0, learned=True)])
    model.load_state_dict({"0.log_weight": torch.tensor(1.0986), "1.log_weight": torch.tensor(0.25)})
    assert model[0].weight.item() == 3.0
    assert_close(model[1].weight.item(), 1.2840254, rtol=1e-6, atol=0)

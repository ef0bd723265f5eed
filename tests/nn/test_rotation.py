"""The norm-preserving map of linear and convolution layers."""

from __future__ import annotations

import copy
from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.nn.utils.parametrizations import orthogonal
from torch.testing import assert_close

from hyplearn.manifolds import Lorentz
from hyplearn.nn.conv import LorentzConv2d
from hyplearn.nn.linear import LorentzLinear
from hyplearn.nn.rotation import CayleyColumns, Orthogonal
from tests.support.gradients import assert_same, random


@pytest.mark.parametrize("orthogonal", get_args(Orthogonal))
@pytest.mark.parametrize(("fan_in", "out"), [(3, 8), (8, 8), (1, 4)])
def test_columns_are_orthonormal_where_the_map_does_not_reduce(orthogonal: str, fan_in: int, out: int) -> None:
    """Algorithm 2: n <= n'; equality belongs to it."""
    layer = LorentzLinear(fan_in, out, manifold=Lorentz(), orthogonal=orthogonal)
    assert layer.is_orthogonal and layer.norm_match == "none"
    assert_close(layer.weight.mT @ layer.weight, torch.eye(fan_in), rtol=0, atol=1e-5)


def test_columns_stay_orthonormal_through_training_and_under_autocast() -> None:
    layer, x = LorentzLinear(3, 8, manifold=Lorentz()), torch.randn(16, 3)
    before = layer.weight.detach()
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    for _ in range(5):
        with torch.autocast("cpu", torch.bfloat16):
            loss = (layer(x) * torch.randn(16, 8)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.autocast("cpu", torch.bfloat16):
        weight = layer.weight
    assert weight.dtype == torch.float32
    assert (weight - before).abs().max() > 1e-3
    assert_close(weight.mT @ weight, torch.eye(3), rtol=0, atol=1e-5)


def test_a_map_that_reduces_is_free_and_its_scale_does_not_matter() -> None:
    layer, x = LorentzLinear(8, 3, manifold=Lorentz(0.5)).double(), random(6, 8)
    assert not layer.is_orthogonal
    out = layer(x)
    with torch.no_grad():
        layer.weight_free.mul_(7.0)
    assert_close(layer(x), out)


@pytest.mark.parametrize(("rows", "columns"), [(5, 3), (4, 4), (7, 1)])
def test_cayley_columns_are_those_of_torch_s_parametrization(rows: int, columns: int) -> None:
    """Values and gradients of the smaller system and of torch's (m, m) one."""
    x, layer = random(rows, columns).requires_grad_(), torch.nn.Linear(columns, rows, bias=False).double()
    orthogonal(layer, orthogonal_map="cayley", use_trivialization=False)

    def torchs() -> Tensor:
        return torch.func.functional_call(layer.parametrizations.weight, {"original": x}, ())

    assert_same(lambda: CayleyColumns()(x), torchs, [x], tolerance=1e-10)


@pytest.mark.parametrize("channels", [(3, 32), (8, 4)], ids=["orthogonal", "free"])
def test_copies_and_state_dicts_are_the_same_layer(channels: tuple[int, int]) -> None:
    layer, x = LorentzConv2d(*channels, 3, manifold=Lorentz()), torch.randn(2, channels[0], 5, 5)
    other = LorentzConv2d(*channels, 3, manifold=Lorentz())
    other.load_state_dict(layer.state_dict())
    for twin in (copy.deepcopy(layer), other):
        assert_close(twin(x), layer(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm_match": "exakt"}, "norm_match='exakt'.*Did you mean exact"),
        ({"orthogonal": "caley"}, "orthogonal='caley'.*Did you mean cayley"),
        ({"rescale": "post"}, "rescale='post' must be one of 'both', 'pre_boost', 'post_boost', 'none'"),
        ({"boost": "ful"}, "boost='ful'.*Did you mean full"),
    ],
)
def test_wrong_options_are_named(options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LorentzLinear(4, 4, manifold=Lorentz(), **options)

"""Lorentz linear layers against their steps one by one."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch.testing import assert_close

from hyplearn.manifolds import Lorentz
from hyplearn.nn.linear import LorentzLinear, OriginalLorentzLinear
from hyplearn.nn.rotation import RescaleSide
from tests.support.gradients import random

CURVATURES = [0.05, 1.0, 20.0]


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("rescale", get_args(RescaleSide))
@pytest.mark.parametrize("sizes", [(6, 3), (3, 6)])
def test_rotation_rescaling_boost(c: float, rescale: str, sizes: tuple[int, int]) -> None:
    manifold, x = Lorentz(c).double(), random(7, sizes[0]) / c**0.5
    layer = LorentzLinear(*sizes, manifold=manifold, rescale=rescale).double()
    y = x @ layer.weight.mT
    y = y * (x.norm(dim=-1, keepdim=True) / y.norm(dim=-1, keepdim=True))
    if rescale in ("both", "pre_boost"):
        y = manifold.rescale(y)
    y = manifold.boost(y, layer.boost.point())
    if rescale in ("both", "post_boost"):
        y = manifold.rescale(y)
    assert_close(layer(x), y, rtol=1e-5, atol=1e-6)  # orthonormal to float32's precision


def test_without_boost_and_rescaling_it_keeps_distances_where_it_does_not_reduce() -> None:
    manifold, x = Lorentz(0.7).double(), random(7, 3)
    layer = LorentzLinear(3, 5, manifold=manifold, rescale="none").double()
    assert_close(manifold.cdist(layer(x), layer(x)), manifold.cdist(x, x))


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("bias", [True, False])
def test_original_linear_reads_the_time(c: float, bias: bool) -> None:
    manifold, x = Lorentz(c).double(), random(7, 4)
    layer = OriginalLorentzLinear(4, 3, manifold=manifold, bias=bias).double()
    weight = torch.cat([layer.weight_time.unsqueeze(1), layer.weight], dim=1)
    expected = manifold.to_ambient(x) @ weight.mT
    assert_close(layer(x), expected if layer.bias is None else expected + layer.bias)
    assert (layer.bias is None) == (not bias)


@pytest.mark.parametrize("layer", [LorentzLinear, OriginalLorentzLinear])
def test_wrong_sizes_are_named(layer: type) -> None:
    with pytest.raises(ValueError, match="in_features=0 must be an integer >= 1"):
        layer(0, 3, manifold=Lorentz())
    with pytest.raises(ValueError, match=r"out_features=2\.5 must be an integer >= 1"):
        layer(3, 2.5, manifold=Lorentz())


def test_what_it_is_is_printed() -> None:
    assert "6, 3, norm_match=exact, rescale=both" in repr(LorentzLinear(6, 3, manifold=Lorentz()))

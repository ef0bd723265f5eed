"""The published form of HCNN's convolution against the one that does not unfold."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from hyplearn.manifolds import Lorentz
from hyplearn.nn.batchnorm import LorentzBatchNorm2d
from hyplearn.nn.block import LorentzBlock
from hyplearn.nn.conv import OriginalLorentzConv2d
from hyplearn.nn.unfolded_conv import UnfoldedLorentzConv2d, unfold
from tests.support.gradients import random

SHAPES = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": (2, 3), "dilation": 2, "padding": (0, 2), "bias": False},
    {"kernel_size": 1, "stride": 2},
]


@pytest.mark.parametrize("c", [0.05, 1.0, 20.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_are_those_without_unfolding(c: float, shape: dict[str, int]) -> None:
    plain = OriginalLorentzConv2d(3, 5, manifold=Lorentz(c, learned=True), **shape).double()
    unfolded = UnfoldedLorentzConv2d.of(plain)
    x = (random(2, 3, 8, 7) / c**0.5).requires_grad_()
    expected = plain(x)
    g = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, [x, *plain.parameters()], g)
    found = unfolded(x)
    assert_close(found, expected, rtol=1e-9, atol=1e-9)
    for mine, theirs in zip(torch.autograd.grad(found, [x, *unfolded.parameters()], g), wanted, strict=True):
        assert_close(mine, theirs, rtol=1e-8, atol=1e-8)


def block(manifold: Lorentz, *, fused: bool) -> LorentzBlock:
    conv = OriginalLorentzConv2d(4, 6, 3, manifold=manifold, padding=1)
    return LorentzBlock(conv, LorentzBatchNorm2d(6, manifold=manifold), fused=fused)


def test_every_block_of_a_model_unfolds_and_keeps_its_values() -> None:
    manifold = Lorentz(1.0)
    model = nn.Sequential(block(manifold, fused=False)).double().eval()
    x = random(2, 4, 6, 6)
    before = model(x)
    names = list(model.state_dict())
    assert unfold(model) == 1
    assert type(model[0].conv) is UnfoldedLorentzConv2d
    assert list(model.state_dict()) == names
    assert_close(model(x), before)


def test_a_fused_block_is_refused() -> None:
    with pytest.raises(ValueError, match="fused=True"):
        unfold(block(Lorentz(1.0), fused=True))

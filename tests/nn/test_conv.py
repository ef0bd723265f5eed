"""Lorentz convolutions against patches taken one by one."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from hyplearn.manifolds import Lorentz
from hyplearn.nn.conv import LorentzConv2d, OriginalLorentzConv2d
from hyplearn.nn.rotation import NormMatch, RescaleSide
from tests.support.gradients import random

CURVATURES = [0.05, 0.3, 1.0, 4.0, 20.0]
SHAPES = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": (2, 3), "dilation": 2, "padding": (0, 2)},
    {"kernel_size": 1, "stride": 2},
]


def patches(x: Tensor, layer: LorentzConv2d | OriginalLorentzConv2d) -> Tensor:
    """(B, L, C kh kw)."""
    conv = layer.convolution
    return F.unfold(x, conv.kernel, conv.dilation, conv.padding, conv.stride).mT


def rows(y: Tensor) -> Tensor:
    return y.flatten(2).mT


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("out", [4, 64], ids=["free", "orthogonal"])
def test_output_has_the_norm_of_its_patch(c: float, shape: dict[str, int], out: int) -> None:
    x = random(2, 3, 8, 7) / c**0.5
    layer = LorentzConv2d(3, out, manifold=Lorentz(c), boost="none", rescale="none", **shape).double()
    layer_norm = rows(layer(x)).norm(dim=-1)
    if out == 4 and shape["kernel_size"] == 1:
        assert layer.is_orthogonal  # 3 <= 4
    assert_close(layer_norm, patches(x, layer).norm(dim=-1), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("rescale", get_args(RescaleSide))
@pytest.mark.parametrize("norm_match", get_args(NormMatch))
def test_steps_one_by_one(c: float, rescale: str, norm_match: str) -> None:
    manifold, x = Lorentz(c).double(), random(2, 3, 6, 5) / c**0.5
    layer = LorentzConv2d(3, 4, 3, manifold=manifold, padding=1, norm_match=norm_match, rescale=rescale).double()
    patch = patches(x, layer)
    y = patch @ layer.weight.flatten(1).mT
    pixels = patch.view(*patch.shape[:2], 3, 9).norm(dim=2)
    norm = {"exact": patch.norm(dim=-1), "sum": pixels.sum(-1), "mean": pixels.mean(-1), "none": y.norm(dim=-1)}
    y = y * (norm[norm_match] / y.norm(dim=-1)).unsqueeze(-1)
    if rescale in ("both", "pre_boost"):
        y = manifold.rescale(y)
    y = manifold.boost(y, layer.boost.point())
    if rescale in ("both", "post_boost"):
        y = manifold.rescale(y)
    assert_close(rows(layer(x)), y, rtol=1e-6, atol=1e-9)


def test_zero_padding_is_padding_with_the_origin() -> None:
    x = random(1, 3, 4, 4)
    layer = LorentzConv2d(3, 4, 3, manifold=Lorentz(), padding=1).double()
    bare = LorentzConv2d(3, 4, 3, manifold=Lorentz()).double()
    bare.load_state_dict(layer.state_dict())
    assert_close(layer(x), bare(F.pad(x, (1, 1, 1, 1))))


def test_a_dead_patch_is_boosted_from_the_origin() -> None:
    layer = LorentzConv2d(3, 4, 3, manifold=Lorentz(2.0), rescale="none").double()
    out = layer(torch.zeros(1, 3, 3, 3, dtype=torch.float64))
    assert_close(out.flatten(), layer.boost.point(), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("rescale", ["both", "post_boost"])
def test_far_inputs_stay_within_reach(rescale: str) -> None:
    layer, x = LorentzConv2d(8, 8, 3, manifold=Lorentz(), rescale=rescale), 1e3 * torch.randn(2, 8, 6, 6)
    assert layer.manifold.time(layer(x).movedim(1, -1)).max() <= 2e3 * (1 + 1e-3)


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_original_convolution_is_linear_in_the_patch_and_its_time(c: float, shape: dict[str, int]) -> None:
    manifold, x = Lorentz(c).double(), random(2, 3, 8, 7) / c**0.5
    layer = OriginalLorentzConv2d(3, 4, manifold=manifold, **shape).double()
    with torch.no_grad():
        layer.bias.copy_(random(4, seed=3))
    patch = patches(x, layer)
    time = (patch.square().sum(-1, keepdim=True) + 1 / manifold.c).sqrt()
    expected = patch @ layer.weight.flatten(1).mT + time * layer.weight_time + layer.bias
    assert_close(rows(layer(x)), expected)


def test_original_convolution_without_bias() -> None:
    layer = OriginalLorentzConv2d(3, 4, 3, manifold=Lorentz(), bias=False)
    assert layer.bias is None
    assert layer(torch.randn(1, 3, 5, 5)).shape == (1, 4, 3, 3)


@pytest.mark.parametrize("layer", [LorentzConv2d, OriginalLorentzConv2d])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_channels": 0}, "in_channels=0 must be an integer >= 1"),
        ({"out_channels": -1}, "out_channels=-1 must be an integer >= 1"),
        ({"kernel_size": 0}, "kernel_size=0 must be an integer >= 1 or a pair of them"),
        ({"kernel_size": (3, 3, 3)}, r"kernel_size=\(3, 3, 3\) must be an integer >= 1 or a pair of them"),
        ({"stride": 0}, "stride=0 must be an integer >= 1"),
        ({"padding": -1}, "padding=-1 must be an integer >= 0"),
        ({"dilation": (1, 0)}, r"dilation=\(1, 0\) must be an integer >= 1"),
    ],
)
def test_wrong_arguments_are_named(layer: type, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layer(**{"in_channels": 3, "out_channels": 4, "kernel_size": 3, "manifold": Lorentz(), **arguments})


def test_what_they_are_is_printed() -> None:
    made = repr(LorentzConv2d(3, 4, 3, manifold=Lorentz(), stride=2, padding=1))
    assert "3, 4, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), norm_match=exact, rescale=both" in made
    assert "3, 4, kernel_size=(3, 3), stride=(1, 1)" in repr(OriginalLorentzConv2d(3, 4, 3, manifold=Lorentz()))

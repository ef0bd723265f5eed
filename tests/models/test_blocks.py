"""Residual blocks, the same for every geometry."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from hyplearn.manifolds import Lorentz, PoincareBall
from hyplearn.models.blocks import BasicBlock, Bottleneck
from hyplearn.models.geometries import Ball, Euclidean, Geometry, Hyperboloid
from hyplearn.models.options import ConvolutionOptions, NormOptions, RescaleSites


def hyperboloid() -> Hyperboloid:
    return Hyperboloid(
        Lorentz(), ConvolutionOptions(), NormOptions(), RescaleSites(), entry="project", exit="log0", fused=True
    )


GEOMETRIES = [Euclidean(NormOptions()), hyperboloid(), Ball(PoincareBall(0.1), NormOptions())]
IDS = [type(g).__name__ for g in GEOMETRIES]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=IDS)
@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
@pytest.mark.parametrize(("into", "stride"), [(4, 1), (16, 1), (4, 2), (16, 2)])
def test_shapes_and_shortcuts(block: type, geometry: Geometry, into: int, stride: int) -> None:
    made = block(into, 4, stride=stride, geometry=geometry)
    out = made(torch.randn(2, into, 7, 6))
    assert out.shape == (2, 4 * block.expansion, -(-7 // stride), -(-6 // stride))
    changes = stride != 1 or into != 4 * block.expansion
    assert isinstance(made.shortcut, nn.Identity) != changes


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=IDS)
def test_basic_block_by_definition(geometry: Geometry) -> None:
    block, x = BasicBlock(4, 8, stride=2, geometry=geometry), torch.randn(2, 4, 6, 6)
    block.eval()
    assert block.last is block.unit2
    assert_close(block(x), block.unit2(block.unit1(x), block.shortcut(x)))
    assert (block(x) >= 0).all()


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=IDS)
def test_bottleneck_by_definition(geometry: Geometry) -> None:
    block, x = Bottleneck(4, 8, stride=2, geometry=geometry), torch.randn(2, 4, 6, 6)
    block.eval()
    assert block.last is block.unit3
    assert_close(block(x), block.unit3(block.unit2(block.unit1(x)), block.shortcut(x)))
    kernels = [tuple(unit.conv.weight.shape[-2:]) for unit in (block.unit1, block.unit2, block.unit3)]
    if isinstance(geometry, Euclidean):
        assert kernels == [(1, 1), (3, 3), (1, 1)]


def test_the_core_of_a_bottleneck_comes_from_where_it_is_told() -> None:
    core = hyperboloid().core
    block = Bottleneck(16, 4, stride=2, geometry=Euclidean(NormOptions()), core=core)
    out = block(torch.randn(2, 16, 7, 6))
    assert out.shape == (2, 16, 4, 3)
    assert block.unit2.entry is not None and block.unit2.exit is not None

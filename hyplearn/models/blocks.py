"""Residual blocks, the same for every geometry."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from hyplearn.models.geometries import Geometry


class BasicBlock(nn.Module):
    """Two 3 x 3 units and a shortcut, projected by a 1 x 1 unit where the shape changes."""

    expansion = 1

    def __init__(self, into: int, width: int, *, stride: int, geometry: Geometry) -> None:
        super().__init__()
        self.unit1 = geometry.unit(into, width, 3, stride=stride)
        self.unit2 = geometry.unit(width, width, 3, residual=True)
        self.shortcut = _shortcut(into, width, stride, geometry)

    @property
    def last(self) -> nn.Module:
        """The unit that gives the output."""
        return self.unit2

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.unit2(self.unit1(x), self.shortcut(x))
        return out


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 (with the stride) and 1 x 1 units; four times the width at the ends.

    core: builds the middle unit, which the Lorentz-core bottleneck of Bdeir Figure 1 takes from another geometry.
    """

    expansion = 4

    def __init__(
        self, into: int, width: int, *, stride: int, geometry: Geometry, core: Callable[..., nn.Module] | None = None
    ) -> None:
        super().__init__()
        self.unit1 = geometry.unit(into, width, 1)
        self.unit2 = (core or geometry.unit)(width, width, 3, stride=stride)
        self.unit3 = geometry.unit(width, width * self.expansion, 1, residual=True)
        self.shortcut = _shortcut(into, width * self.expansion, stride, geometry)

    @property
    def last(self) -> nn.Module:
        """The unit that gives the output."""
        return self.unit3

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.unit3(self.unit2(self.unit1(x)), self.shortcut(x))
        return out


def _shortcut(into: int, out: int, stride: int, geometry: Geometry) -> nn.Module:
    if stride == 1 and into == out:
        return nn.Identity()
    return geometry.unit(into, out, 1, stride=stride, activation=False)

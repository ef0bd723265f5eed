"""What a residual block is made of in each geometry: units of convolution, batch norm, residual sum, activation.

A unit is a module with `forward(x, shortcut=None)` on feature maps (B, n, H, W) and an `exit`, the way to the space of
the next unit where that is another one. A geometry builds units and ways, so that one ResNet serves all geometries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from hyplearn.manifolds import Lorentz, Manifold, PoincareBall
from hyplearn.models.options import ConvolutionOptions, NormOptions, RescaleSites
from hyplearn.nn.batchnorm import LorentzBatchNorm2d
from hyplearn.nn.block import LorentzBlock
from hyplearn.nn.checks import of_one_type
from hyplearn.nn.conv import LorentzConv2d, OriginalLorentzConv2d
from hyplearn.nn.fused.lift import EntryKind
from hyplearn.nn.fused.norm import ExitKind
from hyplearn.nn.lift import Lift, Unlift
from hyplearn.nn.poincare_batchnorm import PoincareBatchNorm2d
from hyplearn.nn.poincare_conv import PoincareConv2d
from hyplearn.nn.poincare_pool import PoincareGlobalPool
from hyplearn.nn.poincare_residual import PoincareResidual
from hyplearn.nn.pool import LorentzGlobalPool
from hyplearn.nn.residual import LorentzResidual
from hyplearn.nn.strided import PointwiseConv2d


class Geometry(Protocol):
    """Builds the parts of a stage. `residual`: whether the unit's forward takes a shortcut."""

    @property
    def manifold(self) -> Manifold | None: ...

    def unit(
        self, into: int, out: int, kernel: int, *, stride: int = 1, activation: bool = True, residual: bool = False
    ) -> nn.Module: ...
    def pool(self) -> nn.Module: ...
    def enter(self) -> nn.Module: ...
    def leave(self) -> nn.Module: ...


class EuclideanUnit(nn.Module):
    """Convolution, batch norm, residual sum, ReLU, and a `Lift` as exit where the next layer is on the hyperboloid."""

    exit: nn.Module | None

    def __init__(self, into: int, out: int, kernel: int, *, stride: int, activation: bool, norm: NormOptions) -> None:
        super().__init__()
        if kernel == 1:
            self.conv: nn.Conv2d = PointwiseConv2d(into, out, stride=stride)
        else:
            self.conv = nn.Conv2d(into, out, kernel, stride, kernel // 2, bias=False)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        self.norm = nn.BatchNorm2d(out, eps=norm.eps, momentum=norm.momentum)
        self.activation, self.exit = activation, None

    def forward(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        of_one_type(self, self.conv.weight, x)
        x = self.norm(self.conv(x))
        if shortcut is not None:
            x = x + shortcut
        if isinstance(self.exit, Lift):
            return self.exit.of_relu(x)
        return F.relu(x, inplace=True) if self.activation else x


class GlobalAveragePool(nn.Module):
    """Mean over all positions: (B, n, H, W) to (B, n)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


@dataclass(frozen=True)
class Euclidean:
    """Ordinary residual networks."""

    norm: NormOptions

    @property
    def manifold(self) -> None:
        return None

    def unit(
        self, into: int, out: int, kernel: int, *, stride: int = 1, activation: bool = True, residual: bool = False
    ) -> nn.Module:
        return EuclideanUnit(into, out, kernel, stride=stride, activation=activation, norm=self.norm)

    def pool(self) -> nn.Module:
        return GlobalAveragePool()

    def enter(self) -> nn.Module:
        return nn.Identity()

    def leave(self) -> nn.Module:
        return nn.Identity()


@dataclass(frozen=True)
class Hyperboloid:
    """Lorentz layers on one manifold. entry, exit: kinds of `Lift` and `Unlift`."""

    manifold: Lorentz
    conv: ConvolutionOptions
    norm: NormOptions
    rescale: RescaleSites
    entry: EntryKind
    exit: ExitKind
    fused: bool

    def unit(
        self, into: int, out: int, kernel: int, *, stride: int = 1, activation: bool = True, residual: bool = False
    ) -> LorentzBlock:
        return self._block(into, out, kernel, stride=stride, activation=activation, residual=residual)

    def core(self, into: int, out: int, kernel: int, *, stride: int) -> LorentzBlock:
        """A unit from Euclidean features to Euclidean features: the Lorentz core of a bottleneck (Bdeir Figure 1)."""
        return self._block(into, out, kernel, stride=stride, activation=True, residual=False, core=True)

    def _block(
        self, into: int, out: int, kernel: int, *, stride: int, activation: bool, residual: bool, core: bool = False
    ) -> LorentzBlock:
        return LorentzBlock(
            self._conv(into, out, kernel, stride),
            LorentzBatchNorm2d(
                out,
                manifold=self.manifold,
                momentum=self.norm.momentum,
                eps=self.norm.eps,
                dispersion=self.norm.dispersion,
                centroid=self.norm.centroid,
                rescale=self.rescale.norm,
                tangent_limit=self.norm.tangent_limit,
                coordinates=self.norm.coordinates,
            ),
            activation=activation,
            residual=LorentzResidual(self.manifold, rescale=self.rescale.residual) if residual else None,
            entry=self.enter() if core else None,
            exit=self.leave() if core else None,
            fused=self.fused,
        )

    def _conv(self, into: int, out: int, kernel: int, stride: int) -> LorentzConv2d | OriginalLorentzConv2d:
        if self.conv.kind == "original":
            return OriginalLorentzConv2d(into, out, kernel, manifold=self.manifold, stride=stride, padding=kernel // 2)
        return LorentzConv2d(
            into,
            out,
            kernel,
            manifold=self.manifold,
            stride=stride,
            padding=kernel // 2,
            norm_match=self.conv.norm_match,
            orthogonal=self.conv.orthogonal,
            boost=self.conv.boost,
            rescale=self.rescale.conv,
        )

    def pool(self) -> nn.Module:
        return LorentzGlobalPool(self.manifold)

    def enter(self) -> Lift:
        return Lift(self.manifold, kind=self.entry, rescale=self.rescale.entry)

    def leave(self) -> Unlift:
        return Unlift(self.manifold, kind=self.exit)


class PoincareUnit(nn.Module):
    """Convolution, batch norm, Moebius residual sum, ReLU, all on tangent vectors at the origin of the ball."""

    def __init__(
        self, into: int, out: int, kernel: int, *, stride: int, activation: bool, residual: bool,
        norm: NormOptions, manifold: PoincareBall,
    ) -> None:  # fmt: skip
        super().__init__()
        self.conv = PoincareConv2d(into, out, kernel, manifold=manifold, stride=stride, padding=kernel // 2, bias=False)
        self.norm = PoincareBatchNorm2d(out, manifold=manifold, momentum=norm.momentum, eps=norm.eps)
        self.residual = PoincareResidual(manifold) if residual else None
        self.activation = activation

    def forward(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        x = self.norm(self.conv(x))
        if self.residual is not None:
            x = self.residual(x, shortcut)
        return F.relu(x) if self.activation else x


@dataclass(frozen=True)
class Ball:
    """Poincare residual networks (van Spengler et al.): features are tangent vectors at the origin between layers."""

    manifold: PoincareBall
    norm: NormOptions

    def unit(
        self, into: int, out: int, kernel: int, *, stride: int = 1, activation: bool = True, residual: bool = False
    ) -> PoincareUnit:
        return PoincareUnit(
            into, out, kernel, stride=stride, activation=activation, residual=residual,
            norm=self.norm, manifold=self.manifold,
        )  # fmt: skip

    def pool(self) -> nn.Module:
        return PoincareGlobalPool(self.manifold)

    def enter(self) -> nn.Module:
        return nn.Identity()

    def leave(self) -> nn.Module:
        return nn.Identity()

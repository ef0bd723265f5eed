"""Convolution, batch norm, residual and activation as one block: the seam behind which the fused path lies."""

from __future__ import annotations

from torch import Tensor, nn

from hyplearn.manifolds import Lorentz
from hyplearn.nn.activation import LorentzReLU
from hyplearn.nn.batchnorm import LorentzBatchNorm2d
from hyplearn.nn.checks import in_full_precision, of_one_type
from hyplearn.nn.conv import LorentzConv2d, OriginalLorentzConv2d
from hyplearn.nn.fused.conv import convolve
from hyplearn.nn.fused.lift import Entry
from hyplearn.nn.fused.norm import Block, NormalizeInputs, normalize
from hyplearn.nn.lift import Lift, Unlift
from hyplearn.nn.residual import LorentzResidual


class LorentzBlock(nn.Module):
    """[entry ->] convolution -> batch norm [-> residual] [-> ReLU] [-> exit] on (B, C, H, W), in channels_last.

    entry: a `Lift` where the input is Euclidean. exit: where the output goes, an `Unlift` or any other module.
    residual: how `forward(x, shortcut)` adds the shortcut.
    fused: run as two autograd functions that save only what a Euclidean block saves; otherwise layer by layer. Both
    give the same values and gradients.
    """

    def __init__(
        self,
        conv: LorentzConv2d | OriginalLorentzConv2d,
        norm: LorentzBatchNorm2d,
        *,
        activation: bool = True,
        residual: LorentzResidual | None = None,
        entry: Lift | None = None,
        exit: nn.Module | None = None,
        fused: bool = True,
    ) -> None:
        super().__init__()
        for name, part in (("norm", norm), ("residual", residual), ("entry", entry)):
            if part is not None and part.manifold is not conv.manifold:
                raise ValueError(f"{name} lies on another manifold than conv; a block has one, `Transfer` moves points")
        self.conv, self.norm, self.residual, self.entry, self.exit = conv, norm, residual, entry, exit
        self.relu = LorentzReLU() if activation else None
        self.fused = fused

    @property
    def manifold(self) -> Lorentz:
        return self.norm.manifold

    def forward(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        if (shortcut is None) != (self.residual is None):
            raise ValueError("shortcut must be given exactly where the block has a residual")
        in_full_precision(self, self.norm.beta)
        if self.fused and self.norm.fusable and (self.entry is None or self.entry.clip is None):
            return self._fused(x, shortcut)
        return self._layers(x, shortcut)

    def _layers(self, x: Tensor, shortcut: Tensor | None) -> Tensor:
        if self.entry is not None:
            x = self.entry(x)
        x = self.norm(self.conv(x))
        if self.residual is not None and shortcut is not None:
            x = self.residual(x, shortcut)
        if self.relu is not None:
            x = self.relu(x)
        if self.exit is not None:
            x = self.exit(x)
        return x

    def _fused(self, x: Tensor, shortcut: Tensor | None) -> Tensor:
        conv, norm, c = self.conv, self.norm, self.manifold.c
        limits = norm.limits(c)
        unlift = self.exit if isinstance(self.exit, Unlift) and self.exit.manifold is self.manifold else None
        weight = conv.weight
        of_one_type(self, weight, x)
        y, q_patch = convolve(
            x,
            weight,
            conv.weight_time,
            conv.bias,
            c=c,
            limits=limits,
            convolution=conv.convolution,
            entry=None if self.entry is None else Entry(self.entry.kind, self.entry.rescale),
        )
        norm.check(y)
        placement = conv.placement() if isinstance(conv, LorentzConv2d) else None
        given_mean, given_dispersion = norm.statistics()
        inputs = NormalizeInputs(
            y=y,
            q_patch=q_patch if placement is not None and placement.match else None,
            residual=shortcut,
            b=conv.boost.point(c) if isinstance(conv, LorentzConv2d) else None,
            beta=norm.beta,
            gamma=norm.gamma,
            c=c,
            mean=given_mean,
            dispersion=given_dispersion,
        )
        out, mean, dispersion = normalize(
            inputs,
            limits=limits,
            block=Block(
                placement=placement,
                normalization=norm.normalization(),
                activation=self.relu is not None,
                rescale_residual=self.residual is not None and self.residual.rescale,
                exit=None if unlift is None else unlift.kind,
            ),
        )
        if norm.training:
            norm.track(mean, dispersion, limits, c)
        return out if self.exit is None or unlift is not None else self.exit(out)

"""Lorentz convolutions on feature maps of space coordinates, (B, n, H, W) in channels_last."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyplearn.manifolds import Lorentz
from hyplearn.manifolds.foreign import ours
from hyplearn.nn.boost import BoostKind
from hyplearn.nn.checks import of_one_type, positive
from hyplearn.nn.fused.conv import Convolution, NormMatch
from hyplearn.nn.layout import squared_norm
from hyplearn.nn.rotation import Orthogonal, RescaleSide, RotationBoost

Pair = int | Sequence[int]


def _pair(name: str, value: Pair, least: int) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or any(v < least for v in pair):
        raise ValueError(f"{name}={value!r} must be an integer >= {least} or a pair of them")
    return pair[0], pair[1]


class LorentzConv2d(RotationBoost):
    """The efficient convolution of Bdeir Section 3.3: rotation convolution, rescaling, boost (Eq. 5).

    The kernel acts on the space coordinates; zero padding is padding with the origin.
    norm_match: how the output gets the norm of the input patch where the weight cannot preserve it, C_in kh kw > C_out:
        `exact` |x_patch|, as the paper prints; `sum` or `mean` of the patch's pixel norms and `none`, as in existing
        code. Smaller kernels have orthonormal columns and need none.
    orthogonal: parametrization of those, `cayley` (the paper), `householder` or `matrix_exp`.
    boost: `full` (the paper), `axis`, `scale`, `none`; see `LorentzBoost`.
    rescale: maximum-distance rescaling `both` before and after the boost (Eq. 5 and Section 3.2), `pre_boost`,
        `post_boost` (existing code) or `none`.
    There is no bias: the boost is it.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        *,
        manifold: Lorentz,
        stride: Pair = 1,
        padding: Pair = 0,
        dilation: Pair = 1,
        norm_match: NormMatch = "exact",
        orthogonal: Orthogonal = "cayley",
        boost: BoostKind = "full",
        rescale: RescaleSide = "both",
    ) -> None:
        positive("in_channels", in_channels)
        positive("out_channels", out_channels)
        kernel = _pair("kernel_size", kernel_size, 1)
        super().__init__(
            (out_channels, in_channels, *kernel),
            manifold=manifold,
            norm_match=norm_match,
            orthogonal=orthogonal,
            boost=boost,
            rescale=rescale,
        )
        self.convolution = Convolution(
            stride=_pair("stride", stride, 1),
            padding=_pair("padding", padding, 0),
            dilation=_pair("dilation", dilation, 1),
            kernel=kernel,
            patch=self.norm_match,
        )

    weight_time = None
    bias = None

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        of_one_type(self, weight, x)
        x, conv = self.convolution.reading(x)
        y = F.conv2d(x, weight, None, conv.stride, conv.padding, conv.dilation)
        with torch.autocast(x.device.type, enabled=False):
            y = y.to(torch.promote_types(y.dtype, torch.float32))
            return self.move(y, conv.patch_square(squared_norm(x)))

    def extra_repr(self) -> str:
        conv = self.convolution
        return (
            f"{self.shape[1]}, {self.shape[0]}, kernel_size={conv.kernel}, stride={conv.stride}, "
            f"padding={conv.padding}, norm_match={self.norm_match}, rescale={self.rescale}"
        )


class OriginalLorentzConv2d(nn.Module):
    """The convolution of HCNN without unfolding: `conv2d(x, W) + w_t t_patch + bias`, time derived.

    The published layer concatenates the pixels of a patch to one point, of time
    `t_patch = sqrt(sum t_i^2 - (m - 1)/c) = sqrt(|x_patch|^2 + 1/c)`, and applies a linear map to all its coordinates,
    the time included. That needs the squared patch norm alone, a convolution with ones.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        *,
        manifold: Lorentz,
        stride: Pair = 1,
        padding: Pair = 0,
        dilation: Pair = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        positive("in_channels", in_channels)
        positive("out_channels", out_channels)
        kernel = _pair("kernel_size", kernel_size, 1)
        self.manifold = ours(manifold)
        self.convolution = Convolution(
            stride=_pair("stride", stride, 1),
            padding=_pair("padding", padding, 0),
            dilation=_pair("dilation", dilation, 1),
            kernel=kernel,
            patch="exact",
        )
        bound = (2 / (in_channels * kernel[0] * kernel[1])) ** 0.5  # of HCNN, for all three
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, *kernel).uniform_(-bound, bound))
        self.weight_time = nn.Parameter(torch.empty(out_channels).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(out_channels).uniform_(-bound, bound)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        of_one_type(self, self.weight, x)
        x, conv = self.convolution.reading(x)
        y = F.conv2d(x, self.weight, self.bias, conv.stride, conv.padding, conv.dilation)
        with torch.autocast(x.device.type, enabled=False):
            time = torch.sqrt(conv.patch_square(squared_norm(x)) + 1 / self.manifold.c)
            return y.to(time.dtype) + time * self.weight_time.view(1, -1, 1, 1)

    def extra_repr(self) -> str:
        out, into = self.weight.shape[:2]
        return f"{into}, {out}, kernel_size={self.convolution.kernel}, stride={self.convolution.stride}"

"""The Poincare convolution (van Spengler et al., 2023) without unfolding."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyplearn import regions
from hyplearn.errors import one_of
from hyplearn.manifolds import PoincareBall
from hyplearn.manifolds.foreign import ours
from hyplearn.manifolds.precision import full_precision
from hyplearn.nn.checks import in_full_precision, positive
from hyplearn.nn.poincare_linear import Initialization, fully_connected, initialize, norm_of
from hyplearn.nn.poincare_tangent import squared_norm
from hyplearn.nn.strided import read_positions
from hyplearn.regions import region


def beta_ratio(channels: int, positions: int) -> float:
    """B(nN/2, 1/2) / B(n/2, 1/2): the factor of beta-concatenation of N vectors of n coordinates (HNN++)."""

    def log_beta(size: int) -> float:
        return math.lgamma(size / 2) - math.lgamma((size + 1) / 2)

    return math.exp(log_beta(channels * positions) - log_beta(channels))


class PoincareConv2d(nn.Module):
    """Poincare FC layer on each beta-concatenated patch: tangent vectors at the origin (B, n, H, W) to (B, n', H', W').

    exp_0 is radial, so the layer needs a patch's squared norm, which is a convolution of |v|^2 with ones, and its inner
    products with the kernels, a plain convolution of the same stride, padding and dilation. Zero padding pads with the
    origin. init: 'identity' is I/2 over the flattened (channel, row, column) patch, as van Spengler et al.; 'normal' as
    HNN++. Vectors beyond d_max are clipped to it. Computes in float32 or better, also under autocast.
    Raises ValueError for another number of input channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        manifold: PoincareBall,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        bias: bool = True,
        init: Initialization = "identity",
    ) -> None:
        super().__init__()
        for name, value in (("in_channels", in_channels), ("out_channels", out_channels), ("kernel_size", kernel_size)):
            positive(name, value)
        positive("stride", stride)
        positive("dilation", dilation)
        if padding < 0:
            raise ValueError(f"padding={padding} must be >= 0")
        one_of("init", init, Initialization)
        self.manifold, self.init = ours(manifold), init
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self.ratio = beta_ratio(in_channels, kernel_size**2)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the weight by `init`, the bias to 0."""
        initialize(self.weight, self.bias, self.init)

    def _convolve(self, x: Tensor, kernel: Tensor) -> Tensor:
        sizes = (kernel.shape[2], kernel.shape[3])
        x, stride = read_positions(x, kernel=sizes, stride=(self.stride,) * 2, padding=(self.padding,) * 2)
        return F.conv2d(x, kernel, stride=stride, padding=self.padding, dilation=self.dilation)

    def _window(self) -> _Window | None:
        """How to sum over the positions of a patch in a region, where there is one."""
        window = _Window(self.weight.shape[-1], self.stride, self.padding)
        return window if regions.is_on() and window.pools(self.dilation) else None

    @full_precision
    def forward(self, v: Tensor) -> Tensor:
        if v.dim() != 4 or v.shape[1] != self.weight.shape[1]:
            raise ValueError(f"v of shape {tuple(v.shape)} must be (B, {self.weight.shape[1]}, H, W)")
        in_full_precision(self, self.weight)
        manifold = self.manifold
        ratio = regions.number(self.ratio, v)
        square, z_norm, kernel = _prepared(v, self.weight, ratio)
        dot, window = self._convolve(v, kernel), self._window()
        if window is None:
            square = self._convolve(square, square.new_ones(1, 1, *self.weight.shape[2:]))
        return _connected(dot, square, window, z_norm, self.bias, manifold.c, ratio, manifold.x_t_max)

    def extra_repr(self) -> str:
        outputs, inputs, kernel, _ = self.weight.shape
        return (
            f"{inputs}, {outputs}, kernel_size={kernel}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, bias={self.bias is not None}, init={self.init}"
        )


@region
def _prepared(v: Tensor, weight: Tensor, ratio: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """|v|^2 of each position, the norms |z_k| (n', 1, 1, 1) and the kernel ratio z_k / |z_k|."""
    z_norm = norm_of(weight).view(-1, 1, 1, 1)
    return squared_norm(v, dim=1), z_norm, ratio / z_norm * weight


class _Window(NamedTuple):
    """Sums over the positions of a patch by an average pooling that divides by 1, which can be a part of a region.

    Operation by operation a convolution with ones is faster.
    """

    size: int
    stride: int
    padding: int

    def pools(self, dilation: int) -> bool:
        """Whether a pooling reads the same positions."""
        return dilation == 1 and 2 * self.padding <= self.size

    def total(self, x: Tensor) -> Tensor:
        """Sum of x (B, 1, H, W) in each window, zero beyond its edges."""
        return F.avg_pool2d(x, self.size, self.stride, self.padding, divisor_override=1)


@region
def _connected(
    dot: Tensor,
    square: Tensor,
    window: _Window | None,
    z_norm: Tensor,
    bias: Tensor | None,
    c: Tensor,
    ratio: float | Tensor,
    x_t_max: float | None,
) -> Tensor:
    """The FC layer of each patch from its inner products and |v|^2, of each position or summed in its window."""
    shaped = None if bias is None else bias.view(-1, 1, 1)
    square = square if window is None else window.total(square)
    return fully_connected(dot, ratio**2 * square, z_norm.squeeze(-1), shaped, c=c, x_t_max=x_t_max, dim=1)

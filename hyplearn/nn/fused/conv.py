"""Convolution and patch norm as one autograd function that saves the features alone. See `fused_norm.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_input

from hyplearn.nn.fused.lift import Entry, entry_factor
from hyplearn.nn.fused.scalars import Limits, dot
from hyplearn.nn.layout import channels_last, outside_autocast, row_dots, rows, squared_norm


@dataclass(frozen=True)
class Convolution:
    """Everything of a convolution that is not a tensor. `patch` is what norm matching needs of the input patch."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    kernel: tuple[int, int]
    patch: str = "exact"  # exact | sum | mean | none: Bdeir Section 3.3 (exact) and the variants of existing code

    def patch_square(self, q: Tensor) -> Tensor:
        """|x_patch|^2 (B, 1, H', W') from |x|^2 of each position: a convolution with a kernel of ones."""
        if self.patch in ("exact", "none"):
            return self._window_sum(q)
        total = self._window_sum(torch.sqrt(q + torch.finfo(q.dtype).tiny))
        return (total if self.patch == "sum" else total / (self.kernel[0] * self.kernel[1])).square()

    def _window_sum(self, q: Tensor) -> Tensor:
        ones = q.new_ones(1, 1, *self.kernel)
        if self._pools:
            return F.avg_pool2d(q, self.kernel, self.stride, self.padding, divisor_override=1)
        return F.conv2d(q, ones, None, self.stride, self.padding, self.dilation)

    def _window_sum_vjp(self, g: Tensor, q: Tensor) -> Tensor:
        if self._pools:
            backward = torch.ops.aten.avg_pool2d_backward
            pooled: Tensor = backward(g, q, self.kernel, self.stride, self.padding, False, True, 1)
            return pooled
        ones = q.new_ones(1, 1, *self.kernel)
        spread: Tensor = conv2d_input(q.shape, ones, g, self.stride, self.padding, self.dilation)
        return spread

    @property
    def _pools(self) -> bool:
        """Whether average pooling, the faster form of a convolution with ones, allows the padding and dilation.

        Never in a graph for export: the translation to ONNX leaves the divisor out.
        """
        if torch.compiler.is_exporting():
            return False
        return self.dilation == (1, 1) and all(2 * p <= k for p, k in zip(self.padding, self.kernel, strict=True))

    def patch_square_vjp(self, g: Tensor, q: Tensor) -> Tensor:
        """Gradient of q from that of `patch_square(q)`."""
        if self.patch in ("exact", "none"):
            return self._window_sum_vjp(g, q)
        norm = torch.sqrt(q + torch.finfo(q.dtype).tiny)
        share = 1.0 if self.patch == "sum" else (self.kernel[0] * self.kernel[1]) ** -2
        return self._window_sum_vjp(2 * share * self._window_sum(norm) * g, q) / (2 * norm)


def _convolve(
    features: Tensor,
    weight: Tensor,
    weight_time: Tensor | None,
    bias: Tensor | None,
    c: Tensor,
    limits: Limits,
    convolution: Convolution,
    entry: Entry | None,
) -> tuple[Tensor, Tensor]:
    """conv2d and the squared patch norm; with `weight_time` the published HCNN layer, linear in the patch's time."""
    q = squared_norm(features)
    x = features
    if entry is not None:
        factor = entry_factor(c * q, limits, entry).factor
        x, q = (features * factor).to(features.dtype), factor * factor * q
    y = channels_last(F.conv2d(x, weight, bias, convolution.stride, convolution.padding, convolution.dilation))
    q_patch = convolution.patch_square(q)
    if weight_time is not None:
        y = y + (torch.sqrt(q_patch + 1 / c) * weight_time.view(1, -1, 1, 1)).to(y.dtype)
    return y, q_patch


class _Convolve(torch.autograd.Function):
    """`_convolve` that saves the features alone."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor]:
        features, weight, weight_time, bias, c, limits, convolution, entry = args
        y, q_patch = _convolve(*args)
        ctx.save_for_backward(features, weight, weight_time, bias, c, None if weight_time is None else q_patch)
        ctx.limits, ctx.convolution, ctx.entry = limits, convolution, entry
        return y, q_patch

    @staticmethod
    @once_differentiable
    @outside_autocast
    def backward(ctx: Any, *grads: Tensor) -> Any:
        g_y, g_patch = grads
        features, weight, weight_time, bias, c, q_patch = ctx.saved_tensors
        convolution: Convolution = ctx.convolution
        g_c = torch.zeros_like(c)
        g_y = channels_last(g_y)
        g_time = None
        if weight_time is not None:
            time = torch.sqrt(q_patch + 1 / c)
            flat = rows(g_y).flatten(0, 1)
            g_time = (flat.t() @ time.to(flat.dtype).flatten()).to(weight_time.dtype)
            through_time = (flat @ weight_time.to(flat.dtype)).view_as(q_patch).to(c.dtype) / (time + time)
            g_patch = g_patch + through_time
            g_c = g_c - through_time.sum() / (c * c)
        q, lift, factor = squared_norm(features), None, None
        if ctx.entry is not None:
            lift = entry_factor(c * q, ctx.limits, ctx.entry, want_slope=True)
            factor = lift.factor
        g_q = convolution.patch_square_vjp(g_patch, q if factor is None else factor * factor * q)
        x = features if factor is None else (features * factor).to(features.dtype)
        need_input = ctx.needs_input_grad[0] or factor is not None
        g_x, g_weight, g_bias = torch.ops.aten.convolution_backward(
            g_y, x, weight, None if bias is None else list(bias.shape),
            convolution.stride, convolution.padding, convolution.dilation,
            False, [0, 0], 1, [need_input, True, bias is not None],
        )  # fmt: skip
        if not need_input:
            return None, g_weight, g_time, g_bias, g_c, None, None, None
        if lift is not None and factor is not None:
            g_factor = row_dots(rows(g_x), rows(features)).view_as(factor).to(factor.dtype) + 2 * factor * q * g_q
            g_unit = lift.vjp(g_factor)  # of c q
            g_q, g_c = factor * factor * g_q + c * g_unit, g_c + dot(g_unit, q)
            limited = lift.limits_vjp(g_factor)
            g_c = g_c if limited is None else g_c + limited / (c + c)
            g_x = g_x.mul_(factor)
        g_x = g_x.addcmul_(features, g_q, value=2)  # g_q alone may be beyond float16
        return g_x, g_weight, g_time, g_bias, g_c, None, None, None


def convolve(
    features: Tensor,
    weight: Tensor,
    weight_time: Tensor | None,
    bias: Tensor | None,
    *,
    c: Tensor,
    limits: Limits,
    convolution: Convolution,
    entry: Entry | None = None,
) -> tuple[Tensor, Tensor]:
    """Convolution of a feature map (B, C, H, W): y (B, C', H', W') and |x_patch|^2 (B, 1, H', W')."""
    device = features.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        features, weight = features.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    args = (channels_last(features), weight, weight_time, bias, c, limits, convolution, entry)
    with torch.autocast(device, enabled=False):
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return _convolve(*args)
        result: tuple[Tensor, Tensor] = _Convolve.apply(*args[:5], limits.detach(), *args[6:])
        return result

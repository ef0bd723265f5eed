"""Convolution and patch norm as one autograd function that saves the features alone. See `norm.py`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_input

from hyplearn.geometry import tf32
from hyplearn.nn.fused.lift import Entry, entry_factor
from hyplearn.nn.fused.scalars import Limits, Radial, dot
from hyplearn.nn.layout import channels_last, outside_autocast, row_dots, rows, squared_norm
from hyplearn.nn.strided import read_positions
from hyplearn.regions import region

NormMatch = Literal["exact", "sum", "mean", "none"]


@dataclass(frozen=True)
class Convolution:
    """Everything of a convolution that is not a tensor. `patch` is what norm matching needs of the input patch."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    kernel: tuple[int, int]
    patch: NormMatch = "exact"  # Bdeir Section 3.3 (exact) and the variants of existing code

    def reading(self, features: Tensor) -> tuple[Tensor, Convolution]:
        """Return the positions that are read, and the convolution on them: see `read_positions`."""
        read, stride = read_positions(features, kernel=self.kernel, stride=self.stride, padding=self.padding)
        return read, self if stride == self.stride else replace(self, stride=stride)

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
        with tf32.refused():
            return F.conv2d(q, ones, None, self.stride, self.padding, self.dilation)

    def _window_sum_vjp(self, g: Tensor, q: Tensor) -> Tensor:
        if self._pools:
            backward = torch.ops.aten.avg_pool2d_backward
            pooled: Tensor = backward(g, q, self.kernel, self.stride, self.padding, False, True, 1)
            return pooled
        ones = q.new_ones(1, 1, *self.kernel)
        with tf32.refused():
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


class ConvolveInputs(NamedTuple):
    """The tensors of one convolution, None for one that there is not.

    features: (B, C, H, W), in channels_last. weight: (C', C, kh, kw). weight_time, bias: (C',), of the published HCNN
    layer, which is linear in the patch's time. c: ().
    """

    features: Tensor
    weight: Tensor
    weight_time: Tensor | None
    bias: Tensor | None
    c: Tensor


@region
def _enter(
    features: Tensor, c: Tensor, limits: Limits, convolution: Convolution, entry: Entry | None
) -> tuple[Tensor | None, Tensor]:
    """The features in the manifold, None where they are as they come, and their squared patch norm."""
    q = squared_norm(features)
    if entry is None:
        return None, convolution.patch_square(q)
    factor = entry_factor(c * q, limits, entry).factor
    return (features * factor).to(features.dtype), convolution.patch_square(factor * factor * q)


@region
def _with_time(y: Tensor, q_patch: Tensor, weight_time: Tensor, c: Tensor) -> Tensor:
    return y + (torch.sqrt(q_patch + 1 / c) * weight_time.view(1, -1, 1, 1)).to(y.dtype)


def _convolve(
    inputs: ConvolveInputs, limits: Limits, convolution: Convolution, entry: Entry | None
) -> tuple[Tensor, Tensor]:
    """conv2d and the squared patch norm."""
    features, weight, weight_time, bias, c = inputs
    entered, q_patch = _enter(features, c, limits, convolution, entry)
    x = features if entered is None else entered
    y = channels_last(F.conv2d(x, weight, bias, convolution.stride, convolution.padding, convolution.dilation))
    return y if weight_time is None else _with_time(y, q_patch, weight_time, c), q_patch


class _Convolve(torch.autograd.Function):
    """`_convolve` that saves the features alone."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor]:
        *tensors, limits, convolution, entry = args
        inputs = ConvolveInputs(*tensors)
        y, q_patch = _convolve(inputs, limits, convolution, entry)
        ctx.save_for_backward(None if inputs.weight_time is None else q_patch, *inputs)
        ctx.limits, ctx.convolution, ctx.entry = limits, convolution, entry
        return y, q_patch

    @staticmethod
    @once_differentiable
    @outside_autocast
    def backward(ctx: Any, *grads: Tensor) -> Any:
        g_y, g_patch = grads
        q_patch, *saved = ctx.saved_tensors
        inputs, convolution, entry = ConvolveInputs(*saved), ctx.convolution, ctx.entry
        g_y = channels_last(g_y)
        behind = _patch_vjp(g_y, g_patch, q_patch, inputs, ctx.limits, convolution, entry)
        need_input = ctx.needs_input_grad[0] or entry is not None
        g_x, g_weight, g_bias = _conv2d_vjp(g_y, inputs, behind.entered, convolution, need_input)
        g_c = behind.c
        if g_x is not None:
            g_x, g_c = _features_vjp(g_x, behind, inputs, ctx.limits, entry)
        return g_x, g_weight, behind.weight_time, g_bias, g_c, None, None, None


class _BehindConvolution(NamedTuple):
    """Gradients of what is computed beside conv2d. q: of |x|^2 of each position, after the entry if there is one.

    entered: no gradient but the features in the manifold again, None where they are as they come.
    """

    q: Tensor
    entered: Tensor | None
    weight_time: Tensor | None
    c: Tensor


@region
def _patch_vjp(
    g_y: Tensor,
    g_patch: Tensor,
    q_patch: Tensor | None,
    inputs: ConvolveInputs,
    limits: Limits,
    convolution: Convolution,
    entry: Entry | None,
) -> _BehindConvolution:
    """Gradients through the squared patch norm and the patch's time."""
    g_time, g_c = None, torch.zeros_like(inputs.c)
    if inputs.weight_time is not None:
        assert q_patch is not None
        g_time, g_through, g_c = _time_vjp(g_y, q_patch, inputs.weight_time, inputs.c)
        g_patch = g_patch + g_through
    q, entered = squared_norm(inputs.features), None
    if entry is not None:
        factor = entry_factor(inputs.c * q, limits, entry).factor
        entered, q = (inputs.features * factor).to(inputs.features.dtype), factor * factor * q
    return _BehindConvolution(convolution.patch_square_vjp(g_patch, q), entered, g_time, g_c)


@region
def _features_vjp(
    g_x: Tensor, behind: _BehindConvolution, inputs: ConvolveInputs, limits: Limits, entry: Entry | None
) -> tuple[Tensor, Tensor]:
    """Gradients of the features and of c from that of what was convolved, which is overwritten."""
    g_q, g_c = behind.q, behind.c
    if entry is not None:
        q = squared_norm(inputs.features)
        lift = entry_factor(inputs.c * q, limits, entry, want_slope=True)
        g_x, g_q, g_c = _entry_vjp(g_x, g_q, g_c, q, inputs, lift)
    return g_x.addcmul_(inputs.features, g_q, value=2), g_c  # g_q alone may be beyond float16


def _time_vjp(g_y: Tensor, q_patch: Tensor, weight_time: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of weight_time, |x_patch|^2 and c through the patch's time."""
    time = torch.sqrt(q_patch + 1 / c)
    flat = rows(g_y).flatten(0, 1)
    g_weight = (flat.t() @ time.to(flat.dtype).flatten()).to(weight_time.dtype)
    through_time = (flat @ weight_time.to(flat.dtype)).view_as(q_patch).to(c.dtype) / (time + time)
    return g_weight, through_time, -through_time.sum() / (c * c)


def _conv2d_vjp(
    g_y: Tensor, inputs: ConvolveInputs, entered: Tensor | None, convolution: Convolution, need_input: bool
) -> tuple[Tensor | None, Tensor, Tensor | None]:
    """Gradients of the features that were convolved (None unless needed), the weight and the bias."""
    bias = inputs.bias
    x = inputs.features if entered is None else entered
    gradients: tuple[Tensor | None, Tensor, Tensor | None] = torch.ops.aten.convolution_backward(
        g_y, x, inputs.weight, None if bias is None else list(bias.shape),
        convolution.stride, convolution.padding, convolution.dilation,
        False, [0, 0], 1, [need_input, True, bias is not None],
    )  # fmt: skip
    return gradients


def _entry_vjp(
    g_x: Tensor, g_q: Tensor, g_c: Tensor, q: Tensor, inputs: ConvolveInputs, lift: Radial
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the features, their squared norm q and c from those of the lifted ones; `g_x` is overwritten."""
    factor, c = lift.factor, inputs.c
    g_factor = row_dots(rows(g_x), rows(inputs.features)).view_as(factor).to(factor.dtype) + 2 * factor * q * g_q
    g_unit = lift.vjp(g_factor)  # of c q
    g_q, g_c = factor * factor * g_q + c * g_unit, g_c + dot(g_unit, q)
    limited = lift.limits_vjp(g_factor)
    return g_x.mul_(factor), g_q, g_c if limited is None else g_c + limited / (c + c)


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
    features, convolution = convolution.reading(features)
    inputs = ConvolveInputs(channels_last(features), weight, weight_time, bias, c)
    with torch.autocast(device, enabled=False):
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return _convolve(inputs, limits, convolution, entry)
        result: tuple[Tensor, Tensor] = _Convolve.apply(*inputs, limits.detach(), convolution, entry)
        return result

"""ReLU and entry into the hyperboloid as one autograd function that saves its output alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hyplearn.nn import monitor
from hyplearn.nn.fused.scalars import Limits, Radial, dot, radial
from hyplearn.nn.layout import channels_last, feature_map, outside_autocast, promoted, row_dots, row_squares, rows
from hyplearn.regions import region

EntryKind = Literal["project", "exp0"]


@dataclass(frozen=True)
class Entry:
    """How Euclidean features enter the manifold before a convolution, Bdeir Section 3.2."""

    kind: EntryKind = "project"  # project: the (rescaled) vector is the space part; exp0: exponential map at the origin
    rescale: bool = True


def entry_factor(q: Tensor, limits: Limits, entry: Entry, *, want_slope: bool = False) -> Radial:
    """Factor that takes a Euclidean feature z, q = c |z|^2, to its point, and its derivatives if wanted."""
    inner = Radial(torch.ones_like(q), torch.zeros_like(q) if want_slope else None)
    if entry.rescale:
        inner = radial(q, "rescale0", limits, want_slope=want_slope)
        monitor.give("rescaled/entry", lambda: inner.factor < 1)
    if entry.kind == "project":
        return inner
    f, square = inner.factor, inner.factor.square() * q
    outer = radial(square, "expmap0", limits, want_slope=want_slope)
    if inner.slope is None or outer.slope is None:
        return Radial(f * outer.factor)
    in_f = outer.factor + 2 * square * outer.slope  # derivative in f of f * outer(f^2 q)
    in_limits = None if inner.in_limits is None else in_f * inner.in_limits
    return Radial(f * outer.factor, in_f * inner.slope + f**3 * outer.slope, in_limits)


@region
def _lift_relu(h: Tensor, c: Tensor, limits: Limits, entry: Entry) -> tuple[Tensor, Tensor]:
    z = promoted(rows(h)).relu()
    q = row_squares(z)
    factor = entry_factor(c * q, limits, entry).factor
    return feature_map((z * factor.unsqueeze(-1)).to(h.dtype), h), q


class _LiftReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, c: Tensor, limits: Limits, entry: Entry) -> Tensor:
        x, q = _lift_relu(h, c, limits, entry)
        ctx.save_for_backward(x, q, c)
        ctx.limits, ctx.entry = limits, entry
        return x

    @staticmethod
    @once_differentiable
    @outside_autocast
    def backward(ctx: Any, g_x: Tensor) -> Any:
        x, q, c = ctx.saved_tensors
        return (*_lift_relu_vjp(channels_last(g_x), x, q, c, ctx.limits, ctx.entry), None, None)


@region
def _lift_relu_vjp(g_x: Tensor, x: Tensor, q: Tensor, c: Tensor, limits: Limits, entry: Entry) -> tuple[Tensor, Tensor]:
    """Gradients of h and c from that of the output x."""
    lift = entry_factor(c * q, limits, entry, want_slope=True)
    factor = lift.factor.unsqueeze(-1)
    points, g = promoted(rows(x)), promoted(rows(g_x))
    z = points / factor
    g_factor = row_dots(g, z)
    g_unit = lift.vjp(g_factor)  # of c q
    g_z = torch.mul(g, factor).addcmul_(z, (c * g_unit).unsqueeze(-1), value=2)
    g_h = torch.ops.aten.threshold_backward(g_z, points, 0)
    g_c, limited = dot(g_unit, q), lift.limits_vjp(g_factor)
    g_c = g_c if limited is None else g_c + limited / (c + c)
    return feature_map(g_h.to(x.dtype), x), g_c


def lift_relu(h: Tensor, *, c: Tensor, limits: Limits, entry: Entry) -> Tensor:
    """`Lift(relu(h))` of a feature map (B, n, H, W): one tensor of its size is kept, as by a ReLU."""
    with torch.autocast(h.device.type, enabled=False):
        h = channels_last(h)
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return _lift_relu(h, c, limits, entry)[0]
        lifted: Tensor = _LiftReLU.apply(h, c, limits.detach(), entry)
        return lifted

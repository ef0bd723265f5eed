"""Feature maps of a Poincare network: tangent vectors at the origin of the ball (van Spengler et al., 2023).

Between layers a feature is a vector v of T_o, and a layer is exp at the origin, an operation of the ball, log at the
origin. The layers compute that operation at the isometric point of the hyperboloid with the same c: the ball's exp_0(v)
is the hyperboloid's exp_0(2v) (the conformal factor at the origin is 2). So nothing is divided by 1 - c|x|^2, which has
no digit left at the edge of the ball, and no point can leave the ball. ReLU acts on v itself: `torch.nn.ReLU` is the
activation. Each layer is scalars of a position times vectors, so that few tensors of feature-map size exist.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hyplearn.geometry import lorentz
from hyplearn.geometry.numerics import asinhc, safe_sqrt, sinhc
from hyplearn.nn import monitor


class _SquaredNorm(torch.autograd.Function):
    """The gradient of the norm itself has none of its own at v = 0, where ReLU puts many positions."""

    generate_vmap_rule = True

    @staticmethod
    def forward(v: Tensor, dim: int) -> Tensor:
        norm: Tensor = torch.linalg.vector_norm(v, dim=dim, keepdim=True)
        return norm.square()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (v,) = ctx.saved_tensors
        return 2 * gradient * v, None


def squared_norm(v: Tensor, dim: int = -1) -> Tensor:
    """|v|^2, kept; saves for backward nothing but v itself. Any derivative of it is finite, at v = 0, too."""
    if torch.compiler.is_compiling():
        return v.square().sum(dim, keepdim=True)
    square: Tensor = _SquaredNorm.apply(v, dim)
    return square


def clip_factor(q: Tensor, *, c: Tensor, x_t_max: float | None) -> Tensor:
    """Factor that keeps a tangent vector, q = |v|^2, within d_max of the origin (Bdeir Eq. 1): min(1, d_max / |2v|).

    It plays the part of the projection to (1 - eps)/sqrt(c) in other implementations of the ball, and like it changes
    nothing but points further out than the precision resolves.
    """
    limit = lorentz.d_max(c=c, dtype=q.dtype, x_t_max=x_t_max) / 2
    norm = safe_sqrt(q)
    monitor.give("clipped/poincare", lambda: norm > limit)
    return limit / norm.clamp_min(limit)


def place(v: Tensor, *, c: Tensor, x_t_max: float | None, dim: int = -1) -> tuple[Tensor, Tensor]:
    """(E, |x|^2) of the isometric points x = E v in space coordinates, both of size 1 along `dim`."""
    q = squared_norm(v, dim)
    clip = clip_factor(q, c=c, x_t_max=x_t_max)
    stretch = 2 * clip * sinhc(4 * c * clip.square() * q)
    return stretch, stretch.square() * q


def to_hyperboloid(v: Tensor, *, c: Tensor, x_t_max: float | None = None) -> Tensor:
    """Tangent vectors at the ball's origin, (..., n), to points of the isometric hyperboloid, (..., n)."""
    return place(v, c=c, x_t_max=x_t_max)[0] * v


def to_tangent(x: Tensor, *, c: Tensor, dim: int = -1) -> Tensor:
    """Inverse of `to_hyperboloid`: points of the hyperboloid to tangent vectors at the ball's origin."""
    return asinhc(c * squared_norm(x, dim)) / 2 * x

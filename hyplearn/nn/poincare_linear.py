"""The Poincare fully connected layer (Shimizu et al., 2021, HNN++) between tangent spaces at the origin."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hyplearn.errors import one_of
from hyplearn.geometry.numerics import asinhc, scalar_like, sinhc
from hyplearn.manifolds import PoincareBall
from hyplearn.manifolds.foreign import ours
from hyplearn.manifolds.precision import full_precision
from hyplearn.nn.checks import in_full_precision, positive
from hyplearn.nn.poincare_tangent import clip_factor, squared_norm
from hyplearn.regions import region

Initialization = Literal["identity", "normal"]

# For larger angles sinh is exp/2 to the last digit of float64; the sum of squares of sinh(40) still fits float32.
_LARGE = 40.0


@region
def fully_connected(
    dot: Tensor,
    q: Tensor,
    z_norm: Tensor,
    bias: Tensor | None,
    *,
    c: Tensor,
    x_t_max: float | None = None,
    dim: int = -1,
) -> Tensor:
    """log_0 of the Poincare FC layer of x = exp_0(u), from inner products of u alone.

    dot: <u, z_k>/|z_k|, outputs along `dim`. q: |u|^2, of size 1 along `dim`. z_norm: |z_k| > 0 and bias: r_k, shaped
    to broadcast. With s = sqrt(c)|u| the conformal factor gives lambda x = sinh(2s)/s u and lambda - 1 = cosh(2s) in
    HNN++ Eq. (6), so its
        v_k = 2|z_k|/sqrt(c) asinh( sinh(2s)/|u| <u, z_k>/|z_k| cosh(2 sqrt(c) r_k) - cosh(2s) sinh(2 sqrt(c) r_k) ).
    With w_k = sinh(sqrt(c) v_k) the output y = w / (1 + sqrt(1 + |w|^2)) / sqrt(c) has
        log_0(y) = asinh(|w|)/|w| w / (2 sqrt(c)).
    """
    c = scalar_like(c, dot)
    clip = clip_factor(q, c=c, x_t_max=x_t_max)
    q, root = clip.square() * q, c.sqrt()
    stretch = 2 * root * sinhc(4 * c * q)  # sinh(2s) / |u|
    offset = None
    if bias is not None:
        dot = dot * torch.cosh(2 * root * bias)
        offset = (1 + q * stretch.square()).sqrt() * torch.sinh(2 * root * bias)  # cosh(2s) sinh(2 sqrt(c) r)
    w, excess = _recomputed(dot, clip * stretch, offset, 2 * z_norm, dim)
    square = squared_norm(w, dim)
    out: Tensor = (asinhc(square) + excess * (square + (excess == 0)).rsqrt()) / (2 * root) * w
    return out


def _recomputed(dot: Tensor, scale: Tensor, offset: Tensor | None, power: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """`_scaled_sinh`; the backward pass computes again what lies between dot and w, all of it of the output's size."""
    if torch.compiler.is_compiling():  # the compiler's partitioner makes the same choice by itself
        return _scaled_sinh(dot, scale, offset, power, dim)
    result: tuple[Tensor, Tensor] = checkpoint(
        _scaled_sinh, dot, scale, offset, power, dim, use_reentrant=False, preserve_rng_state=False
    )
    return result


def _scaled_sinh(dot: Tensor, scale: Tensor, offset: Tensor | None, power: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """w exp(-m) and m, of size 1 along `dim`, for w = sinh(power asinh(scale dot - offset)).

    m > 0 where the largest angle of a position exceeds `_LARGE` by m; there w exp(-m) is sinh of the angles shrunk by m
    and asinh(|w|) = m + asinh(|w| exp(-m)), both to the last digit. The layer's result does not depend on m, which
    therefore needs no gradient.
    """
    argument = scale * dot if offset is None else scale * dot - offset
    angle = power * torch.asinh(argument)
    with torch.no_grad():
        excess = (torch.linalg.vector_norm(angle, math.inf, dim=dim, keepdim=True) - _LARGE).clamp_min(0)
        shrinkage = angle.clamp(-excess, excess)
    return torch.sinh(angle - shrinkage), excess


def norm_of(z: Tensor) -> Tensor:
    """|z_k| of weights (outputs, ...), never 0: a row of zeros has output 0 (at bias 0) and a finite gradient."""
    return (z.flatten(1).square().sum(1) + torch.finfo(z.dtype).tiny).sqrt()


@torch.no_grad()
def initialize(z: Tensor, bias: Tensor | None, init: Initialization) -> None:
    """Weights (outputs, ...), flattened to (outputs, inputs): 'identity' is I/2, which maps exp_0(u) to itself."""
    flat = z.view(z.shape[0], -1)
    if init == "identity":
        flat.copy_(torch.eye(*flat.shape) / 2)
    else:
        flat.normal_(std=(2 * flat.shape[0] * flat.shape[1]) ** -0.5)
    if bias is not None:
        bias.zero_()


class PoincareLinear(nn.Module):
    """Poincare fully connected layer, tangent vectors at the origin (..., in_features) to (..., out_features).

    init: 'identity' (van Spengler et al.) or 'normal' (HNN++). Vectors beyond d_max are clipped to it
    (`poincare_tangent.clip_factor`). Computes in float32 or better. Raises ValueError for another last dimension.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        manifold: PoincareBall,
        bias: bool = True,
        init: Initialization = "identity",
    ) -> None:
        super().__init__()
        positive("in_features", in_features)
        positive("out_features", out_features)
        one_of("init", init, Initialization)
        self.manifold, self.init = ours(manifold), init
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the weight by `init`, the bias to 0."""
        initialize(self.weight, self.bias, self.init)

    @full_precision
    def forward(self, u: Tensor) -> Tensor:
        if u.shape[-1] != self.weight.shape[1]:
            raise ValueError(f"u of shape {tuple(u.shape)} must be (..., {self.weight.shape[1]})")
        in_full_precision(self, self.weight)
        manifold, z_norm = self.manifold, norm_of(self.weight)
        q, dot = squared_norm(u), u @ (self.weight / z_norm.unsqueeze(1)).mT
        return fully_connected(dot, q, z_norm, self.bias, c=manifold.c, x_t_max=manifold.x_t_max)

    def extra_repr(self) -> str:
        outputs, inputs = self.weight.shape
        return f"{inputs}, {outputs}, bias={self.bias is not None}, init={self.init}"

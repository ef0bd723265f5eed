"""Per-position scalars of a Lorentz layer stack: units, limits and radial factors.

Between a convolution and its nonlinearity every Lorentz operation maps the convolution's output `y` at one position to
`A y + S v` with scalars A, S of that position and a few vectors v shared by all positions. `placement.py` and
`normalization.py` compute those scalars from squared norms and dot products alone, elementwise, in float32 or better;
`fused.py` applies them. The layers (`conv.py`, `batchnorm.py`, ...) state the same operations point by point.

All of it is in units of the hyperboloid's radius k = 1/sqrt(c): a point x stands as x/k on the hyperboloid of curvature
-1, with q = |x|^2 / k^2 = c |x|^2 and time sqrt(1 + q). Ratios of lengths, which is what A and S are, are the same in
all units; c appears in the conversion of the inputs alone.

A function named `..._vjp` is the vector-Jacobian product of the function before it: it takes the gradients of the
outputs to those of the inputs. Autograd would record four times as many operations on these small tensors.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from hyplearn.geometry.lorentz import X_T_MAX
from hyplearn.manifolds import Lorentz
from hyplearn.regions import region

ATANH_LIMIT = math.atanh(0.99)  # Bdeir Eq. (3): the share of d_max that the distance s * d_max is mapped to


@dataclass(frozen=True)
class Limits:
    """Maximum-distance rescaling at the present curvature: `d -> d_max tanh(r d)`, Bdeir Eqs. (1)-(3), in units of k.

    No gradient reaches c through d_max and r as lengths; in units of k they vary with k = 1/sqrt(c) like any length.
    """

    d_max: Tensor
    r: Tensor
    t_max: Tensor
    steepest: Tensor  # d_max r, the slope at the origin

    @classmethod
    def of(cls, c: Tensor, *, s: float, x_t_max: float) -> Limits:
        """Return the limits at c, with the gradient described above if c has one."""
        return cls(*_limits(c, s, x_t_max))

    @classmethod
    def of_manifold(cls, manifold: Lorentz, c: Tensor | None = None) -> Limits:
        """Return the limits of a manifold, whose x_t_max defaults to that of its precision.

        c: the manifold's, where the caller knows it. With gradient under `torch.compile` alone: the fused functions
        have their own backward pass.
        """
        c = manifold.c if c is None else c
        c = c if torch.compiler.is_compiling() else c.detach()
        x_t_max = X_T_MAX[c.dtype] if manifold.x_t_max is None else manifold.x_t_max
        make = functools.partial(cls.of, c, s=manifold.s, x_t_max=x_t_max)
        if c.requires_grad:
            return make()
        found: Limits = manifold.curvature.remembered(("limits", c.dtype, c.device, manifold.s, x_t_max), make)
        return found

    def detach(self) -> Limits:
        """Return the same limits without gradient."""
        return Limits(self.d_max.detach(), self.r.detach(), self.t_max, self.steepest)


@region
def _limits(c: Tensor, s: float, x_t_max: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The fields of `Limits`."""
    root = c.sqrt()
    t_max = x_t_max * root.detach()
    d_max = torch.acosh(t_max)
    steepest = torch.full_like(t_max, ATANH_LIMIT / s)
    if not c.requires_grad:
        return d_max, steepest / d_max, t_max, steepest
    unit = root / root.detach()
    return d_max * unit, steepest / (d_max * unit), t_max, steepest


class Numbers(NamedTuple):
    """Constants for arithmetic with small tensors: on a CPU as tensors of their type, since torch converts a Python
    number on every use, which takes as long as the operation itself; elsewhere as numbers."""

    zero: Tensor | float
    one: Tensor | float
    two: Tensor | float
    half: Tensor | float
    floor: Tensor | float  # below the resolution of 1, for squared norms
    match: Tensor | float  # floor of the squared norms that norm matching divides
    tiny: Tensor | float  # below everything that occurs


def _values(dtype: torch.dtype) -> Numbers:
    return Numbers(0.0, 1.0, 2.0, 0.5, torch.finfo(dtype).eps ** 2, 1e-12, 1e-30)


@functools.lru_cache
def _tensors(dtype: torch.dtype) -> Numbers:
    with torch.inference_mode(False):  # kept for later passes with gradient
        return Numbers(*(torch.tensor(value, dtype=dtype, device="cpu") for value in _values(dtype)))


def numbers(like: Tensor) -> Numbers:
    """Return the constants for arithmetic with a tensor."""
    if like.device.type != "cpu" or torch.compiler.is_compiling():  # the compiler traces no cache
        return _values(like.dtype)
    return _tensors(like.dtype)


def floored(q: Tensor) -> Tensor:
    """q, never 0: a floor below the resolution of 1 keeps every ratio finite and its limit at 0 exact."""
    return q + numbers(q).floor


def _asinh_root(q: Tensor, rho: Tensor, t: Tensor, n: Numbers) -> Tensor:
    """asinh(sqrt(q)) from rho = sqrt(q), t = sqrt(1 + q); torch does not vectorise asinh on the CPU."""
    return torch.log1p(rho + q / (n.one + t))


def dot(x: Tensor, y: Tensor) -> Tensor:
    """Sum of the products of all elements, ()."""
    return torch.dot(x.flatten(), y.flatten())


def added(x: Tensor | None, y: Tensor | None) -> Tensor | None:
    """Sum of two gradients, either of which may be absent."""
    if x is None or y is None:
        return y if x is None else x
    return x + y


@dataclass(frozen=True)
class Radial:
    """Factor f(q) of a radial map and, if wanted, its derivatives: in q, and in log sqrt(c) through the limits."""

    factor: Tensor
    slope: Tensor | None = None
    in_limits: Tensor | None = None

    def vjp(self, g: Tensor) -> Tensor:
        """Gradient of q from that of the factor."""
        assert self.slope is not None
        return g * self.slope

    def limits_vjp(self, g: Tensor) -> Tensor | None:
        """Gradient of log sqrt(c) through the limits, (), None for a map without limits."""
        return None if self.in_limits is None else dot(g, self.in_limits)


def _rescale(q: Tensor, limits: Limits, want_slope: bool) -> Radial:
    n = numbers(q)
    q = q + n.floor
    rho, t = torch.sqrt(q), torch.sqrt(n.one + q)
    distance = _asinh_root(q, rho, t, n)
    share = torch.tanh(limits.r * distance)
    length = limits.d_max * share
    sinh = torch.sinh(length)
    factor = sinh / rho
    if not want_slope:
        return Radial(factor)
    cosh = torch.sqrt(n.one + sinh * sinh)
    rate = limits.steepest * (n.one - share * share)  # d length / d distance
    slope = (rate * cosh / t - factor) / (q + q)
    return Radial(factor, slope, cosh / rho * torch.addcmul(length, rate, distance, value=-1))


def _rescale0(q: Tensor, limits: Limits, want_slope: bool) -> Radial:
    n = numbers(q)
    q = q + n.floor
    norm = torch.sqrt(q)
    share = torch.tanh(limits.r * norm)
    factor = limits.d_max * share / norm
    if not want_slope:
        return Radial(factor)
    rate = limits.steepest * (n.one - share * share)
    return Radial(factor, (rate - factor) / (q + q), factor - rate)


def _expmap0(q: Tensor, limits: Limits, want_slope: bool) -> Radial:
    q = floored(q)
    norm = torch.sqrt(q)
    factor = torch.sinh(norm) / norm
    return Radial(factor, (torch.cosh(norm) - factor) / (q + q) if want_slope else None)


def _logmap0(q: Tensor, limits: Limits, want_slope: bool) -> Radial:
    n = numbers(q)
    q = q + n.floor
    rho, t = torch.sqrt(q), torch.sqrt(n.one + q)
    factor = _asinh_root(q, rho, t, n) / rho
    return Radial(factor, (t.reciprocal() - factor) / (q + q) if want_slope else None)


_RADIAL = {"rescale": _rescale, "rescale0": _rescale0, "expmap0": _expmap0, "logmap0": _logmap0}


def radial(q: Tensor, kind: str, limits: Limits, *, want_slope: bool = False) -> Radial:
    """Factor by which a radial map multiplies a vector of squared norm q, and its derivatives if wanted.

    `rescale`: maximum-distance rescaling of a point, `sinh(d_max tanh(r d)) / |x|`. `rescale0`: of a tangent vector at
    the origin, `d_max tanh(r n) / n` (Bdeir Eq. 2). `expmap0`, `logmap0`: exponential and logarithm at the origin.
    """
    return _RADIAL[kind](q, limits, want_slope)

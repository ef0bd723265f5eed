"""Hypothesis strategies for geometry: curvatures, vectors, and points that lie on the manifold, in float64.

Magnitudes are log-uniform, so that the neighbourhood of the origin is met as often as the far field, and zero vectors
and vectors along one axis appear on purpose. Shrinking leads to c = 1 and the origin.
"""

from __future__ import annotations

import math

import torch
from hypothesis import strategies as st
from torch import Tensor

from hyplearn.geometry import lorentz, poincare

SMALLEST = 1e-6


def log_uniform(low: float, high: float) -> st.SearchStrategy[float]:
    """Numbers in [low, high] whose logarithm is uniform."""
    return st.floats(math.log(low), math.log(high)).map(lambda t: min(max(math.exp(t), low), high))


def curvatures(low: float = 1e-2, high: float = 1e2) -> st.SearchStrategy[Tensor]:
    """c as a 0-dim float64 tensor, log-uniform."""
    return st.one_of(st.just(1.0), log_uniform(low, high)).map(lambda c: torch.tensor(c, dtype=torch.float64))


@st.composite
def directions(draw: st.DrawFn, dim: int) -> Tensor:
    """Unit vectors, (dim,)."""
    if draw(st.integers(0, 9)) == 0:
        axis = torch.zeros(dim, dtype=torch.float64)
        axis[draw(st.integers(0, dim - 1))] = draw(st.sampled_from([1.0, -1.0]))
        return axis
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    return torch.nn.functional.normalize(torch.randn(dim, dtype=torch.float64, generator=generator), dim=0)


@st.composite
def tangents(draw: st.DrawFn, dim: int = 4, longest: float = 5.0) -> Tensor:
    """Vectors of norm 0 or in [1e-6, longest], (dim,)."""
    length = draw(st.one_of(st.just(0.0), log_uniform(SMALLEST, longest)))
    return length * draw(directions(dim))


@st.composite
def hyperbolic_points(
    draw: st.DrawFn, count: int = 2, dim: int = 4, reach: float = 6.0
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """c and points of the hyperboloid at distances up to reach/sqrt(c) from the origin: (), count times (dim,).

    A later point coincides with the first, or is close to it, in a fifth of the draws.
    """
    c = draw(curvatures())
    points = [lorentz.expmap0(draw(tangents(dim, longest=reach)) * c.rsqrt(), c=c) for _ in range(count)]
    for i in range(1, count):
        kind = draw(st.integers(0, 9))
        if kind == 8:
            points[i] = points[0].clone()
        if kind == 9:
            points[i] = points[0] * (1 + 1e-4) + 1e-5 * c.rsqrt() * draw(directions(dim))
    return c, tuple(points)


@st.composite
def ball_points(draw: st.DrawFn, count: int = 2, dim: int = 4, reach: float = 6.0) -> tuple[Tensor, tuple[Tensor, ...]]:
    """c and points of the Poincare ball at distances up to reach/sqrt(c) from the origin: (), count times (dim,)."""
    c = draw(curvatures())
    half = st.just(c.rsqrt() / 2)
    return c, tuple(poincare.expmap0(draw(tangents(dim, longest=reach)) * draw(half), c=c) for _ in range(count))


@st.composite
def sphere_points(draw: st.DrawFn, count: int = 2, dim: int = 4) -> tuple[Tensor, ...]:
    """Points of the unit sphere, count times (dim,)."""
    return tuple(draw(directions(dim)) for _ in range(count))

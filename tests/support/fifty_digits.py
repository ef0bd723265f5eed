"""The definitions of hyperbolic geometry in ambient coordinates with 50 digits: the measure of the float formulas."""

from __future__ import annotations

from collections.abc import Sequence

import mpmath as mp
from torch import Tensor

mp.mp.dps = 50

Vector = list[mp.mpf]


def number(value: Tensor | float) -> mp.mpf:
    """The exact value of a float."""
    return mp.mpf(float(value))


def vector(x: Tensor) -> Vector:
    """The exact values of a float vector (n,)."""
    return [mp.mpf(value) for value in x.tolist()]


def dot(x: Vector, y: Vector) -> mp.mpf:
    return mp.fsum(a * b for a, b in zip(x, y, strict=True))


def add(*terms: tuple[mp.mpf, Vector]) -> Vector:
    """Sum of multiples."""
    return [mp.fsum(factor * v[i] for factor, v in terms) for i in range(len(terms[0][1]))]


def norm(x: Vector) -> mp.mpf:
    return mp.sqrt(dot(x, x))


def error(got: Tensor, exact: Vector | mp.mpf, *, scale: mp.mpf | None = None) -> float:
    """|got - exact| / scale, by default relative to exact. A zero scale demands equality."""
    if not isinstance(exact, list):
        exact, got = [exact], got.reshape(1)
    difference = norm(add((mp.mpf(1), vector(got)), (mp.mpf(-1), exact)))
    scale = norm(exact) if scale is None else scale
    return float(difference / scale) if scale else float(difference)


def time(x: Vector, c: mp.mpf) -> mp.mpf:
    return mp.sqrt(1 / c + dot(x, x))


def tangent_time(x: Vector, v: Vector, c: mp.mpf) -> mp.mpf:
    return dot(x, v) / time(x, c)


def minkowski(x: Vector, y: Vector, c: mp.mpf) -> mp.mpf:
    """<x, y>_L of two points."""
    return dot(x, y) - time(x, c) * time(y, c)


def inner(u: Vector, v: Vector, x: Vector, c: mp.mpf) -> mp.mpf:
    return dot(u, v) - tangent_time(x, u, c) * tangent_time(x, v, c)


def dist(x: Vector, y: Vector, c: mp.mpf) -> mp.mpf:
    return mp.acosh(-c * minkowski(x, y, c)) / mp.sqrt(c) if x != y else mp.mpf(0)


def dist0(x: Vector, c: mp.mpf) -> mp.mpf:
    return mp.asinh(mp.sqrt(c) * norm(x)) / mp.sqrt(c)


def expmap(x: Vector, v: Vector, c: mp.mpf) -> Vector:
    a = mp.sqrt(c * inner(v, v, x, c))
    return add((mp.cosh(a), x), (mp.sinh(a) / a if a else mp.mpf(1), v))


def expmap0(v: Vector, c: mp.mpf) -> Vector:
    return expmap([mp.mpf(0)] * len(v), v, c)


def logmap(x: Vector, y: Vector, c: mp.mpf) -> Vector:
    a = mp.sqrt(c) * dist(x, y, c)
    factor = a / mp.sinh(a) if a else mp.mpf(1)
    return add((factor, y), (-factor * mp.cosh(a), x))


def logmap0(x: Vector, c: mp.mpf) -> Vector:
    return logmap([mp.mpf(0)] * len(x), x, c)


def transp(x: Vector, y: Vector, v: Vector, c: mp.mpf) -> Vector:
    y_v = dot(y, v) - time(y, c) * tangent_time(x, v, c)
    factor = y_v / (1 / c - minkowski(x, y, c))
    return add((mp.mpf(1), v), (factor, x), (factor, y))


def boost(x: Vector, b: Vector, c: mp.mpf) -> Vector:
    k = 1 / mp.sqrt(c)
    y_t = (time(b, c) * time(x, c) + dot(b, x)) / k
    return add((mp.mpf(1), x), ((time(x, c) + y_t) / (time(b, c) + k), b))


def centroid(points: Sequence[Vector], weights: Sequence[mp.mpf], c: mp.mpf) -> Vector:
    pairs = list(zip(weights, points, strict=True))
    m, m_t = add(*pairs), mp.fsum(w * time(x, c) for w, x in pairs)
    return add((1 / mp.sqrt(c * (m_t**2 - dot(m, m))), m))


def rescale(x: Vector, c: mp.mpf, s: mp.mpf, x_t_max: mp.mpf) -> Vector:
    """D tanh(r d) with D = k arccosh(x_t_max / k), r = atanh(0.99)/(s D)."""
    limit = mp.acosh(mp.sqrt(c) * x_t_max) / mp.sqrt(c)
    distance = limit * mp.tanh(mp.atanh(mp.mpf("0.99")) / (s * limit) * dist0(x, c))
    return add((mp.sinh(mp.sqrt(c) * distance) / mp.sqrt(c) / norm(x), x))

"""From the output of a convolution to a point: norm match, rescaling, boost, rescaling (Bdeir Eq. 5), as scalars.

In units of k, see `scalars.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from hyplearn.nn import monitor
from hyplearn.nn.fused.scalars import Limits, Radial, added, dot, floored, numbers, radial


@dataclass(frozen=True)
class Placement:
    """Says which of the steps there are.

    boost: by a `vector`, a radial `scale` of the distance to the origin, or `none`.
    """

    match: bool = True
    rescale_before: bool = True
    boost: Literal["vector", "scale", "none"] = "vector"
    rescale_after: bool = True


class PlaceInputs(NamedTuple):
    """What `place` reads of the convolution's output y at each position.

    q: |y|^2. q_patch: |x_patch|^2, for norm matching. dot_b: y . b, for a boost by a vector. b: the boost point, or the
    factor of a radial scale.
    """

    q: Tensor
    q_patch: Tensor | None = None
    dot_b: Tensor | None = None
    b: Tensor | None = None


class Point(NamedTuple):
    """The point `a y + s b` at each position: coefficients, None where they are 1 and 0, and the squared norm q."""

    a: Tensor | None
    s: Tensor | None
    q: Tensor

    def scaled(self, factor: Tensor) -> Point:
        """Return the point times a factor."""
        a, q = _times(self.a, factor), factor.square() * self.q
        return Point(a, None if self.s is None else self.s * factor, q)


class PointGradients(NamedTuple):
    """Gradients of the fields of a `Point`, s None where the point has none."""

    a: Tensor
    s: Tensor | None
    q: Tensor


@dataclass(frozen=True)
class Placed:
    """The point that an output stands for, and its time t.

    The other fields are what the backward pass needs: the point after each step, and what took it to the next one.
    """

    point: Point
    t: Tensor
    matched: Point
    rescaled: Point
    boosted: Point
    before: Radial | None = None
    scale: RadialScale | None = None
    dot: Tensor | None = None  # rescaled point . b
    after: Radial | None = None


class RadialScale(NamedTuple):
    """Factor of a radial scale by w with its derivative in q, and the derivative in w."""

    radial: Radial
    in_w: Tensor


def match_factor(q_patch: Tensor, q: Tensor) -> Tensor:
    """Norm matching of the rotation convolution: `|x_patch| / |W x_patch|` (Bdeir Section 3.3)."""
    n = numbers(q)
    return torch.sqrt((q_patch + n.match) / (q + n.match))


def place(y: PlaceInputs, limits: Limits, placement: Placement | None, *, want_slope: bool = False) -> Placed:
    """Return the point that a convolution's output stands for. `placement=None`: the output is the point itself.

    want_slope: with the derivatives that `place_vjp` needs.
    """
    n = numbers(y.q)
    start = Point(None, None, y.q)
    if placement is None:
        return Placed(start, torch.sqrt(n.one + y.q), start, start, start)
    matched = _matched(y) if placement.match else start
    before, rescaled = None, matched
    if placement.rescale_before:
        before = _rescaling(matched.q, limits, want_slope)
        rescaled = matched.scaled(before.factor)
    if rescaled.a is None:
        rescaled = Point(torch.ones_like(rescaled.q), None, rescaled.q)
    scale, projection, boosted = None, None, rescaled
    if placement.boost == "scale":
        assert y.b is not None
        scale = _scaling(rescaled.q, y.b)
        boosted = rescaled.scaled(scale.radial.factor)
    elif placement.boost == "vector":
        boosted, projection = _boosted(rescaled, y)
    after, point = None, boosted
    if placement.rescale_after:
        after = _rescaling(boosted.q, limits, want_slope)
        point = boosted.scaled(after.factor)
    return Placed(point, torch.sqrt(n.one + point.q), matched, rescaled, boosted, before, scale, projection, after)


def _matched(y: PlaceInputs) -> Point:
    """Norm match: y as long as its input patch."""
    assert y.q_patch is not None
    n = numbers(y.q)
    ratio = (y.q_patch + n.match) / (y.q + n.match)
    return Point(torch.sqrt(ratio), None, ratio * y.q)


def _boosted(x: Point, y: PlaceInputs) -> tuple[Point, Tensor]:
    """The boost of a point `a y` to b, and the dot product of the point and b."""
    assert x.a is not None and y.b is not None and y.dot_b is not None
    n, q_b = numbers(x.q), torch.dot(y.b, y.b)
    projection = x.a * y.dot_b
    # (x_t + x_t') / (1 + b_t) with x_t' = b_t x_t + x.b
    s = torch.sqrt(n.one + x.q) + projection / (n.one + torch.sqrt(n.one + q_b))
    q = torch.relu(x.q + s * (projection + projection + s * q_b))  # |x + s b|^2; relu: rounding may leave it below 0
    return Point(x.a, s, q), projection


def _rescaling(q: Tensor, limits: Limits, want_slope: bool) -> Radial:
    rescaling = radial(q, "rescale", limits, want_slope=want_slope)
    monitor.give("rescaled/conv", lambda: rescaling.factor < 1)
    return rescaling


def _scaling(q: Tensor, w: Tensor) -> RadialScale:
    """Return `sinh(w d) / |x|`, which multiplies the distance to the origin by w."""
    q = floored(q)
    rho, t = torch.sqrt(q), torch.sqrt(1 + q)
    distance = torch.log1p(rho + q / (1 + t))
    factor, cosh = torch.sinh(w * distance) / rho, torch.cosh(w * distance)
    return RadialScale(Radial(factor, (w * cosh / t - factor) / (2 * q)), distance * cosh / rho)


def _times(a: Tensor | None, factor: Tensor) -> Tensor:
    return factor if a is None else a * factor


# The backward pass


class PlaceGradients(NamedTuple):
    """Gradients of the inputs of `place`, None for one that is None; `log_root` of log sqrt(c) through the limits."""

    q: Tensor
    q_patch: Tensor | None = None
    dot_b: Tensor | None = None
    b: Tensor | None = None
    log_root: Tensor | None = None


def place_vjp(
    made: Placed,
    g_a: Tensor | None,
    g_s: Tensor | None,
    g_t: Tensor,
    y: PlaceInputs,
    placement: Placement | None,
) -> PlaceGradients:
    """Gradients of the inputs of `place` from those of (a, s, t). `made`: by `place` with want_slope.

    The steps in reverse; each takes the gradients of the point behind it to those of the point before it.
    """
    g_q = g_t / (made.t + made.t)
    if placement is None:
        return PlaceGradients(g_q)
    assert g_a is not None
    g, g_dot_b, g_b, g_root = PointGradients(g_a, g_s, g_q), None, None, None
    if made.after is not None:
        g, g_factor = _scaled_vjp(made.boosted, made.after, g)
        g_root = made.after.limits_vjp(g_factor)
    if placement.boost == "vector":
        g, g_dot_b, g_b = _boosted_vjp(made, g, y)
    if made.scale is not None:
        g, g_factor = _scaled_vjp(made.rescaled, made.scale.radial, g)
        g_b = dot(g_factor, made.scale.in_w)
    if made.before is not None:
        g, g_factor = _scaled_vjp(made.matched, made.before, g)
        g_root = added(g_root, made.before.limits_vjp(g_factor))
    if not placement.match:
        return PlaceGradients(g.q, None, g_dot_b, g_b, g_root)
    g_q, g_patch = _matched_vjp(made.matched, g, y)
    return PlaceGradients(g_q, g_patch, g_dot_b, g_b, g_root)


def _scaled_vjp(x: Point, by: Radial, g: PointGradients) -> tuple[PointGradients, Tensor]:
    """Gradients of a point x, and of the factor that scaled it, from those of the scaled point."""
    factor = by.factor
    through_q = factor * x.q * g.q
    g_factor = (g.a if x.a is None else g.a * x.a) + (through_q + through_q)
    g_s = None
    if g.s is not None and x.s is not None:
        g_factor, g_s = g_factor + g.s * x.s, g.s * factor
    return PointGradients(g.a * factor, g_s, factor * factor * g.q + by.vjp(g_factor)), g_factor


def _boosted_vjp(made: Placed, g: PointGradients, y: PlaceInputs) -> tuple[PointGradients, Tensor, Tensor]:
    """Gradients of the point before the boost, of y . b and of b."""
    x, s, projection = made.rescaled, made.boosted.s, made.dot
    assert x.a is not None and s is not None and projection is not None
    assert g.s is not None and y.b is not None and y.dot_b is not None
    n = numbers(s)
    q_b = torch.dot(y.b, y.b)
    b_t = torch.sqrt(n.one + q_b)
    one_b = n.one + b_t
    g_q = g.q * (made.boosted.q > 0)
    through = g_q + g_q
    g_s = g.s + through * (projection + s * q_b)
    share = g_s / one_b
    g_dot = through * s + share
    g_q_b = dot(s * s, g_q) - dot(share, projection) / (b_t * one_b) * n.half
    g_x = PointGradients(g.a + g_dot * y.dot_b, None, g_q + n.half * g_s / torch.sqrt(n.one + x.q))
    return g_x, g_dot * x.a, (g_q_b + g_q_b) * y.b


def _matched_vjp(matched: Point, g: PointGradients, y: PlaceInputs) -> tuple[Tensor, Tensor]:
    """Gradients of |y|^2 and |x_patch|^2."""
    assert matched.a is not None and y.q_patch is not None
    n = numbers(y.q)
    half = matched.a * (n.half * g.a + matched.a * y.q * g.q)
    return matched.a.square() * g.q - half / (y.q + n.match), half / (y.q_patch + n.match)

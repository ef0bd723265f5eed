"""From the output of a convolution to a point: norm match, rescaling, boost, rescaling (Bdeir Eq. 5), as scalars.

In units of k, see `scalars.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hyplearn.nn import monitor
from hyplearn.nn.fused.scalars import Limits, Radial, added, dot, floored, numbers, radial


@dataclass(frozen=True)
class Placement:
    """Which steps there are. boost: by a `vector`, a radial `scale` of the distance to the origin, or `none`."""

    match: bool = True
    rescale_before: bool = True
    boost: str = "vector"
    rescale_after: bool = True


@dataclass
class Placed:
    """Scalars of the point `a y + s b`, its squared norm q and time t, per position; a or s is None where it is 1 or 0.

    The other fields are intermediates for the backward pass: factors (f) and their slopes (d), squared norms (q).
    """

    a: Tensor | None
    s: Tensor | None
    q: Tensor
    t: Tensor
    match: Tensor | None = None
    q_match: Tensor | None = None
    before: Radial | None = None
    scale: tuple[Tensor, Tensor, Tensor] | None = None
    q_before: Tensor | None = None
    q_boost: Tensor | None = None
    a_boost: Tensor | None = None
    s_boost: Tensor | None = None
    dot: Tensor | None = None
    after: Radial | None = None


def match_factor(q_patch: Tensor, q: Tensor) -> Tensor:
    """Norm matching of the rotation convolution: `|x_patch| / |W x_patch|` (Bdeir Section 3.3)."""
    n = numbers(q)
    return torch.sqrt((q_patch + n.match) / (q + n.match))


def place(
    q_patch: Tensor | None,
    q: Tensor,
    dot_b: Tensor | None,
    b: Tensor | None,
    limits: Limits,
    placement: Placement | None,
    *,
    want_slope: bool = False,
) -> Placed:
    """Scalars of the point that the convolution output y stands for.

    q = |y|^2, q_patch = |x_patch|^2 and dot_b = y . b per position; b the boost point, or the factor of a radial
    scale. `placement=None`: y is the point itself.
    """
    n = numbers(q)
    if placement is None:
        return Placed(None, None, q, torch.sqrt(n.one + q))
    made = Placed(None, None, q, q)
    a = None
    if placement.match:
        assert q_patch is not None
        ratio = (q_patch + n.match) / (q + n.match)
        made.match = a = torch.sqrt(ratio)
        q = ratio * q
    made.q_match = q
    if placement.rescale_before:
        made.before = _rescaling(q, limits, want_slope)
        a, q = _times(a, made.before.factor), made.before.factor.square() * q
    made.q_before = q
    if placement.boost == "scale":
        assert b is not None
        made.scale = _scaling(q, b)
        a, q = _times(a, made.scale[0]), made.scale[0].square() * q
    a = torch.ones_like(q) if a is None else a
    s = None
    if placement.boost == "vector":
        assert b is not None and dot_b is not None
        q_b = torch.dot(b, b)
        made.dot = a * dot_b
        # (x_t + x_t') / (1 + b_t) with x_t' = b_t x_t + x.b
        s = torch.sqrt(n.one + q) + made.dot / (n.one + torch.sqrt(n.one + q_b))
        q = torch.relu(q + s * (made.dot + made.dot + s * q_b))  # |x + s b|^2; relu: rounding may leave it below 0
    made.a_boost, made.s_boost, made.q_boost = a, s, q
    if placement.rescale_after:
        made.after = _rescaling(q, limits, want_slope)
        factor = made.after.factor
        a, q = a * factor, factor.square() * q
        s = None if s is None else s * factor
    made.a, made.s, made.q, made.t = a, s, q, torch.sqrt(n.one + q)
    return made


def _rescaling(q: Tensor, limits: Limits, want_slope: bool) -> Radial:
    rescaling = radial(q, "rescale", limits, want_slope=want_slope)
    monitor.give("rescaled/conv", lambda: rescaling.factor < 1)
    return rescaling


def _scaling(q: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`sinh(w d) / |x|`, which multiplies the distance to the origin by w, and its derivatives in q and w."""
    q = floored(q)
    rho, t = torch.sqrt(q), torch.sqrt(1 + q)
    distance = torch.log1p(rho + q / (1 + t))
    factor, cosh = torch.sinh(w * distance) / rho, torch.cosh(w * distance)
    return factor, (w * cosh / t - factor) / (2 * q), distance * cosh / rho


@dataclass
class PlaceGradients:
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
    q_patch: Tensor | None,
    q: Tensor,
    dot_b: Tensor | None,
    b: Tensor | None,
    placement: Placement | None,
) -> PlaceGradients:
    """Gradients of the inputs of `place` from those of (a, s, t). `made`: by `place` with want_slope."""
    g_q = g_t / (made.t + made.t)
    if placement is None:
        return PlaceGradients(g_q)
    assert g_a is not None and made.a_boost is not None and made.q_boost is not None
    g_root, g_dot_b, g_b = None, None, None
    if made.after is not None:
        factor = made.after.factor
        g_factor = g_a * made.a_boost + _through_square(factor, made.q_boost, g_q)
        if g_s is not None and made.s_boost is not None:
            g_factor, g_s = g_factor + g_s * made.s_boost, g_s * factor
        g_a, g_q = g_a * factor, factor * factor * g_q + made.after.vjp(g_factor)
        g_root = made.after.limits_vjp(g_factor)
    if placement.boost == "vector":
        assert g_s is not None and dot_b is not None and b is not None
        g_q, g_a, g_dot_b, g_b = _boost_vjp(made, g_q, g_a, g_s, dot_b, b)
    if made.scale is not None:
        assert made.q_before is not None
        factor, slope, in_w = made.scale
        a_before = made.match if made.before is None else _times(made.match, made.before.factor)
        g_factor = _through(g_a, a_before) + _through_square(factor, made.q_before, g_q)
        g_b, g_a, g_q = dot(g_factor, in_w), g_a * factor, factor * factor * g_q + g_factor * slope
    if made.before is not None:
        assert made.q_match is not None
        factor = made.before.factor
        g_factor = _through(g_a, made.match) + _through_square(factor, made.q_match, g_q)
        g_a, g_q = g_a * factor, factor * factor * g_q + made.before.vjp(g_factor)
        g_root = added(g_root, made.before.limits_vjp(g_factor))
    if made.match is None:
        return PlaceGradients(g_q, None, g_dot_b, g_b, g_root)
    assert q_patch is not None
    n = numbers(q)
    half = made.match * (n.half * g_a + made.match * q * g_q)
    g_q = made.match.square() * g_q - half / (q + n.match)
    return PlaceGradients(g_q, half / (q_patch + n.match), g_dot_b, g_b, g_root)


def _times(a: Tensor | None, factor: Tensor) -> Tensor:
    return factor if a is None else a * factor


def _through(g_a: Tensor, a: Tensor | None) -> Tensor:
    """Gradient of a factor through the coefficient it multiplies."""
    return g_a if a is None else g_a * a


def _through_square(factor: Tensor, q: Tensor, g: Tensor) -> Tensor:
    """Gradient of a factor through `factor^2 q`."""
    product = factor * q * g
    return product + product


def _boost_vjp(
    made: Placed, g_q: Tensor, g_a: Tensor, g_s: Tensor, dot_b: Tensor, b: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    s, projection = made.s_boost, made.dot
    assert s is not None and projection is not None and made.q_before is not None
    assert made.q_boost is not None and made.a_boost is not None
    n = numbers(s)
    q_b = torch.dot(b, b)
    b_t = torch.sqrt(n.one + q_b)
    one_b = n.one + b_t
    g_q = g_q * (made.q_boost > 0)
    through = g_q + g_q
    g_s = g_s + through * (projection + s * q_b)
    share = g_s / one_b
    g_dot = through * s + share
    g_q_b = dot(s * s, g_q) - dot(share, projection) / (b_t * one_b) * n.half
    return (
        g_q + n.half * g_s / torch.sqrt(n.one + made.q_before),
        g_a + g_dot * dot_b,
        g_dot * made.a_boost,
        (g_q_b + g_q_b) * b,
    )

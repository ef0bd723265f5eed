"""The unit sphere: points x (..., n) with |x| = 1, ambient coordinates, angles as distances."""

from __future__ import annotations

import torch
from torch import Tensor

from hyplearn.geometry.numerics import (
    asinc,
    check_any,
    dot,
    in_single_precision,
    of_one_type,
    sinc,
    squared_norm,
    vector_norm,
)
from hyplearn.geometry.pairwise import straight_distances


@of_one_type
def proj(x: Tensor) -> Tensor:
    """x / |x|; the zero vector stays zero. (..., n) to (..., n)."""
    length = vector_norm(x, keepdim=True)
    return x / torch.where(length > 0, length, 1.0)


@in_single_precision
def proj_tangent(x: Tensor, u: Tensor) -> Tensor:
    """The part of u orthogonal to x: u - (x.u) x."""
    return u - dot(x, u) * x


@in_single_precision
def cosine(x: Tensor, y: Tensor) -> Tensor:
    """Cosine similarity of all pairs of points. (..., N, n), (..., M, n) to (..., N, M)."""
    product: Tensor = x @ y.mT
    return product


def _angle(chord: Tensor, antichord: Tensor) -> Tensor:
    """2 atan2(|x - y|, |x + y|): exact for close and for opposite points, where arccos of the cosine is not."""
    return 2 * torch.atan2(chord, antichord)


@in_single_precision
def dist(x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
    """Angle between x and y. Gradient 0 at coincident and at opposite points. (..., n), (..., n) to (...)."""
    chord = vector_norm(x - y, keepdim=keepdim)
    return _angle(chord, vector_norm(x + y, keepdim=keepdim))


@in_single_precision
def cdist(x: Tensor, y: Tensor) -> Tensor:
    """Angles of all pairs, as accurate as `dist`. (..., N, n), (..., M, n) to (..., N, M). See also `cosine`."""
    return _angle(straight_distances(x, y), straight_distances(x, -y))


@in_single_precision
def inner(u: Tensor, v: Tensor, x: Tensor, *, keepdim: bool = False) -> Tensor:
    """Riemannian inner product at x, the Euclidean one. (..., n) x 3 to (...)."""
    product = dot(u, v).expand(*torch.broadcast_shapes(u.shape, v.shape, x.shape)[:-1], 1)
    return product if keepdim else product.squeeze(-1)


@in_single_precision
def norm(u: Tensor, x: Tensor, *, keepdim: bool = False) -> Tensor:
    """Riemannian norm of u at x, gradient 0 at u = 0. (..., n), (..., n) to (...)."""
    return vector_norm(u.expand(torch.broadcast_shapes(u.shape, x.shape)), keepdim=keepdim)


@in_single_precision
def egrad2rgrad(x: Tensor, g: Tensor) -> Tensor:
    """Riemannian gradient from the gradient g of the coordinates: its tangent part."""
    return proj_tangent(x, g)


@in_single_precision
def expmap(x: Tensor, v: Tensor) -> Tensor:
    """Exponential map at x: cos|v| x + sin|v|/|v| v. v must be tangent at x. (..., n), (..., n) to (..., n)."""
    square = squared_norm(v)
    return (1 - square / 2 * sinc(square / 4).square()) * x + sinc(square) * v


@in_single_precision
def logmap(x: Tensor, y: Tensor) -> Tensor:
    """Logarithm of y at x, of norm at most pi. Undefined (infinite gradient) at y = -x. (..., n), (..., n) to (..., n).

    With w = sin^2(d/2) = |x - y|^2/4: d/sin(d) = asinc(w)/sqrt(1 - w), times y - cos(d) x = y - x + 2 w x.
    """
    w = squared_norm(x - y) / 4
    return asinc(w) * (squared_norm(x + y) / 4).rsqrt() * (y - x + 2 * w * x)


@in_single_precision
def transp(x: Tensor, y: Tensor, v: Tensor) -> Tensor:
    """Parallel transport of v from x to y, y != -x: v - y.v / (1 + x.y) (x + y)."""
    total = x + y
    return v - 2 * dot(y - x, v) / squared_norm(total) * total


@of_one_type
def centroid(x: Tensor, *, weights: Tensor | None = None, dim: int | tuple[int, ...] = -2) -> Tensor:
    """Normalised weighted mean over dim, which must not be the last. Weights as in `lorentz.centroid`."""
    check_any(x, dim)
    weighted = x if weights is None else weights.unsqueeze(-1) * x
    return proj(weighted.sum(dim))


@in_single_precision
def mlr(x: Tensor, z: Tensor) -> Tensor:
    """Cosines to the directions z, the logits before the temperature. (..., n), (classes, n) to (..., classes)."""
    return cosine(x, proj(z))

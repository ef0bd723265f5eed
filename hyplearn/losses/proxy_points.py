"""Proxies as free vectors: where they lie as points of a space."""

from __future__ import annotations

import torch
from torch import Tensor

from hyplearn.manifolds import Manifold, Sphere
from hyplearn.nn.space import Space


def at_distance(vectors: Tensor, manifold: Manifold) -> Tensor:
    """The points in direction v at distance |v| from the origin: exp takes v/2 in the ball, v elsewhere.

    vectors: (P, n). manifold: any but the sphere.
    """
    points: Tensor = manifold.expmap0(vectors / _length_of_unit(vectors, manifold))
    return points


def bounded(vectors: Tensor, space: Space) -> Tensor:
    """Vectors (P, n) of any length as points of a space, inside float32's range whatever an optimizer does.

    Directions on the sphere; elsewhere in direction v at distance |v|, rescaled (Bdeir Eqs. 2-3) to at most d_max. A
    vector means the same whatever the curvature, so it need not move when c does.
    """
    manifold = space.manifold
    points: Tensor
    if isinstance(manifold, Sphere):
        points = manifold.projx(vectors)
    else:
        points = manifold.expmap0(manifold.rescale0(vectors / _length_of_unit(vectors, manifold)))
    return points


def _length_of_unit(vectors: Tensor, manifold: Manifold) -> Tensor:
    """Riemannian length of a coordinate vector of length 1 at the origin: 2 in the ball, else 1. (1,)."""
    axis = torch.zeros_like(vectors[0])
    axis[0] = 1
    length: Tensor = manifold.norm(torch.zeros_like(axis), axis, keepdim=True)
    return length

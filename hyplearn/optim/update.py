"""The steps of the Riemannian optimizers as pure functions of stacked points; a `ParameterSpace` supplies the geometry.

x: (P, *point), u: Riemannian gradients at x. Every function returns new tensors and edits none.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hyplearn.optim.spaces import ParameterSpace


def sgd(
    space: ParameterSpace,
    x: Tensor,
    u: Tensor,
    buffer: Tensor | None,
    *,
    lr: float,
    momentum: float,
    dampening: float,
    nesterov: bool,
) -> tuple[Tensor, Tensor | None]:
    """Riemannian SGD as torch.optim.SGD defines it, with exponential map and transported momentum.

    buffer: momentum at x, None before the first step, where it starts as u itself.
    """
    if momentum == 0:
        return space.retract(x, -lr * u), buffer
    buffer = u if buffer is None else momentum * buffer + (1 - dampening) * u
    direction = u + momentum * buffer if nesterov else buffer
    return space.retract_transport(x, -lr * direction, buffer)


@dataclass(frozen=True)
class Moments:
    """Adam's averages: `first` is a tangent vector, `second` and `largest` (amsgrad) are one number per point.

    Zeros of any shape that broadcasts stand for the averages before the first step.
    """

    first: Tensor
    second: Tensor
    largest: Tensor | None


def adam(
    space: ParameterSpace,
    x: Tensor,
    u: Tensor,
    moments: Moments,
    *,
    step: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
) -> tuple[Tensor, Moments]:
    """Riemannian Adam: torch.optim.Adam with <u, u>_x in the place of the square of each component.

    A denominator per component would leave the tangent space. step: number of this step, from 1.
    """
    first = betas[0] * moments.first + (1 - betas[0]) * u
    second = betas[1] * moments.second + (1 - betas[1]) * space.squared_norm(x, u)
    largest = None if moments.largest is None else torch.maximum(moments.largest, second)
    denominator = ((second if largest is None else largest) / (1 - betas[1] ** step)).sqrt() + eps
    direction = first / denominator / (1 - betas[0] ** step)
    x, first = space.retract_transport(x, -lr * direction, first)
    return x, Moments(first, second, largest)


def towards_origin(space: ParameterSpace, x: Tensor, v: Tensor, weight: float) -> tuple[Tensor, Tensor]:
    """Centroid of x and the origin with weights (1 - weight, weight), the tangent vector v taken along.

    The decay of Bdeir Section 3.2. Raises a ValueError for a weight beyond 1, which would throw x to the far side.
    """
    if weight > 1:
        raise ValueError(f"lr * weight_decay = {weight:.4g} must be at most 1: it is the weight of the origin")
    return space.towards_origin(x, v, weight)


def down_the_square(space: ParameterSpace, x: Tensor, v: Tensor, weight: float) -> tuple[Tensor, Tensor]:
    """A step of size `weight` down the gradient of half the squared length of the coordinates, v taken along."""
    u = space.riemannian_gradient(x, space.half_square_gradient(x))
    return space.retract_transport(x, -weight * u, v)

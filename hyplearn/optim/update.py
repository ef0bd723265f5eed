"""The steps of the Riemannian optimizers as pure functions of stacked points; a `ParameterSpace` supplies the geometry.

x: (P, *point), u: Riemannian gradients at x. Every function returns new tensors and edits none. Where the space is
closed forms alone they are regions, which a GPU runs in a few kernels; what a schedule changes from step to step goes
in as 0-dim tensors, for a number would be compiled anew.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

from hyplearn.optim.spaces import ParameterSpace
from hyplearn.regions import changing, region

P = ParamSpec("P")
R = TypeVar("R")


def _of_closed_forms(
    function: Callable[Concatenate[ParameterSpace, P], R],
) -> Callable[Concatenate[ParameterSpace, P], R]:
    """Mark a function as a region for the spaces that can be compiled."""
    compiled = region(function)

    def run(space: ParameterSpace, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return (compiled if space.closed else function)(space, *args, **kwargs)

    functools.update_wrapper(run, function)
    return run


@_of_closed_forms
def riemannian_gradient(space: ParameterSpace, x: Tensor, gradient: Tensor) -> Tensor:
    """Derivatives by the coordinates to the Riemannian gradient, a tangent vector."""
    return space.riemannian_gradient(x, gradient)


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
    rate = changing(-lr, x)
    if momentum == 0:
        return _walk(space, x, u, rate), buffer
    return _sgd(space, x, u, buffer, rate, momentum, dampening, nesterov)


@_of_closed_forms
def _walk(space: ParameterSpace, x: Tensor, u: Tensor, rate: Tensor) -> Tensor:
    return space.retract(x, rate * u)


@_of_closed_forms
def _sgd(
    space: ParameterSpace,
    x: Tensor,
    u: Tensor,
    buffer: Tensor | None,
    rate: Tensor,
    momentum: float,
    dampening: float,
    nesterov: bool,
) -> tuple[Tensor, Tensor]:
    buffer = u if buffer is None else momentum * buffer + (1 - dampening) * u
    direction = u + momentum * buffer if nesterov else buffer
    return space.retract_transport(x, rate * direction, buffer)


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
    started = [changing(1 - beta**step, x) for beta in betas]  # what the averages have seen of an eternity
    x, first, second, largest = _adam(
        space, x, u, moments.first, moments.second, moments.largest, changing(-lr, x), started, betas, eps
    )
    return x, Moments(first, second, largest)


@_of_closed_forms
def _adam(
    space: ParameterSpace,
    x: Tensor,
    u: Tensor,
    first: Tensor,
    second: Tensor,
    largest: Tensor | None,
    rate: Tensor,
    started: list[Tensor],
    betas: tuple[float, float],
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    first = betas[0] * first + (1 - betas[0]) * u
    second = betas[1] * second + (1 - betas[1]) * space.squared_norm(x, u)
    largest = None if largest is None else torch.maximum(largest, second)
    denominator = ((second if largest is None else largest) / started[1]).sqrt() + eps
    direction = first / denominator / started[0]
    x, first = space.retract_transport(x, rate * direction, first)
    return x, first, second, largest


def towards_origin(space: ParameterSpace, x: Tensor, v: Tensor, weight: float) -> tuple[Tensor, Tensor]:
    """Centroid of x and the origin with weights (1 - weight, weight), the tangent vector v taken along.

    The decay of Bdeir Section 3.2. Raises a ValueError for a weight beyond 1, which would throw x to the far side.
    """
    if weight > 1:
        raise ValueError(f"lr * weight_decay = {weight:.4g} must be at most 1: it is the weight of the origin")
    return _towards_origin(space, x, v, changing(weight, x))


@_of_closed_forms
def _towards_origin(space: ParameterSpace, x: Tensor, v: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return space.towards_origin(x, v, weight)


def down_the_square(space: ParameterSpace, x: Tensor, v: Tensor, weight: float) -> tuple[Tensor, Tensor]:
    """A step of size `weight` down the gradient of half the squared length of the coordinates, v taken along."""
    return _down_the_square(space, x, v, changing(-weight, x))


@_of_closed_forms
def _down_the_square(space: ParameterSpace, x: Tensor, v: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
    u = space.riemannian_gradient(x, space.half_square_gradient(x))
    return space.retract_transport(x, rate * u, v)


@_of_closed_forms
def follow(space: ParameterSpace, x: Tensor, vectors: list[Tensor], new: ParameterSpace) -> tuple[Tensor, list[Tensor]]:
    """Points and tangent vectors of `space` in `new`, the same manifold after its curvature step.

    The third part of Bdeir's Algorithm 1.
    """
    return space.follow(x, vectors, new)

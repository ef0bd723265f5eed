"""Which optimizers can train which models."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import nn

from hyplearn.manifolds.interop import geoopt
from hyplearn.optim.curvature import CurvatureAware
from hyplearn.optim.roles import curvatures_among, is_point, manifold_of

WAY_OUT = "choose optim=rsgd, radam or radamw"


def check_supports(optimizer: Callable[..., Any], model: nn.Module) -> None:
    """Raise a ValueError naming a trainable parameter that an optimizer cannot step.

    optimizer: a class or a partial of one. Euclidean optimizers take neither points of a manifold, whose gradient they
    misread, nor learned curvatures, which they do not keep within bounds; geoopt's take points, but no such curvature.
    """
    while isinstance(optimizer, functools.partial):
        optimizer = optimizer.func
    kind = optimizer if isinstance(optimizer, type) else type(optimizer)
    if issubclass(kind, CurvatureAware):
        return
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    curvatures = curvatures_among(model.parameters())
    for name, parameter in trainable.items():
        if parameter in curvatures:
            raise ValueError(
                f"{kind.__name__} cannot train the curvature {name!r}: it would leave its bounds and its points; "
                f"{WAY_OUT}, or fix the curvature with manifold.learned=false"
            )
        if is_point(parameter) and not issubclass(kind, geoopt.optim.mixin.OptimMixin):
            raise ValueError(
                f"{kind.__name__} cannot train {name!r}, points on {manifold_of(parameter).name}: it is a Euclidean "
                f"optimizer; {WAY_OUT}"
            )

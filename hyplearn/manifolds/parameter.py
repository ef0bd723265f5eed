"""Parameters that are points of a manifold."""

from __future__ import annotations

import torch
from torch import Tensor

from hyplearn.manifolds.interop import Manifold, ManifoldParameter
from hyplearn.manifolds.precision import promote


def manifold_parameter(data: Tensor, manifold: Manifold, *, requires_grad: bool = True) -> ManifoldParameter:
    """A `geoopt.ManifoldParameter` of a copy of data, in float32 or better. data: (..., n), points of the manifold.

    Only the type is geoopt's and what it does alone stays right: deepcopy and pickle keep the manifold and who shares
    it, a state dict holds a plain tensor. Register the manifold as a submodule beside the parameter, or `module.to`
    and `module.parameters` miss its curvature.

    Raises ValueError if data is not floating, or has a point off the manifold.
    """
    if not data.is_floating_point():
        raise ValueError(f"data has dtype {data.dtype}; a manifold parameter needs a floating point dtype")
    with torch.no_grad():
        point = promote(data.detach()).clone()
        manifold.assert_check_point_on_manifold(point)
    return ManifoldParameter(point, manifold=manifold, requires_grad=requires_grad)

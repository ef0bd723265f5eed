"""Which part a parameter plays, told by its type alone: Euclidean weight, point of a manifold, or curvature."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import cast

from torch import Tensor

from hyplearn.manifolds.curvature import CurvatureParameter
from hyplearn.manifolds.interop import Manifold, ManifoldTensor, geoopt


def is_point(parameter: Tensor) -> bool:
    """Whether the parameter holds points of a curved manifold; one on a flat manifold is a Euclidean weight."""
    return isinstance(parameter, ManifoldTensor) and not isinstance(parameter.manifold, geoopt.Euclidean)


def manifold_of(point: Tensor) -> Manifold:
    """The manifold of a parameter for which `is_point` holds."""
    return cast(ManifoldTensor, point).manifold


def manifolds_of(parameters: Iterable[Tensor]) -> Iterator[Manifold]:
    """The manifolds on which the parameters lie, each once."""
    seen: dict[int, Manifold] = {}
    for parameter in filter(is_point, parameters):
        seen.setdefault(id(manifold_of(parameter)), manifold_of(parameter))
    return iter(seen.values())


def curvatures_among(parameters: Iterable[Tensor]) -> set[Tensor]:
    """Return those of the parameters that are curvatures.

    Marked as such by type, or owned by the manifold of another one.

    The second rule finds the learnable curvatures of geoopt's manifolds (`Lorentz.k`, `PoincareBall.isp_c`).
    """
    parameters = list(parameters)
    owned = {curvature for manifold in manifolds_of(parameters) for curvature in manifold.parameters()}
    return {p for p in parameters if isinstance(p, CurvatureParameter) or p in owned}

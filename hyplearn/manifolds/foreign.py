"""geoopt's own manifolds, which store points otherwise than these do, are told where they are given."""

from __future__ import annotations

from typing import Any, TypeVar

from hyplearn.manifolds.interop import geoopt

M = TypeVar("M")


def ours(manifold: M) -> M:
    """Return the manifold of a layer or a space. Raises ValueError for geoopt's own hyperboloid and ball."""
    given: Any = manifold
    if type(manifold) is geoopt.Lorentz:
        raise ValueError(
            "manifold=geoopt.Lorentz stores points with their time, n + 1 numbers, where layers and losses take space "
            f"coordinates: give hyplearn.manifolds.Lorentz(c={1 / float(given.k):g}, learned=False)"
        )
    if isinstance(manifold, geoopt.PoincareBall):
        raise ValueError(
            "manifold=geoopt.PoincareBall has not what layers and losses ask of a curvature: give "
            f"hyplearn.manifolds.PoincareBall(c={float(given.c):g}, learned=False)"
        )
    return manifold

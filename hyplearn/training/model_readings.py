"""What can be read off a model at any moment: its curvatures, whether they sit on a bound, how far points lie out."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from hyplearn.geometry import lorentz
from hyplearn.manifolds.curved import CurvedManifold
from hyplearn.models.base import Model
from hyplearn.nn.space import Space, space_names


def curved(model: Model) -> dict[str, CurvedManifold]:
    """The manifolds of a model that have a curvature, by name."""
    return {name: manifold for name, manifold in model.manifolds().items() if isinstance(manifold, CurvedManifold)}


def curvatures(model: Model) -> dict[str, float]:
    """The present c of every manifold that has one."""
    return {name: manifold.c.item() for name, manifold in curved(model).items()}


def at_bounds(model: Model) -> dict[str, bool]:
    """Whether a learned c sits on one of its bounds."""
    found = {name: manifold.curvature for name, manifold in curved(model).items()}
    return {name: curvature.learned and curvature.at_bound for name, curvature in found.items()}


def radii(model: Model, embedding: Tensor) -> dict[str, float]:
    """Distances of embeddings (B, n) to the origin of the manifold of the head, or to 0 without one."""
    manifolds = list(curved(model).values())
    if not manifolds:
        radius = embedding.float().norm(dim=-1)
        return {"radius/mean": radius.mean().item(), "radius/max": radius.max().item()}
    return _radii_on(manifolds[-1], embedding, "radius")


def space_radii(spaces: Sequence[Space], points: Sequence[Tensor]) -> dict[str, float]:
    """The same for an embedding of several spaces, `radius/<space>/...`; on the sphere there is none."""
    found: dict[str, float] = {}
    for name, space, x in zip(space_names(spaces), spaces, points, strict=True):
        if isinstance(space.manifold, CurvedManifold):
            found |= _radii_on(space.manifold, x, f"radius/{name}")
    return found


def _radii_on(manifold: CurvedManifold, x: Tensor, name: str) -> dict[str, float]:
    radius = manifold.dist0(x)
    limit = lorentz.d_max(c=manifold.c.detach().float(), x_t_max=manifold.x_t_max)
    largest = radius.max()
    return {
        f"{name}/mean": radius.mean().item(),
        f"{name}/max": largest.item(),
        f"{name}/share": (largest / limit).item(),
    }

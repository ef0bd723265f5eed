"""What a model gets for its `manifold`: a family of manifolds, which may consist of a single one of one's own."""

from __future__ import annotations

from typing import Protocol

from hyplearn.manifolds.curved import CurvedManifold
from hyplearn.manifolds.euclidean import Euclidean
from hyplearn.manifolds.interop import Manifold
from hyplearn.manifolds.lorentz import Lorentz
from hyplearn.manifolds.poincare import PoincareBall
from hyplearn.manifolds.sphere import Sphere

NAMED: dict[str, type[Manifold]] = {
    "lorentz": Lorentz,
    "poincare": PoincareBall,
    "euclidean": Euclidean,
    "sphere": Sphere,
}


class Family(Protocol):
    """The manifolds of one model, as `hyplearn.manifolds.Manifolds` hands them out."""

    @property
    def kind(self) -> str:
        """lorentz, poincare, euclidean or sphere; of another geometry any other name, which messages use."""
        ...

    @property
    def curved(self) -> bool:
        """Whether a model that takes the family is expected to use a curvature of it."""
        ...

    def encoder(self, stage: int | str | None = None) -> Manifold:
        """The manifold of an encoder stage."""
        ...

    def decoder(self) -> Manifold:
        """The manifold of the head."""
        ...

    def embedding(self, name: str, *, kind: str | None = None, c: float | None = None) -> Manifold:
        """The manifold of one space of an embedding. kind, c: in place of the family's."""
        ...

    def manifolds(self) -> dict[str, CurvedManifold]:
        """The curved manifolds handed out so far, by name."""
        ...


METHODS = ("encoder", "decoder", "embedding", "manifolds")


class SingleManifold:
    """A manifold for every part of a model: what a `manifold._target_` that makes a manifold, not a family, stands for.

    A subclass of `Lorentz` or `PoincareBall` goes wherever these go; any other geoopt manifold goes to models that know
    it.
    """

    def __init__(self, manifold: Manifold) -> None:
        self.manifold = manifold
        self.kind = next((name for name, kind in NAMED.items() if isinstance(manifold, kind)), type(manifold).__name__)
        self._given = False

    @property
    def curved(self) -> bool:
        """Whether it has a curvature that training reads."""
        return isinstance(self.manifold, CurvedManifold)

    def _give(self) -> Manifold:
        self._given = True
        return self.manifold

    def encoder(self, stage: int | str | None = None) -> Manifold:
        """Return the manifold, whatever the stage."""
        return self._give()

    def decoder(self) -> Manifold:
        """Return the manifold."""
        return self._give()

    def embedding(self, name: str, *, kind: str | None = None, c: float | None = None) -> Manifold:
        """Return the manifold. Raises ValueError where another kind or curvature is asked for."""
        if kind not in (None, self.kind) or c is not None:
            raise ValueError(
                f"kind={kind!r}, c={c}: there is one manifold, {type(self.manifold).__name__}, with a curvature of its "
                "own; leave both out, or use a family as hyplearn.manifolds.Manifolds is one"
            )
        return self._give()

    def manifolds(self) -> dict[str, CurvedManifold]:
        """Return it under the name 'shared' if it was handed out and has a curvature."""
        return {"shared": self.manifold} if self._given and isinstance(self.manifold, CurvedManifold) else {}

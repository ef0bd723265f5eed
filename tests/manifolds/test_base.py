"""A single manifold serves as the family of a model."""

from __future__ import annotations

import pytest

from hyplearn.manifolds import Euclidean, Lorentz, Manifolds
from hyplearn.manifolds.base import METHODS, SingleManifold


class Own(Lorentz):
    pass


class Flat(Euclidean):
    pass


def test_every_part_of_a_model_gets_the_one_manifold() -> None:
    own = Own(0.7)
    family = SingleManifold(own)
    assert family.manifolds() == {}
    assert (
        family.encoder(3) is family.decoder() is family.embedding("a") is family.embedding("b", kind="lorentz") is own
    )
    assert family.manifolds() == {"shared": own}
    assert (family.kind, family.curved) == ("lorentz", True)


def test_a_flat_manifold_has_no_curvature_to_read() -> None:
    family = SingleManifold(Flat())
    family.decoder()
    assert (family.kind, family.curved, family.manifolds()) == ("euclidean", False, {})


def test_another_kind_or_curvature_is_refused() -> None:
    with pytest.raises(ValueError, match=r"kind='sphere', c=None: there is one manifold, Own"):
        SingleManifold(Own(0.7)).embedding("a", kind="sphere")
    with pytest.raises(ValueError, match=r"c=2.0: there is one manifold"):
        SingleManifold(Own(0.7)).embedding("a", c=2.0)


def test_the_family_of_the_configurations_has_the_same_methods() -> None:
    assert all(hasattr(Manifolds(), name) for name in ("kind", "curved", *METHODS))

"""The factory of a model's manifolds: kinds, sharing, names, arguments."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hyplearn.manifolds import Euclidean, Lorentz, Manifolds, PoincareBall, Sphere
from hyplearn.manifolds.family import Kind, Sharing


@pytest.mark.parametrize(
    ("kind", "cls"), [("lorentz", Lorentz), ("poincare", PoincareBall), ("euclidean", Euclidean), ("sphere", Sphere)]
)
def test_kinds(kind: Any, cls: type) -> None:
    family = Manifolds(kind)
    assert type(family.encoder(1)) is cls
    assert type(family.decoder()) is cls
    assert len(family.manifolds()) == (2 if kind in ("lorentz", "poincare") else 0)


def test_encoder_and_decoder_have_their_own_curvature() -> None:
    family = Manifolds(c=0.5, decoder_c=2.0)
    assert family.encoder(1) is family.encoder(4) is family.encoder()
    assert family.encoder() is not family.decoder()
    assert {name: m.c.item() for name, m in family.manifolds().items()} == {"encoder": 0.5, "decoder": 2.0}


def test_single() -> None:
    family = Manifolds(share="single")
    assert family.encoder(1) is family.decoder()
    assert list(family.manifolds()) == ["shared"]


def test_per_stage() -> None:
    family = Manifolds(share="per_stage")
    assert family.encoder(1) is family.encoder(1)
    assert family.encoder(1) is not family.encoder(2)
    family.encoder("stem")
    family.decoder()
    assert list(family.manifolds()) == ["encoder.stage1", "encoder.stage2", "encoder.stem", "decoder"]
    with pytest.raises(ValueError, match="stage=None: share='per_stage' needs"):
        family.encoder()


def test_only_what_a_model_asked_for_is_listed() -> None:
    family = Manifolds()
    assert family.manifolds() == {}
    family.decoder()
    assert list(family.manifolds()) == ["decoder"]


def test_a_drawn_curvature_is_that_of_the_seed_and_the_same_for_all_who_share_it() -> None:
    def drawn(share: Sharing) -> list[float]:
        torch.manual_seed(3)
        family = Manifolds(share=share, inverse_c_between=(0.41, 7.0))
        return [round(1 / manifold.c.item(), 5) for manifold in (family.encoder(), family.decoder(), family.encoder())]

    encoder, decoder, again = drawn("encoder_decoder")
    assert encoder == again != decoder
    assert len(set(drawn("single"))) == 1
    assert drawn("encoder_decoder") == [encoder, decoder, again]
    assert all(0.41 <= k <= 7.0 and round(k, 2) == k for k in (encoder, decoder))


def test_options_reach_the_manifolds() -> None:
    manifold = Manifolds(
        "lorentz", c=0.3, learned=False, parametrization="log_c", bounds=(0.1, 5.0), s=3.0, x_t_max=100.0
    ).decoder()
    assert manifold.curvature.bounds == (0.1, 5.0)
    assert manifold.curvature.parametrization == "log_c"
    assert not manifold.curvature.learned
    assert (manifold.s, manifold.x_t_max) == (3.0, 100.0)


@pytest.mark.parametrize("kind", ["lorentz", "poincare"])
def test_the_limit_of_a_model_does_not_follow_its_precision(kind: Kind) -> None:
    family = Manifolds(kind)
    made = (family.encoder(), family.decoder(), family.embedding("x"))
    assert [getattr(manifold, "x_t_max", None) for manifold in made] == [2000.0] * 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "hyperbolic"}, r"kind='hyperbolic' must be one of 'lorentz', 'poincare', 'euclidean', 'sphere'"),
        ({"share": "stage"}, "share='stage' must be one of"),
        ({"share": "single", "decoder_c": 2.0}, r"decoder_c=2\.0 needs share="),
        ({"c": 100.0}, r"c=100\.0 must lie in bounds"),
        ({"decoder_c": 100.0}, r"c=100\.0 must lie in bounds"),
        ({"inverse_c_between": (0.0, 1.0)}, r"inverse_c_between=\(0\.0, 1\.0\) must satisfy 0 < low <= high"),
        ({"inverse_c_between": (0.01, 1.0)}, r"c=100\.0 must lie in bounds"),
        ({"s": -1.0}, r"s=-1\.0 must be > 0"),
    ],
)
def test_wrong_arguments_stop_at_construction(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Manifolds(**arguments)

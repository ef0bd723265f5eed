"""geoopt's own hyperboloid and ball are refused where a layer or a loss is made, not in its first step."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from typing import Any

import geoopt
import pytest

import hyplearn.nn
from hyplearn.losses import Triplet
from hyplearn.manifolds import Lorentz, PoincareBall
from hyplearn.nn.conv import LorentzConv2d
from hyplearn.nn.linear import LorentzLinear
from hyplearn.nn.mlr import LorentzMLR
from hyplearn.nn.space import Space

CALLS = {
    "conv": lambda m: LorentzConv2d(4, 4, 3, manifold=m),
    "linear": lambda m: LorentzLinear(4, 4, manifold=m),
    "mlr": lambda m: LorentzMLR(4, 3, manifold=m),
    "space": Space,
    "loss": lambda m: Triplet().within(m),
}


@pytest.mark.parametrize("made", CALLS)
@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        (geoopt.Lorentz(k=2.0), r"manifolds\.Lorentz\(c=0\.5, learned=False\)"),
        (geoopt.PoincareBall(c=0.5), r"manifolds\.PoincareBall\(c=0\.5, learned=False\)"),
    ],
)
def test_a_manifold_of_geoopt_is_told_with_the_one_to_give(made: str, theirs: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        CALLS[made](theirs)  # type: ignore[operator]
    assert CALLS[made](Lorentz(c=0.5, learned=False)) is not None  # type: ignore[operator]


def test_every_layer_that_keeps_a_manifold_asks() -> None:
    keeping = []
    for found in pkgutil.iter_modules(hyplearn.nn.__path__):
        source = inspect.getsource(importlib.import_module(f"hyplearn.nn.{found.name}"))
        keeping += [found.name] if re.search(r"self\.manifold\b[^=\n]*= manifold\b", source) else []
    assert keeping == []
    assert Space(PoincareBall(0.5)).name == "poincare"

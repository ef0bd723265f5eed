"""What to call runs in a picture: by the settings in which they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hyplearn.cli.plot.history import _differing, _leaves, _values
from hyplearn.runs.keys import UNTOLD, within

TELLING = ("choices.model", "loss.tau", "manifold.c", "choices.backbone", "seed")
MODELS = {"sph": "Sph", "hyp": "Hyp", "mix": "Mix", "hier": "HIER", "lhier": "LHIER"}  # the papers' names
FLAT = ("sphere", "euclidean")
FEW = 3


def distinct_names(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for each configuration: its geometry and few settings that tell it from others, or with a number."""
    flat = [dict(_leaves(config)) for config in configs]
    for one in flat:
        if one.get("manifold.kind") in FLAT:
            one["manifold.c"] = None
    telling: list[str] = []
    for key in _differing(flat, TELLING):
        before = {_name(one, telling) for one in flat}
        if len({_name(one, [*telling, key]) for one in flat}) > len(before):
            telling.append(key)
    if len({_name(one, telling) for one in flat}) == 1:
        keys = [key for key in dict.fromkeys(key for one in flat for key in one) if not within(key, UNTOLD)]
        telling = _differing(flat, keys)[:FEW]
    names = [_name(one, telling) for one in flat]
    return [name if names.count(name) == 1 else f"{name} #{place + 1}" for place, name in enumerate(names)]


def _name(one: Mapping[str, Any], telling: Sequence[str]) -> str:
    model = str(one.get("choices.model"))
    family = MODELS.get(model.partition("_")[0], model)
    keys = [key for key in telling if key != "choices.model" and one.get(key) is not None]
    return f"{family}, {_values(one, keys)}" if keys else family

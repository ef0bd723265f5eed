"""What a run is: the same settings have the same name, wherever and whenever they are run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from hyplearn.runs.keys import ADDED_LATER, NOT_THE_RUN
from hyplearn.runs.renamed import first_target

DIGITS = 12


def cell_id(config: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that all seeds of a resolved configuration share; another setting gives others.

    A manifold without curvature reads nothing but its kind.
    """
    decisive = _without(config, "")
    if decisive.get("manifold", {}).get("kind") in ("sphere", "euclidean"):
        decisive["manifold"] = {"kind": decisive["manifold"]["kind"]}
    text = json.dumps(decisive, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def run_id(config: Mapping[str, Any]) -> str:
    """`<cell_id>_seed<seed>`: one run."""
    return f"{cell_id(config)}_seed{config['seed']}"


def _without(node: Mapping[str, Any], path: str) -> dict[str, Any]:
    """The tree without what is not the run. Whole numbers are floats: 1 and 1.0 are one setting."""
    kept: dict[str, Any] = {}
    for key, value in node.items():
        name = f"{path}{key}"
        if name in NOT_THE_RUN or (name in ADDED_LATER and value == ADDED_LATER[name]):
            continue
        if isinstance(value, Mapping):
            kept[key] = _without(value, f"{name}.")
        elif key == "_target_" and isinstance(value, str):
            kept[key] = first_target(value)
        else:
            kept[key] = _plain(value)
    return kept


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value

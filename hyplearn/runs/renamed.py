"""Where classes lie today that stored configurations name by an earlier path, and the names that run ids are made of.

A run id is a digest of its configuration, `_target_` included. It stays the same when a module moves: ids are made of
the path under which a class was first stored, configurations are read with the path under which it lies now.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Module that a stored `_target_` may name: the module in which its classes lie now.
MOVED = {
    "hyplearn.data.cars": "hyplearn.data.sources.cars",
    "hyplearn.data.crops": "hyplearn.data.batches.crops",
    "hyplearn.data.cub": "hyplearn.data.sources.cub",
    "hyplearn.data.datasets": "hyplearn.data.sources.datasets",
    "hyplearn.data.folder": "hyplearn.data.sources.folder",
    "hyplearn.data.inshop": "hyplearn.data.sources.inshop",
    "hyplearn.data.retrieval_arrays": "hyplearn.data.sources.retrieval_arrays",
    "hyplearn.data.retrieval_csv": "hyplearn.data.sources.retrieval_csv",
    "hyplearn.data.retrieval_folder": "hyplearn.data.sources.retrieval_folder",
    "hyplearn.data.sop": "hyplearn.data.sources.sop",
    "hyplearn.data.synthetic": "hyplearn.data.sources.synthetic",
    "hyplearn.data.transforms": "hyplearn.data.batches.transforms",
}
_FIRST = {now: first for first, now in MOVED.items()}


def present_target(target: str) -> str:
    """Return the path under which the class of a stored `_target_` lies now."""
    return _renamed(target, MOVED)


def first_target(target: str) -> str:
    """Return the path under which the class of a `_target_` was first stored, which run ids are made of."""
    return _renamed(target, _FIRST)


def with_present_targets(node: Any) -> Any:
    """Return a stored configuration, plain containers, with every `_target_` that moved where it lies now."""
    if isinstance(node, Mapping):
        return {
            key: present_target(value) if key == "_target_" and isinstance(value, str) else with_present_targets(value)
            for key, value in node.items()
        }
    return [with_present_targets(entry) for entry in node] if isinstance(node, list) else node


def _renamed(target: str, table: Mapping[str, str]) -> str:
    module, _, name = target.rpartition(".")
    return f"{table[module]}.{name}" if module in table else target

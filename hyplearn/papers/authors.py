"""What the authors' code runs, as data: see authors.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

ABSENT = "absent"  # in a family's values: a key of the family that it builds on, with all below it, that it has not


@dataclass(frozen=True)
class Family:
    """Experiments that one recipe of the authors' code stands behind.

    source: repository and place in it. experiments: by a short name. values: dotted key to value, the same for all
    experiments, or a mapping of their short names.
    """

    name: str
    source: str
    experiments: Mapping[str, str]
    values: Mapping[str, Any]

    def of(self, experiment: str) -> dict[str, Any]:
        """Return the values of one of the experiments, by its short name."""
        return {key: value[experiment] if isinstance(value, Mapping) else value for key, value in self.values.items()}


@cache
def families() -> tuple[Family, ...]:
    """Return all families."""
    nodes = _content()["families"]
    return tuple(
        Family(name, node["source"], node["experiments"], _values(name, nodes)) for name, node in nodes.items()
    )


def without_counterpart() -> tuple[str, ...]:
    """Return keys that no authors' code has; each stands for all keys below it as well."""
    return tuple(_content()["without_counterpart"])


@cache
def _content() -> Mapping[str, Any]:
    text = (resources.files("hyplearn.papers") / "authors.yaml").read_text(encoding="utf-8")
    content: Mapping[str, Any] = yaml.safe_load(text)
    return content


def _values(name: str, nodes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a family: its own in place of those of the family that it builds on."""
    node = nodes[name]
    values = _values(node["as"], nodes) if "as" in node else {}
    for key, value in node["values"].items():
        if value == ABSENT:
            gone = [known for known in values if known == key or known.startswith(f"{key}.")]
            if not gone:
                raise ValueError(f"authors.yaml: {key} of {name} is absent, but {node.get('as')} has no such key")
            for known in gone:
                del values[known]
        else:
            values[key] = value
    return values

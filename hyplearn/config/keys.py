"""Whether a dotted key exists, in a configuration or among the arguments of its owner, and what was meant if not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from hyplearn.config.schema import SUPPLIED, TrainConfig
from hyplearn.config.typecheck import arguments, check_known, join
from hyplearn.config.typed_keys import meant_key
from hyplearn.errors import ConfigError, listing, nearest


def check_key(key: str, config: DictConfig) -> None:
    """Raise ConfigError if the dotted `key` is neither in `config` nor an argument of what holds it."""
    tree = cast(dict[str, Any], OmegaConf.to_container(config, resolve=False))
    if key in set(paths(tree)):
        return
    node: Any = tree
    annotation: Any = TrainConfig
    path = ""
    for part in key.split("."):
        known = arguments(node, annotation, path)
        if known is None and isinstance(node, Mapping) and (not node or "_target_" in node):
            return
        valid = set(node if isinstance(node, Mapping) else ()) | set(known or ())
        if part not in valid and part not in SUPPLIED.get(path, ()):
            _suggest_elsewhere(key, part, valid, tree)
        check_known(part, valid, path, supplied=SUPPLIED)
        annotation = known[part].annotation if known and part in known else Any
        node, path = node.get(part) if isinstance(node, Mapping) else None, join(path, part)


def paths(tree: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """The dotted key of every node and leaf."""
    for key, value in tree.items():
        yield join(path, str(key))
        if isinstance(value, Mapping):
            yield from paths(value, join(path, str(key)))


def _suggest_elsewhere(key: str, part: str, valid: set[str], tree: Mapping[str, Any]) -> None:
    """Raise with the one place where a key of this name does exist, if nothing near the typed place is close."""
    elsewhere = [path for path in paths(tree) if path.rpartition(".")[2] == key.rpartition(".")[2]]
    meant = meant_key(key)
    if meant:
        raise ConfigError(f"unknown key {key}.{meant}")
    if not nearest(part, valid) and elsewhere:
        raise ConfigError(f"unknown key {key}. Did you mean {listing(elsewhere)}?")

"""What to call runs, and groups of them, in a picture: by the settings in which they differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hyplearn.errors import ConfigError, nearest
from hyplearn.runs.keys import SEED, UNTOLD, within

if TYPE_CHECKING:
    from hyplearn.runs.directory import RunDirectory

# What names groups that differ in it, the first before all others.
NAMING = tuple(f"choices.{name}" for name in ("experiment", "model", "manifold", "optim", "loss", "dataset"))
# What names single runs.
TELLING = ("choices.model", "loss.tau", "manifold.c", "choices.backbone", "seed")
MODELS = {"sph": "Sph", "hyp": "Hyp", "mix": "Mix", "hier": "HIER", "lhier": "LHIER"}  # the papers' names
FLAT = ("sphere", "euclidean")
FEW = 3  # keys that a name has room for


def grouped(runs: Sequence[RunDirectory], by: Sequence[str] | None) -> dict[str, list[RunDirectory]]:
    """Group runs by the values of keys; without keys those of the same settings, under a telling name."""
    flat = [dict(leaves(run.config)) for run in runs]
    for key in by or ():
        known = {name for one in flat for name in one}
        if key not in known:
            raise ConfigError(f"--by {key}: no such key in these runs.{nearest(key, known)}")
    names = _cell_names(runs, flat) if by is None else [_assignments(one, by) for one in flat]
    found: dict[str, list[RunDirectory]] = {}
    for run, name in zip(runs, names, strict=True):
        found.setdefault(name, []).append(run)
    return dict(sorted(found.items()))


def distinct_names(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Name each configuration by its geometry and few settings that tell it from others, or with a number."""
    flat = [dict(leaves(config)) for config in configs]
    for one in flat:
        if one.get("manifold.kind") in FLAT:
            one["manifold.c"] = None
    telling: list[str] = []
    for key in differing(flat, TELLING):
        before = {_name(one, telling) for one in flat}
        if len({_name(one, [*telling, key]) for one in flat}) > len(before):
            telling.append(key)
    if len({_name(one, telling) for one in flat}) == 1:
        telling = differing(flat, settings(flat))[:FEW]
    names = [_name(one, telling) for one in flat]
    return [name if names.count(name) == 1 else f"{name} #{place + 1}" for place, name in enumerate(names)]


def _name(one: Mapping[str, Any], telling: Sequence[str]) -> str:
    model = str(one.get("choices.model"))
    family = MODELS.get(model.partition("_")[0], model)
    keys = [key for key in telling if key != "choices.model" and one.get(key) is not None]
    return f"{family}, {_assignments(one, keys)}" if keys else family


def _cell_names(runs: Sequence[RunDirectory], flat: Sequence[Mapping[str, Any]]) -> list[str]:
    """By the choices that tell cells apart; where these are equal by few keys, or by the cell itself."""
    chosen: list[str] = []
    names = [""] * len(runs)
    for key in NAMING:
        finer = [_assignments(one, [*chosen, key]) for one in flat]
        if len(set(finer)) > max(len(set(names)), 1):
            chosen, names = [*chosen, key], finer
    names = [name or _choice(run) for name, run in zip(names, runs, strict=True)]
    cells = [run.cell for run in runs]
    return [_telling(name, cell, names, cells, flat, one) for name, cell, one in zip(names, cells, flat, strict=True)]


def _telling(
    name: str, cell: str, names: Sequence[str], cells: Sequence[str], flat: Sequence[Mapping[str, Any]],
    own: Mapping[str, Any],
) -> str:  # fmt: skip
    """The name, with what tells its cell from others of the same name."""
    same = [i for i, other in enumerate(names) if other == name]
    if len({cells[i] for i in same}) == 1:
        return name
    alike = [flat[i] for i in same]
    keys = differing(alike, settings(alike))
    return f"{name}, {_assignments(own, keys) if len(keys) <= FEW else cell}"


def _choice(run: RunDirectory) -> str:
    choices = run.config.get("choices", {})
    return str(choices.get("experiment") or f"{choices.get('model')}, {choices.get('dataset')}")


# Configurations as flat tables


def leaves(node: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value of a configuration with its dotted key."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def differing(flat: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[str]:
    """List the keys in which flat configurations differ."""
    return [key for key in keys if len({repr(one.get(key)) for one in flat}) > 1]


def settings(flat: Sequence[Mapping[str, Any]]) -> list[str]:
    """List the keys of flat configurations that decide what is computed, less the seed."""
    keys = dict.fromkeys(key for one in flat for key in one)
    return [key for key in keys if not within(key, (*SEED, *UNTOLD))]


def _assignments(one: Mapping[str, Any], keys: Sequence[str]) -> str:
    return ", ".join(f"{_label(key, keys)}={shown(one.get(key))}" for key in keys)


def _label(key: str, keys: Sequence[str]) -> str:
    """The last part of a key where no other ends alike."""
    last = key.rpartition(".")[2]
    return last if sum(other.rpartition(".")[2] == last for other in keys) == 1 else key


def shown(value: Any) -> str:
    """Write a value as a person types it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)

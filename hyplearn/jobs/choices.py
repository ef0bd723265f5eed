"""The values that one override names: `seed=1,2`, `seed=range(1,4)`, `model=glob(hcnn_*)`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.types import Glob, Override

from hyplearn.config.folders import config_folders, groups
from hyplearn.errors import ConfigError


def values(override: Override, extra: Sequence[Path] = ()) -> list[str]:
    """Each value as it would be typed alone. Raises ConfigError for a glob that fits nothing, and for an interval."""
    key, value = override.key_or_group, override.value()
    if isinstance(value, Glob):
        found = value.filter(groups(config_folders(extra)).get(key, []))
        if not found:
            raise ConfigError(f"{override.input_line} matches no choice of {key}.")
        return found
    if not override.is_sweep_override():
        return [override.get_value_element_as_str()]
    if not override.is_discrete_sweep():
        raise ConfigError(f"{override.input_line} needs single values: a,b,c or range(...) or choice(...).")
    return list(override.sweep_string_iterator())

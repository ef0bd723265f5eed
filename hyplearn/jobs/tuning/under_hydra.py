"""`train -m hydra/sweeper=hyplearn_optuna`: what is typed in Hydra's grammar as a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.plugins.launcher import Launcher as HydraLauncher
from omegaconf import DictConfig

from hyplearn.config.compose import parse
from hyplearn.config.process import as_typed
from hyplearn.errors import FAILED, OK, ConfigError, Interrupted, JobsFailed
from hyplearn.jobs.multirun import DEFAULT_DIR, config_dirs, engine_of, is_default
from hyplearn.jobs.tuning.search import SearchSettings, search


def search_under_hydra(
    master: DictConfig, launcher: HydraLauncher, arguments: Sequence[str], settings: Mapping[str, Any]
) -> None:
    """Search the keys that have several values, with the launcher that was chosen.

    Raises ConfigError before anything runs for what cannot be searched, JobsFailed where trials failed, and
    Interrupted after a signal.
    """
    engine = engine_of(launcher)
    if engine is None:
        raise ConfigError(
            "hydra/sweeper=hyplearn_optuna watches its trials while they run, which takes hydra/launcher=hyplearn or "
            "hyplearn_slurm."
        )
    parsed = [parse(text) for text in arguments]
    space = [searched(one) for one in parsed if one.is_sweep_override()]
    if not space:
        raise ConfigError("nothing to search: write a key as choice(a,b), interval(low,high) or tag(log,interval(..)).")
    placed = not is_default(master.hydra.sweep, "dir", DEFAULT_DIR) or master.output_dir is not None
    with as_typed():
        status = search(
            SearchSettings(
                space=space,
                overrides=[str(one.input_line) for one in parsed if not one.is_sweep_override()],
                jobs=engine.jobs,
                folder=Path(str(master.hydra.sweep.dir)) if placed else None,
                extra=config_dirs(master),
                **settings,
            ),
            engine,
        )
    if status == FAILED:
        raise JobsFailed("trials failed")
    if status != OK:
        raise Interrupted(status - 128)


def searched(override: Override) -> str:
    """A key with its values as `hyplearn tune --space` takes them. Raises ConfigError for what has no meaning there."""
    key, value = str(override.get_key_element()), override.value()
    if isinstance(value, IntervalSweep):
        whole = isinstance(value.start, int) and isinstance(value.end, int)
        kind = "int" if whole else "uniform"
        if "log" in value.tags:
            kind = "log"
        return f"{key}={kind}({value.start},{value.end})"
    if isinstance(value, RangeSweep) and isinstance(value.step, int) and value.step == 1:
        return f"{key}=int({value.start},{int(value.stop or 0) - 1})"
    if override.is_discrete_sweep():
        return f"{key}=choice({','.join(override.sweep_string_iterator())})"
    raise ConfigError(
        f"{override.input_line}: expected choice(a,b), interval(low,high) or tag(log,interval(low,high))."
    )

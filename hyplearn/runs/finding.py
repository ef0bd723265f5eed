"""Finished and unfinished runs below a folder, found by what they compute."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hyplearn.errors import ConfigError, listing
from hyplearn.runs.directory import RunDirectory
from hyplearn.runs.identity import run_id
from hyplearn.runs.keys import PLACE, STOPPING
from hyplearn.runs.names import CONFIG

log = logging.getLogger("hyplearn")


def runs_below(folders: Iterable[Path]) -> list[RunDirectory]:
    """Find every run directory at any depth below the folders, in the order of their paths.

    One with a damaged file is left out and named in a warning, the others are found all the same.
    """
    paths = (path for folder in folders for path in sorted(folder.rglob(CONFIG)) if path.exists())
    found = {path.parent.resolve(): path.parent for path in paths}
    return [run for run in map(RunDirectory, found.values()) if _sound(run)]


def _sound(run: RunDirectory) -> bool:
    """Whether the directory is that of a run, and none of its files is damaged; a damaged one is named."""
    if not run.readable and not run.results_file.exists() and not run.manifest_file.exists():
        return False  # W&B and Hydra leave files of the same name
    damage = run.damage
    if damage is not None:
        log.warning("left out: %s", damage)
    return damage is None


def by_id(runs: Iterable[RunDirectory]) -> dict[str, list[RunDirectory]]:
    """Group runs by their ids: one that finished comes first, of several the newest."""
    grouped: dict[str, list[RunDirectory]] = defaultdict(list)
    for run in runs:
        grouped[run.id].append(run)
    for same in grouped.values():
        same.sort(key=lambda run: (run.finished, run.config_file.stat().st_mtime), reverse=True)
    return dict(grouped)


def unfinished(parent: Path, config: Mapping[str, Any]) -> RunDirectory | None:
    """Find the newest run below `parent` with this configuration that has not ended and left a checkpoint."""
    for path in sorted(parent.glob(f"*/{CONFIG}"), reverse=True):
        run = RunDirectory(path.parent)
        try:
            _ = run.config
        except ConfigError as error:
            log.warning("left out: %s", error)
            continue
        if run.last_checkpoint and not run.finished and _placeless(run.config) == _placeless(config):
            return run
    return None


def reopen(path: Path, config: Mapping[str, Any]) -> RunDirectory | None:
    """Return `path` if a run of this configuration began there, None if none did. Raises ConfigError for another run.

    Where and how it is computed and watched may differ, see `runs.keys`.
    """
    run = RunDirectory(path)
    if not run.begun:
        return None
    if run.id != run_id(config):
        stored, wanted = _placeless(run.config), _placeless(config)
        differing = [key for key in {**stored, **wanted} if stored.get(key) != wanted.get(key)]
        raise ConfigError(
            f"resume=auto: {path} holds a run that differs in {listing(differing)}. Choose another output_dir, or "
            f"continue that run as it is with resume={path}."
        )
    if run.finished:
        raise ConfigError(f"resume=auto: the run in {path} is finished. Choose another output_dir to repeat it.")
    return run


def to_continue(path: Path) -> Path:
    """Return the checkpoint `path`, or the last one of the run directory `path`. Raises ConfigError without one."""
    checkpoint = RunDirectory(path).last_checkpoint if path.is_dir() else path
    if checkpoint is None:
        raise ConfigError(f"{path} has no checkpoint: the run stopped before its first one. Start it anew.")
    return checkpoint


def _placeless(config: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in config.items() if key not in PLACE}
    if isinstance(kept.get("trainer"), Mapping):
        kept["trainer"] = {key: value for key, value in kept["trainer"].items() if f"trainer.{key}" not in STOPPING}
    return kept

"""Finished and unfinished runs below a folder, found by what they computed."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from hyplearn.runs.identity import cell_id, run_id
from hyplearn.runs.renamed import with_present_targets

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where PyYAML was built with it
CONFIG, RESULTS, MANIFEST, METRICS = "config.yaml", "results.json", "manifest.json", "metrics.csv"


@dataclass(frozen=True)
class Run:
    """A run directory. What it holds is read when asked for."""

    path: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved configuration."""
        content: dict[str, Any] = with_present_targets(yaml.load((self.path / CONFIG).read_text(), Loader=LOADER))
        return content

    @cached_property
    def results(self) -> dict[str, Any]:
        """results.json; empty before the run ended."""
        return _read_json(self.path / RESULTS)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """manifest.json; empty before training began."""
        return _read_json(self.path / MANIFEST)

    @cached_property
    def history(self) -> list[dict[str, float]]:
        """metrics.csv: one row an epoch, columns without a value left out."""
        path = self.path / METRICS
        if not path.is_file():
            return []
        with path.open(newline="") as stream:
            return [{name: float(text) for name, text in row.items() if text} for row in csv.DictReader(stream)]

    @property
    def cell(self) -> str:
        """Shared by all seeds of these settings, see `identity.cell_id`."""
        return cell_id(self.config)

    @property
    def id(self) -> str:
        """`<cell>_seed<n>`."""
        return run_id(self.config)

    @property
    def seed(self) -> int:
        return int(self.config["seed"])

    @property
    def smoke(self) -> bool:
        """Whether small data stood in for the real ones, so that no number of the run means anything."""
        return self.config.get("scale") == "smoke"

    @property
    def finished(self) -> bool:
        return self.results.get("status") == "finished"

    @property
    def metrics(self) -> dict[str, float]:
        """Of the chosen epoch and of the test, in percent."""
        found: dict[str, float] = self.results.get("metrics", {})
        return found


def runs_below(folders: Iterable[Path]) -> list[Run]:
    """Every run directory at any depth below the folders, in the order of their paths."""
    found = {path.parent.resolve(): path.parent for folder in folders for path in sorted(folder.rglob(CONFIG))}
    return [Run(path) for path in found.values() if _is_run(path)]


def by_id(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """The runs of each `Run.id`: one that finished first, of several the newest."""
    grouped: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        grouped[run.id].append(run)
    for same in grouped.values():
        same.sort(key=lambda run: (run.finished, (run.path / CONFIG).stat().st_mtime), reverse=True)
    return dict(grouped)


def _is_run(path: Path) -> bool:
    """Whether a config.yaml is that of a run: W&B leaves files of the same name in its own folders."""
    try:
        content = yaml.load((path / CONFIG).read_text(), Loader=LOADER)
    except yaml.YAMLError:
        return False
    return isinstance(content, dict) and {"seed", "model", "dataset", "trainer"} <= set(content)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    content: dict[str, Any] = json.loads(path.read_text())
    return content

"""A run directory: where its files lie, how each is read and written, and what became of the run."""

from __future__ import annotations

import csv
import io
import json
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import yaml

from hyplearn.errors import ConfigError
from hyplearn.runs import shapes
from hyplearn.runs.atomic import write_json, write_text, write_yaml
from hyplearn.runs.bounded import load_yaml, read_text
from hyplearn.runs.identity import cell_id, run_id
from hyplearn.runs.lock import occupant
from hyplearn.runs.names import (
    BEST,
    CHECKPOINT_SUFFIX,
    CHECKPOINTS,
    CONFIG,
    EMBEDDINGS,
    EVALUATIONS,
    EXPORT,
    FIGURES,
    LAST,
    LAST_BATCH,
    LOG,
    MANIFEST,
    METRICS,
    NON_FINITE,
    RERUN,
    RESULTS,
    RETRIEVAL,
    TENSORBOARD,
    TEST,
    WANDB,
)
from hyplearn.runs.renamed import with_present_targets

log = logging.getLogger("hyplearn")

FINISHED, SMOKE = "finished", "smoke"
ALWAYS = {"seed", "model", "dataset", "trainer", "choices"}  # keys of every run's configuration

Row = Mapping[str, float]
Content = TypeVar("Content")


class RunState(Enum):
    """What a run directory holds, as far as the next command is concerned."""

    FINISHED = "finished"
    OCCUPIED = "being trained"
    STOPPED = "can be continued"
    NEW = "has no checkpoint"


@dataclass(frozen=True)
class RunDirectory:
    """The directory of one run. What a file holds is read once, when asked for: make another object for news."""

    path: Path

    @classmethod
    def locate(cls, path: Path) -> RunDirectory:
        """Find the run directory `path`, or that of the checkpoint `path`.

        Raises ConfigError if there is none, or if one of its files is damaged.
        """
        if not path.exists():
            raise ConfigError(f"{path} does not exist: name a run directory or one of its checkpoints.")
        found = cls.around(path)
        if not found.begun:
            raise ConfigError(f"{found.path} is no run directory: it has no {CONFIG}.")
        damage = found.damage
        if damage is not None:
            raise ConfigError(damage)
        return found

    @classmethod
    def around(cls, path: Path) -> RunDirectory:
        """Return the directory `path`, or that in which the checkpoint `path` has its place, whatever lies there."""
        return cls(path if path.is_dir() else path.parent.parent)

    # The files

    @property
    def config_file(self) -> Path:
        return self.path / CONFIG

    @property
    def manifest_file(self) -> Path:
        return self.path / MANIFEST

    @property
    def history_file(self) -> Path:
        return self.path / METRICS

    @property
    def results_file(self) -> Path:
        return self.path / RESULTS

    @property
    def log_file(self) -> Path:
        """What the run said while it trained."""
        return self.path / LOG

    @property
    def non_finite_file(self) -> Path:
        """Where the run stopped because a number was not finite."""
        return self.path / NON_FINITE

    @property
    def best_file(self) -> Path:
        """The checkpoint of the best epoch by validation, whether it is there or not."""
        return self.checkpoint(BEST)

    @property
    def last_file(self) -> Path:
        """The checkpoint that continues the run, whether it is there or not."""
        return self.checkpoint(LAST)

    @property
    def test_embeddings(self) -> Path:
        """The embeddings of the test images under the chosen weights, an .npz with a .safetensors beside it."""
        return self.path / EMBEDDINGS / TEST

    @property
    def last_batch(self) -> Path:
        """The embeddings of the last training batch, an .npz with a .safetensors beside it."""
        return self.path / EMBEDDINGS / LAST_BATCH

    @property
    def figures(self) -> Path:
        """The folder of pictures."""
        return self.path / FIGURES

    @property
    def tables(self) -> Path:
        """The folder of tables by class that a retrieval run leaves."""
        return self.path / RETRIEVAL

    @property
    def export(self) -> Path:
        """The folder in which the model is exported, unless another is named."""
        return self.path / EXPORT

    @property
    def tensorboard(self) -> Path:
        return self.path / TENSORBOARD

    @property
    def wandb(self) -> Path:
        return self.path / WANDB

    def files(self) -> list[str]:
        """List the files that a user may look for, relative to the directory."""
        names = (CONFIG, MANIFEST, METRICS, RESULTS, NON_FINITE, LOG)
        found = [name for name in names if (self.path / name).is_file()]
        for pattern in (f"{CHECKPOINTS}/*{CHECKPOINT_SUFFIX}", f"{EMBEDDINGS}/*", f"{RETRIEVAL}/*", f"{FIGURES}/*.png"):
            found += sorted(str(path.relative_to(self.path)) for path in self.path.glob(pattern))
        return found

    # What they hold

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved configuration."""
        return _read(self.config_file, lambda text: shapes.config(_mapping(with_present_targets(load_yaml(text)))))

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What manifest.json says; empty before training began."""
        return (
            _read(self.manifest_file, lambda text: shapes.manifest(_json(text))) if self.manifest_file.exists() else {}
        )

    @cached_property
    def results(self) -> dict[str, Any]:
        """What results.json says; empty before the run ended."""
        return _read(self.results_file, lambda text: shapes.results(_json(text))) if self.results_file.exists() else {}

    @property
    def results_if_sound(self) -> dict[str, Any]:
        """What results.json says; empty where it is damaged, too, which a warning says: for readers of many runs."""
        try:
            return self.results
        except ConfigError as error:
            log.warning("%s", error)
            return {}

    @cached_property
    def history(self) -> list[dict[str, float]]:
        """The rows of metrics.csv, one an epoch, without the columns that have no value."""
        return _read(self.history_file, _rows) if self.history_file.exists() else []

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Leave the resolved configuration, from which the run is evaluated and continued."""
        write_yaml(self.config_file, config)
        self._forget("config")

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        write_json(self.manifest_file, manifest)
        self._forget("manifest")

    def write_results(self, results: Mapping[str, Any]) -> None:
        write_json(self.results_file, results)
        self._forget("results")

    def write_history(self, rows: Sequence[Row]) -> None:
        """Write one line per row, with a column for every name that occurs, empty where a row lacks it."""
        columns = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.history_file, text.getvalue())
        self._forget("history")

    def write_comparison(self, facts: Mapping[str, Any]) -> None:
        """Write how this repetition differs from the run that it repeats."""
        write_json(self.path / RERUN, facts)

    def write_evaluation(self, results: Mapping[str, Any]) -> Path:
        """Write the results of one more evaluation; return the new file."""
        path = self.path / EVALUATIONS / f"{timestamp()}_{secrets.token_hex(2)}.json"
        write_json(path, results)
        return path

    def _forget(self, name: str) -> None:
        """Let the next reader find what was just written."""
        self.__dict__.pop(name, None)

    # What became of the run

    @property
    def begun(self) -> bool:
        """Whether a run has left its configuration here."""
        return self.config_file.exists()

    @property
    def readable(self) -> bool:
        """Whether config.yaml is that of a run: W&B and Hydra leave files of the same name in folders of their own."""
        try:
            return set(self.config) >= ALWAYS
        except ConfigError:
            return False

    @property
    def damage(self) -> str | None:
        """Say which file is not what a run writes, or None. Reads them all."""
        try:
            missing = ALWAYS - self.config.keys()
            if missing:
                return f"{self.config_file} is damaged: it has no {', '.join(sorted(missing))}."
            _ = self.manifest, self.results, self.history, self.id
        except (ConfigError, KeyError, TypeError, ValueError) as error:
            return str(error) if isinstance(error, ConfigError) else f"{self.config_file} is damaged ({error!r})."
        return None

    @property
    def finished(self) -> bool:
        """Whether the run came to its end and left results. Damaged ones, which a warning names, are none."""
        return bool(self.results_if_sound.get("status") == FINISHED)

    @property
    def state(self) -> RunState:
        """What can be done here next."""
        holder = occupant(self.path)  # before the results are read: a run may end in between
        if self.finished:
            return RunState.FINISHED
        if holder is not None:
            return RunState.OCCUPIED
        return RunState.NEW if self.last_checkpoint is None else RunState.STOPPED

    @property
    def cell(self) -> str:
        """The name that all seeds of these settings share, see `identity.cell_id`."""
        return cell_id(self.config)

    @property
    def id(self) -> str:
        """The name of the run, `<cell>_seed<n>`."""
        return run_id(self.config)

    @property
    def seed(self) -> int:
        return int(self.config["seed"])

    @property
    def smoke(self) -> bool:
        """Whether small data stood in for the real ones, so that no number of the run means anything."""
        return bool(self.config.get("scale") == SMOKE)

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the chosen epoch and of the test, in percent."""
        found: dict[str, float] = self.results.get("metrics", {})
        return found

    # Its checkpoints

    @property
    def best_checkpoint(self) -> Path | None:
        """The best epoch by validation, None where nothing was validated."""
        return self.best_file if self.best_file.exists() else None

    @property
    def last_checkpoint(self) -> Path | None:
        """The checkpoint that continues the run, None if there is none yet."""
        return self.last_file if self.last_file.exists() else None

    @property
    def tested_checkpoint(self) -> Path | None:
        """The checkpoint whose weights were tested, as the results name it; None before there are any."""
        selection = self.results.get("selection")
        return None if selection is None else self.path / selection["checkpoint"]

    def checkpoint(self, name: str) -> Path:
        """Return the place of the checkpoint `name`, `best` or `last`."""
        return self.path / CHECKPOINTS / f"{name}{CHECKPOINT_SUFFIX}"

    def checkpoint_names(self) -> list[str]:
        """List the checkpoints that are there: `best`, `last`."""
        return sorted(path.stem for path in (self.path / CHECKPOINTS).glob(f"*{CHECKPOINT_SUFFIX}"))


def is_checkpoint(path: Path) -> bool:
    """Return whether `path` is called as a checkpoint is."""
    return path.suffix == CHECKPOINT_SUFFIX


def noted_checkpoint(path: Path) -> str:
    """Return how the results of a run name one of its checkpoints."""
    return f"{CHECKPOINTS}/{path.name}"


def timestamp() -> str:
    return datetime.now().strftime("%Y-%m-%d_%H-%M-%S")


def _read(path: Path, parse: Callable[[str], Content]) -> Content:
    """Parse the text of a file. Raises ConfigError, which names the file, where it is not what a run wrote."""
    try:
        return parse(read_text(path))
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist: {path.parent} is no run directory.") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError, csv.Error, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"{path} is damaged ({reason}). Bring it back from a copy, or remove {path.parent} and run it again."
        ) from error


def _json(text: str) -> dict[str, Any]:
    return _mapping(json.loads(text))


def _mapping(content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError(f"keys with values are expected, and it holds a {type(content).__name__}")
    return content


def _rows(text: str) -> list[dict[str, float]]:
    names, *lines = list(csv.reader(io.StringIO(text, newline=""))) or [[]]
    return [_numbers(names, values) for values in lines if values]


def _numbers(names: Sequence[str], values: Sequence[str]) -> dict[str, float]:
    if len(values) != len(names):
        raise ValueError(f"a row has {len(values)} values for {len(names)} columns")
    return {name: float(value) for name, value in zip(names, values, strict=True) if value}

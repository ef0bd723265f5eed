"""Mirrors of the history beside metrics.csv: TensorBoard and Weights & Biases. What lies on disk is the record.

Lightning's loggers are not used: they write by step as training goes, so that a run resumed from a checkpoint writes
some steps twice, and theirs for Weights & Biases asks for a key. These receive whole rows, one per epoch, which the
checkpoint holds as well.
"""

from __future__ import annotations

import netrc
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
from PIL import Image
from torch import Tensor

from hyplearn.errors import ConfigError
from hyplearn.runs.directory import RunDirectory
from hyplearn.runs.identity import cell_id
from hyplearn.training.settings import LoggerSettings

Row = Mapping[str, float]
COUNTS = ("queries", "lone_queries", "ties")  # of images, no measures


class RunLogger(ABC):
    """Receives the rows of a run, one per epoch, and in the end its results."""

    @abstractmethod
    def log(self, row: Row) -> None:
        """One epoch, complete."""

    @abstractmethod
    def histogram(self, name: str, values: Tensor, epoch: int) -> None:
        """The distribution of values (N,) at an epoch."""

    @abstractmethod
    def picture(self, name: str, path: Path, epoch: int) -> None:
        """A PNG of the run directory."""

    @abstractmethod
    def finish(self, results: Mapping[str, Any]) -> str | None:
        """The results, whatever the run's status; returns what a user may want to know about the mirror."""


def build_loggers(
    settings: LoggerSettings, *, folder: Path, run_id: str, config: Mapping[str, Any], rows: Sequence[Row]
) -> list[RunLogger]:
    """The chosen loggers, started. rows: of the epochs that a resumed run has behind it."""
    loggers: list[RunLogger] = []
    if settings.wandb:  # first, or it would not notice TensorBoard
        loggers.append(WandbRun(settings, folder=folder, run_id=run_id, config=config, rows=rows))
    if settings.tensorboard:
        loggers.append(TensorBoardRun(RunDirectory(folder).tensorboard, first_epoch=len(rows) + 1, config=config))
    return loggers


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


class TensorBoardRun(RunLogger):
    """Scalars over epochs, figures and settings. Rows that a killed run logged after its last checkpoint are purged."""

    def __init__(self, folder: Path, *, first_epoch: int, config: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.folder, self.config = folder, config
        self._shown: set[Path] = set()
        self._writer = SummaryWriter(str(folder), purge_step=first_epoch)

    def log(self, row: Row) -> None:
        for name in [name for name in row if name != "epoch"]:
            self._writer.add_scalar(name, row[name], int(row["epoch"]))
        self._writer.flush()

    def histogram(self, name: str, values: Tensor, epoch: int) -> None:
        self._writer.add_histogram(name, values.cpu(), epoch)

    def picture(self, name: str, path: Path, epoch: int) -> None:
        self._shown.add(path.resolve())
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        self._writer.add_image(name, pixels, epoch, dataformats="HWC")

    def finish(self, results: Mapping[str, Any]) -> str:
        for name, value in results["metrics"].items():
            if name.startswith("test/"):
                self._writer.add_scalar(name, value, results["epochs"])
        for path in figures_left(RunDirectory(self.folder.parent), self._shown):
            self.picture(f"{path.parent.name}/{path.stem}", path, results["epochs"])
        self._settings(results["metrics"])
        self._writer.close()
        return f"to look at: tensorboard --logdir {self.folder}"

    def _settings(self, metrics: Mapping[str, float]) -> None:
        """The settings beside the test metrics, for the page HPARAMS."""
        from torch.utils.tensorboard.summary import hparams

        settings = {key: _as_setting(value) for key, value in flatten(self.config).items()}
        tests = {name: value for name, value in metrics.items() if name.startswith("test/")}
        writer = self._writer._get_file_writer()  # add_hparams would make a second run of its own
        for summary in hparams(settings, tests):
            writer.add_summary(summary)


def _as_setting(value: Any) -> bool | int | float | str:
    return value if isinstance(value, (bool, int, float, str)) else str(value)


def figures_left(record: RunDirectory, shown: Set[Path]) -> list[Path]:
    """Return the figures of a run that no mirror has got while it trained."""
    return [path for path in sorted(record.figures.glob("*.png")) if path.resolve() not in shown]


class WandbRun(RunLogger):
    """A Weights & Biases run that never asks: without a key it stays offline, to be synced later.

    The run id is that of the manifest, so a resumed run goes on in the same W&B run. Offline, each session leaves a
    folder of its own; the last one gets the earlier rows, too, so that it alone has to be synced. The configuration
    gets a key `cell`, shared by the seeds of the same settings. Validation metrics have their best and their last
    value in the summary, test metrics the one there is.
    """

    def __init__(
        self,
        settings: LoggerSettings,
        *,
        folder: Path,
        run_id: str,
        config: Mapping[str, Any],
        rows: Sequence[Row] = (),
    ) -> None:
        import wandb

        self.mode, self.record = wandb_mode(settings.mode), RunDirectory(folder)
        self._defined: set[str] = set()
        self._shown: set[Path] = set()
        self.record.wandb.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=settings.project,
            entity=settings.entity,
            group=group_of(settings, config),
            tags=tags_of(settings, config),
            name=folder.name,
            id=run_id,
            resume="allow" if self.mode == "online" else None,
            mode=self.mode,  # type: ignore[arg-type]
            # Absolute: the service that writes the record may have been started in another folder.
            dir=str(folder.absolute()),
            config={**config, "cell": cell_id(config)},
            settings=wandb.Settings(console="off", silent=True),
        )
        self._run.define_metric("epoch")
        self._run.define_metric("*", step_metric="epoch")
        if self.mode != "online":
            for row in rows:
                self.log(row)

    def log(self, row: Row) -> None:
        for name in [name for name in row if name not in self._defined]:
            self._defined.add(name)
            summary = summary_of(name)
            if summary is not None:
                self._run.define_metric(name, step_metric="epoch", summary=summary)
        self._run.log(dict(row))

    def histogram(self, name: str, values: Tensor, epoch: int) -> None:
        import wandb

        self._run.log({name: wandb.Histogram(values.cpu().tolist()), "epoch": epoch})

    def picture(self, name: str, path: Path, epoch: int) -> None:
        import wandb

        self._shown.add(path.resolve())
        self._run.log({name: wandb.Image(str(path)), "epoch": epoch})

    def finish(self, results: Mapping[str, Any]) -> str:
        epoch = results["epochs"]
        tests = {name: value for name, value in results["metrics"].items() if name.startswith("test/")}
        if tests:
            self.log({"epoch": epoch, **tests})
        for path in figures_left(self.record, self._shown):
            self.picture(f"{path.parent.name}/{path.stem}", path, epoch)
        self._run.summary.update(flatten(results))
        if self.mode == "online":
            where = f"to look at: {self._run.url}"
        elif self.mode == "disabled":
            where = "nothing went to Weights & Biases: WANDB_MODE=disabled"
        else:
            where = f"to upload: wandb sync {self.record.wandb / Path(self._run.dir).parent.name}"
        self._run.finish(exit_code=0 if results["status"] == "finished" else 1)
        return where


def group_of(settings: LoggerSettings, config: Mapping[str, Any]) -> str | None:
    """The group that was set, or else the experiment that names a cell of a table: its seeds share a group."""
    if settings.group is not None or not config.get("paper"):
        return settings.group
    experiment: str | None = config.get("choices", {}).get("experiment")
    return experiment


def tags_of(settings: LoggerSettings, config: Mapping[str, Any]) -> list[str]:
    """Those that were set; table, seed and protocol of a run that stands in a paper; smoke, for one on stand-ins."""
    tags = list(settings.tags)
    paper = config.get("paper")
    if paper:
        tags += [paper["key"], f"seed-{config['seed']}", f"protocol-{config['protocol']}"]
    if config.get("scale") == "smoke":
        tags.append("smoke")
    return list(dict.fromkeys(tags))


def summary_of(name: str) -> str | None:
    """What W&B's summary keeps of a metric's history; None for what it does by itself, the last value."""
    stage, _, metric = name.partition("/")
    if stage == "test":
        return "last"
    if stage != "val" or metric.rpartition("/")[2] in COUNTS:
        return None
    return "min,last" if metric.endswith("loss") else "max,last"


def wandb_mode(mode: str) -> str:
    """Return online, offline or disabled. auto: what WANDB_MODE says, else online where a key is found."""
    if mode != "auto":
        return mode
    if os.environ.get("WANDB_MODE") in ("online", "offline", "disabled"):
        return os.environ["WANDB_MODE"]
    return "online" if _has_key() else "offline"


def check_wandb_key(settings: LoggerSettings) -> None:
    """Raise ConfigError where a run shall be online and no key is found: W&B would fail once the run has begun."""
    if not settings.wandb or wandb_mode(settings.mode) != "online" or _has_key():
        return
    if os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return
    asked = "logger.mode=online" if settings.mode == "online" else "WANDB_MODE=online"
    raise ConfigError(
        f"{asked} needs a key of Weights & Biases, and there is none in WANDB_API_KEY or in netrc: run wandb login, or "
        f"choose {asked.partition('=')[0]}=offline."
    )


def _has_key() -> bool:
    return bool(os.environ.get("WANDB_API_KEY")) or _netrc_has_key()


def _netrc_has_key() -> bool:
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    path = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    try:
        return path.is_file() and netrc.netrc(str(path)).authenticators(host) is not None
    except netrc.NetrcParseError:
        return False

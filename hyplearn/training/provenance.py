"""Where a result comes from: manifest.json says what ran, on what, with which versions and data."""

from __future__ import annotations

import logging
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

import hyplearn
from hyplearn.geometry import tf32
from hyplearn.optim import describe_groups
from hyplearn.runs.directory import RunDirectory
from hyplearn.training.module import TrainingModule, group_name
from hyplearn.training.retrieval import RetrievalModule

try:
    import resource
except ModuleNotFoundError:  # Windows
    resource = None  # type: ignore[assignment]

log = logging.getLogger("hyplearn")

PACKAGES = (
    *("torch", "torchvision", "pytorch-lightning", "geoopt", "timm", "numpy", "scikit-learn", "pillow"),
    *("hydra-core", "omegaconf", "matplotlib", "rich", "wandb", "tensorboard"),
)


def new_run_id() -> str:
    """Eight hexadecimal digits from the system's entropy, which no seed can repeat."""
    return os.urandom(4).hex()


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def peak_memory_gib(device: str) -> float | None:
    """The most that tensors took on a GPU, or this process with its libraries on a CPU; None where nothing counts it.

    device: cuda, or another.
    """
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    if resource is None:
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # bytes of ru_maxrss
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def versions() -> dict[str, str]:
    """Of hyplearn, Python and every package that can change a result or its record, as far as it is installed."""
    found = {name: _version(name) for name in PACKAGES}
    own = {"hyplearn": hyplearn.__version__, "python": platform.python_version()}
    return own | {name: version for name, version in found.items() if version}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def source() -> dict[str, Any]:
    """Commit of the checkout hyplearn is imported from, and whether it has changes; empty for an installed package."""
    here = Path(__file__).resolve()
    # An environment may lie inside some other repository: only a file that git tracks belongs to the commit.
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is None:
        return {}
    changes = _git(here.parent, "status", "--porcelain", "--untracked-files=no", "--", ":/")
    return {"commit": _git(here.parent, "rev-parse", "HEAD"), "dirty": bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        answer = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=30)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def hardware() -> dict[str, Any]:
    found: dict[str, Any] = {
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        found["gpus"] = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        found["cuda"] = torch.version.cuda
    return found


def _processor() -> str:
    """The processor's name; `platform` gives only its architecture on Linux."""
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def parameter_counts(model: nn.Module, groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Numbers of parameters: all, those that are trained, and those of each group."""
    by_group: dict[str, int] = {}
    for index, group in enumerate(groups):
        name = group_name(dict(group), index)
        by_group[name] = by_group.get(name, 0) + sum(p.numel() for p in group["params"])
    everything = list(model.parameters())
    trained = sum(p.numel() for p in everything if p.requires_grad)
    return {"all": sum(p.numel() for p in everything), "trained": trained, "groups": by_group}


def write_manifest(record: RunDirectory, *, run_id: str, seed: int, dataset: Mapping[str, Any], **facts: Any) -> None:
    """Write manifest.json. A resumed run keeps the first manifest and adds the session to it."""
    session = {
        "started": now(),
        "command": list(sys.argv),
        "directory": str(Path.cwd()),
        "source": source(),
        "versions": versions(),
        "hardware": hardware(),
        **facts,
    }
    before = record.manifest
    sessions = [*before["sessions"], session] if before.get("run_id") == run_id else [session]
    record.write_manifest({"run_id": run_id, "seed": seed, "dataset": dict(dataset), "sessions": sessions})


class Provenance(pl.Callback):
    """At the start of training: writes the manifest and says what is about to run."""

    def __init__(self, folder: Path, *, run_id: str) -> None:
        self.record, self.run_id = RunDirectory(folder), run_id

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, TrainingModule)
        if not trainer.is_global_zero:
            return
        groups = trainer.optimizers[0].param_groups
        counts = parameter_counts(pl_module, groups)
        dataset: Mapping[str, Any] = trainer.datamodule.fingerprint  # type: ignore[attr-defined]
        names = None if isinstance(pl_module, RetrievalModule) else trainer.datamodule.class_names  # type: ignore[attr-defined]
        write_manifest(
            self.record,
            run_id=self.run_id,
            seed=pl_module.seed,
            dataset=dataset,
            parameters=counts,
            precision=str(trainer.precision),
            tf32=tf32.is_allowed(),
            processes=trainer.world_size,
            **({} if names is None else {"class_names": list(names)}),  # predictions are named where no data set is
        )
        device, precision = pl_module.device, trainer.precision
        log.info("run %s in %s", self.run_id, self.record.path)
        log.info(
            "%d parameters, %s training images, %s x %d, precision %s",
            *(
                counts["all"],
                dataset["counts"].get("train", "an unknown number of"),
                device.type,
                trainer.world_size,
                precision,
            ),
        )
        log.info("%s", describe_groups(groups))
        if trainer.global_step:
            log.info("resumed in epoch %d, after step %d", trainer.current_epoch + 1, trainer.global_step)

"""The interpolations of configs/train.yaml that name directories: Hydra asks for them when a run or a sweep begins."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from omegaconf import OmegaConf

from hyplearn.runs.creation import OUTPUTS, run_name

LONGEST = 80  # characters of a folder's name that tell what varies


def register() -> None:
    """Make the interpolations known to OmegaConf; may be called again, as in the worker processes of a launcher."""
    OmegaConf.register_new_resolver("hyplearn.run_dir", run_dir, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("hyplearn.sweep_dir", sweep_dir, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("hyplearn.sweep_subdir", sweep_subdir, replace=True)


def run_dir(output_dir: str | None, choices: Mapping[str, str | None], seed: object) -> str:
    """Return `output_dir`, or the name of a new directory: outputs/<model>_<dataset>/<time>_seed<seed>_<4 hex>."""
    return str(_named(output_dir) or OUTPUTS / run_name(choices) / _new(f"seed{seed}"))


def sweep_dir(output_dir: str | None) -> str:
    """Return `output_dir`, or the name of a new directory: outputs/multirun/<time>_<4 hex>."""
    return str(_named(output_dir) or OUTPUTS / "multirun" / _new("sweep"))


def sweep_subdir(number: int, differences: str, digits: int = 2) -> str:
    """Return the name of a job's folder: its number and, of `differences` as `key=value,...`, what a path may hold."""
    summary = re.sub(r"[^A-Za-z0-9.+-]+", "_", differences.replace("=", "-"))
    return f"{int(number):0{digits}d}_{summary[:LONGEST]}".rstrip("_.")


def _named(output_dir: str | None) -> Path | None:
    return Path(output_dir).expanduser() if output_dir else None


def _new(label: str) -> Path:
    return Path(f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{label}_{secrets.token_hex(2)}")

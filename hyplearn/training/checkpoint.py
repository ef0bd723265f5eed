"""Checkpoint files: plain containers of tensors, written whole, read without executing anything."""

from __future__ import annotations

import logging
import os
from collections import Counter, OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor, nn

from hyplearn.errors import ConfigError, NonFiniteLoss
from hyplearn.runs.archives import check_stored
from hyplearn.runs.atomic import write_whole
from hyplearn.runs.directory import RunDirectory
from hyplearn.runs.regular import check_regular
from hyplearn.training.finite import named, non_finite, non_finite_in
from hyplearn.training.module import TrainingModule

log = logging.getLogger("hyplearn")

PLAIN = (Tensor, nn.Parameter, int, float, str, bool, bytes, type(None), torch.Size, torch.dtype, torch.device)
WAY_OUT = "the run has diverged; take an earlier checkpoint, or train anew with a lower optim.lr or optim.curvature_lr"
CONTAINERS = (dict, OrderedDict, Counter)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint file, on the CPU, executing nothing that is in it."""
    check_file(path)
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return content


def check_file(path: Path) -> None:
    """Raise ConfigError, with the name of the file, for a checkpoint that would come to more than it is."""
    check_regular(path)
    try:
        check_stored(path)
    except ValueError as error:
        raise ConfigError(f"{path} is no checkpoint of a run: {error}.") from error


def find_checkpoint(path: Path) -> Path:
    """A checkpoint file itself, or the last checkpoint of a run directory."""
    found = RunDirectory(path).last_file if path.is_dir() else path
    if not found.exists():
        raise ValueError(f"{path} must be a checkpoint or a run directory with one: {found} does not exist")
    return found


def checkpoint_to_evaluate(path: Path) -> Path:
    """A checkpoint file itself, or of a run directory the best checkpoint if one was chosen, else the last."""
    best = RunDirectory(path).best_checkpoint if path.is_dir() else None
    return best or find_checkpoint(path)


def bring_best(checkpoint: Path, record: RunDirectory) -> None:
    """Copy the best checkpoint beside that of another run into the directory of the run that continues it."""
    best = checkpoint.with_name(record.best_file.name)
    if best.exists() and best.resolve() != record.best_file.resolve():
        check_regular(best)
        write_whole(record.best_file, lambda stream: stream.write(best.read_bytes()))


def load_weights(module: TrainingModule, path: Path, *, to_evaluate: bool = False) -> None:
    """The weights of a checkpoint into a module of the same model.

    to_evaluate: proxies of other classes, which evaluation does not read, stay as they are. Raises ConfigError for
    weights that are not finite, ValueError for those of another model.
    """
    weights = read_checkpoint(path)["state_dict"]
    require_finite(weights, path)
    if to_evaluate:
        own = module.state_dict()
        kept = {name: w for name, w in weights.items() if not name.startswith("loss.") or _same_shape(own, name, w)}
        weights = {**{name: w for name, w in own.items() if name.startswith("loss.")}, **kept}
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{path} belongs to another model than the one configured: {error}") from error


def require_finite(weights: Mapping[str, Tensor], path: Path) -> None:
    """Raise ConfigError, with the name of their file, for weights that are not finite."""
    found = non_finite(weights)
    if found:
        raise ConfigError(f"{path} holds weights that are not finite ({named(found)}): {WAY_OUT}.")


def _same_shape(own: Mapping[str, Tensor], name: str, weights: Tensor) -> bool:
    return name in own and own[name].shape == weights.shape


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints whole, and only such as `weights_only=True` can load: what cannot is named at once.

    Whoever asks for one, none is written or continued whose weights or training state are not finite.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        _require_plain(checkpoint, "checkpoint")
        found = non_finite_in(checkpoint)
        if found:
            raise NonFiniteLoss(f"{path} would hold numbers that are not finite ({named(found)}): {WAY_OUT}", None)
        write_whole(Path(path), lambda stream: torch.save(checkpoint, stream))

    def load_checkpoint(self, path: str | Path, *args: Any, **options: Any) -> dict[str, Any]:
        check_file(Path(path))
        checkpoint: dict[str, Any] = super().load_checkpoint(path, *args, **options)
        found = non_finite_in(checkpoint)
        if found:
            raise ConfigError(f"{path} holds numbers that are not finite ({named(found)}): {WAY_OUT}.")
        return checkpoint


def _require_plain(value: object, where: str) -> None:
    if type(value) in CONTAINERS:
        assert isinstance(value, Mapping)
        for key, item in value.items():
            _require_plain(key, f"a key of {where}")
            _require_plain(item, f"{where}[{key!r}]")
    elif type(value) in (list, tuple, set):
        assert isinstance(value, (list, tuple, set))
        for index, item in enumerate(value):
            _require_plain(item, f"{where}[{index}]")
    elif type(value) not in PLAIN:
        raise TypeError(f"{where} is a {type(value).__qualname__}: checkpoints hold tensors and plain containers alone")

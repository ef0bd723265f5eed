"""Looks at the installation from a process of its own, so that what is broken breaks nothing else.

Run by `hyplearn doctor`, as `python -m hyplearn.cli.doctor.questions <question> [argument ...]`; answers in JSON lines.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any


def _tell(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


def imports(*names: str) -> None:
    """Import the modules one after the other."""
    for name in names:
        _tell(begun=name)
        try:
            import_module(name)
        except BaseException as error:  # noqa: BLE001 - whatever a broken package raises is the finding
            _tell(name=name, error=f"{type(error).__name__}: {_first_line(error)}")
        else:
            _tell(name=name, error=None)


def gpu() -> None:
    """What torch sees to compute on."""
    import torch

    found = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        facts = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        major, minor = facts.major, facts.minor
        found.append({"name": facts.name, "capability": f"{major}.{minor}", "free": free, "total": total})
    bf16 = bool(found) and torch.cuda.is_bf16_supported(including_emulation=False)
    _tell(about="gpu", devices=found, built_for=torch.version.cuda, bf16=bf16, threads=torch.get_num_threads())


def data(*roots: str) -> None:
    """Which of the sets in files are below which of the folders."""
    from hyplearn.config.compose import compose
    from hyplearn.config.folders import config_dir, groups
    from hyplearn.config.typecheck import target

    for name in groups([config_dir()])["dataset"]:
        if "root: ${" not in (config_dir() / "dataset" / f"{name}.yaml").read_text():
            continue  # in no files, or the user's own
        source = target(compose([f"dataset={name}"]).config["dataset"]["source"], "source")()
        _tell(about="data", name=name, roots=[root for root in roots if source.present(Path(root))])


def weights() -> None:
    """Which pretrained weights of configs/backbone lie in the cache."""
    import yaml

    from hyplearn.config.folders import config_dir
    from hyplearn.models.weights import in_cache

    for path in sorted((config_dir() / "backbone").glob("*.yaml")):
        backbone = yaml.safe_load(path.read_text()).get("backbone")
        if backbone is not None:
            _tell(about="weights", name=path.stem, backbone=backbone, cached=in_cache(backbone))


def wandb_mode() -> None:
    """online, offline or disabled, as a run would choose."""
    from hyplearn.training.loggers import wandb_mode as mode

    _tell(about="wandb", mode=mode("auto"))


def machine(*roots: str) -> None:
    """Ask about GPU, Weights & Biases, data and weights, each for itself: what needs no long work."""
    for name, answer in (("gpu", gpu), ("wandb", wandb_mode), ("data", lambda: data(*roots)), ("weights", weights)):
        _tell(begun=name)
        try:
            answer()
        except Exception as error:  # noqa: BLE001 - the next question may have an answer
            _tell(about=name, error=f"{type(error).__name__}: {_first_line(error)}")


def selftest() -> None:
    """Every step of the self test."""
    from hyplearn.inference.selftest import WrongResultError, steps

    for name, work in steps():
        _tell(begun=name)
        start = time.monotonic()
        try:
            found, error = work(), None
        except WrongResultError as failure:
            found, error = None, str(failure)
        except Exception as failure:  # noqa: BLE001 - a defect of the installation is the finding
            found, error = None, f"{type(failure).__name__}: {_first_line(failure)}"
        _tell(name=name, found=found, error=error, seconds=time.monotonic() - start)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "")


QUESTIONS: dict[str, Callable[..., None]] = {"imports": imports, "machine": machine, "selftest": selftest}

if __name__ == "__main__":
    QUESTIONS[sys.argv[1]](*sys.argv[2:])

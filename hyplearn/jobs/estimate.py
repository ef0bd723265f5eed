"""How long a run may take and what it may need, judged by runs that are finished; never a guess."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from hyplearn.runs.directory import RunDirectory
from hyplearn.runs.identity import cell_id


class Estimate(NamedTuple):
    """Seconds of training and GiB of memory, None where nothing is known, and what they are taken from."""

    seconds: float | None
    memory_gib: float | None
    source: str


UNKNOWN = Estimate(None, None, "no finished run like it")


def estimate(config: Mapping[str, Any], finished: Sequence[RunDirectory]) -> Estimate:
    """From finished runs of the same settings, or else of the same model and data; `UNKNOWN` without any.

    Another batch, precision or image size makes another run; other numbers of epochs are counted up. The machines may
    differ from this one.
    """
    wanted = cell_id(config)
    same = [run for run in finished if run.cell == wanted]
    if same:
        return Estimate(median(run.results["seconds"] for run in same), _memory(same), _counted(same, "of this cell"))
    alike = [run for run in finished if _cost(run.config) == _cost(config) and run.results.get("seconds_per_epoch")]
    if alike:
        epoch = median(run.results["seconds_per_epoch"] for run in alike)
        return Estimate(
            epoch * config["trainer"]["max_epochs"], _memory(alike), _counted(alike, "of this model and data")
        )
    return UNKNOWN


def _cost(config: Mapping[str, Any]) -> tuple[Any, ...]:
    """What the time of an epoch and the memory depend on first."""
    data, trainer = config["dataset"], config["trainer"]
    return (
        config["scale"],
        config["model"],
        *(data.get(key) for key in ("_target_", "source", "batch_size", "limit_train", "image_size")),
        *(trainer[key] for key in ("precision", "limit_train_batches", "max_steps")),
    )


def _memory(runs: Sequence[RunDirectory]) -> float | None:
    """The most that one of them took, where they have noted it."""
    noted = [run.results["memory_gib"] for run in runs if run.results.get("memory_gib") is not None]
    return max(noted, default=None)


def _counted(runs: Sequence[RunDirectory], what: str) -> str:
    return f"{len(runs)} finished run{'s' if len(runs) > 1 else ''} {what}"

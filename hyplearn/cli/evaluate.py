"""`hyplearn evaluate`: rebuild a run from its config.yaml, load a checkpoint, test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hyplearn.config.compose import change
from hyplearn.errors import OK
from hyplearn.runs.directory import RunDirectory
from hyplearn.runs.keys import KEPT, PLACE, within
from hyplearn.runs.rank import first_process

# What may differ from training: everything but what the weights were made for.
FIXED = ("model", "manifold", "seed", *PLACE, "paper")
# What belongs to the record of a run, which evaluation does not write again.
OF_THE_RUN = (
    *KEPT,
    "dataset.select_on_test",  # by which the checkpoint was chosen
)


def evaluate(run: Path, overrides: Sequence[str]) -> int:
    """Test the checkpoint `run`, or the chosen one of the run directory `run`; print and save what comes out."""
    record = RunDirectory.locate(run)
    composed = change(
        record.config,
        overrides,
        allowed=lambda key: not within(key, (*FIXED, *OF_THE_RUN)),
    )
    from hyplearn.config.specification import checked_specification
    from hyplearn.training import fit as engine
    from hyplearn.training.checkpoint import checkpoint_to_evaluate

    spec = replace(checked_specification(composed, restores=True), run_dir=record.path)
    results = engine.evaluate(spec, checkpoint_to_evaluate(run))
    if first_process():
        path = record.write_evaluation({**results, "overrides": list(overrides)})
        print(f"{table(results)}\nwritten to {path}")
    return OK


def table(results: Mapping[str, Any]) -> str:
    """Checkpoint, metrics and curvatures in lines of name and value."""
    lines = {"checkpoint": results["checkpoint"]}
    if results["selected_on_test"]:
        lines["selection"] = "SELECTED ON TEST"
    lines |= {name: _shown(name, value) for name, value in results["metrics"].items()}
    lines |= {f"curvature c of {name}": f"{c:.4g}" for name, c in results["curvature"].items()}
    width = max(map(len, lines))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines.items())


def _shown(name: str, value: float) -> str:
    """Counts of queries as integers, everything else with decimals."""
    return f"{value:.0f}" if name.rpartition("/")[2] in ("queries", "lone_queries", "ties") else f"{value:.4f}"

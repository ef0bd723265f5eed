"""`hyplearn evaluate`: rebuild a run from its config.yaml, load a checkpoint, test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hyplearn.cli.parser import Parser
from hyplearn.config.compose import change
from hyplearn.errors import OK
from hyplearn.runs.directory import RunDirectory
from hyplearn.runs.keys import KEPT, PLACE, within
from hyplearn.runs.rank import first_process
from hyplearn.runs.writing import writing

# What may differ from training: everything but what the weights were made for.
FIXED = ("model", "manifold", "seed", *PLACE, "paper")
# What belongs to the record of a run, which evaluation does not write again.
OF_THE_RUN = (
    *KEPT,
    "dataset.select_on_test",  # by which the checkpoint was chosen
)


def evaluate_parser() -> Parser:
    """Make the parser of the command."""
    parser = Parser(
        "evaluate",
        """
Rebuild model and data from config.yaml of a run, load the checkpoint, test it, and print and save
the results.""",
        needs="a run directory or a checkpoint",
        examples="""
hyplearn evaluate outputs/hecnn_r18_digits/2025-01-31_12-00-00_seed1_ab12
hyplearn evaluate outputs/.../checkpoints/last.ckpt dataset.batch_size=512 trainer.accelerator=cpu
hyplearn evaluate outputs/hyp_vit_s_cub/... evaluation.k=[1,10,100] evaluation.nmi=true""",
    )
    parser.add_argument(
        "run",
        type=Path,
        help="a checkpoint, or a run directory: then the best checkpoint by validation, or the last one",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        complete="words",
        help="group.key=value of what does not belong to the model",
    )
    parser.add_trust()
    return parser


def evaluate(argv: Sequence[str]) -> int:
    """Test a checkpoint, or the chosen one of a run directory; print and save what comes out."""
    options = evaluate_parser().parse_intermixed_args(list(argv))
    run, overrides = options.run, options.overrides
    record = RunDirectory.locate(run)
    with writing(record.path):
        composed = change(
            record.config,
            overrides,
            allowed=lambda key: not within(key, (*FIXED, *OF_THE_RUN)),
            file=record.config_file,
            trust=options.trust,
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

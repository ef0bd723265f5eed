"""`hyplearn reproduce`: the runs of tables and experiments, those that are not finished yet, and a ledger of them."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

from hyplearn.cli.launch_options import add_launching, chosen_launcher
from hyplearn.cli.parser import Parser
from hyplearn.config.compose import parse
from hyplearn.errors import OK, ConfigError
from hyplearn.jobs.campaign import Campaign, print_plan
from hyplearn.jobs.plan import FOLDERS, choose, note_earlier_runs, plan
from hyplearn.jobs.processes import Child, Start
from hyplearn.runs.creation import new_directory

# Keys that the command sets itself, and how to say them.
OWN = {
    "seed": "--seeds 3 for the seeds 1 to 3, --seeds 3, for seed 3 alone",
    "experiment": "the name of the experiment alone",
    "scale": "--scale smoke or --scale full",
    "protocol": "--protocol paper or --protocol code",
    "output_dir": "nothing: a run has its place below outputs/",
    "resume": "nothing: what was interrupted is continued",
}

DESCRIPTION = """
Run the experiments of a table, one of them, or all that fit a glob, over one or more seeds. A run that is finished is
not repeated, wherever below outputs/ it lies; an interrupted one is continued; a failure stops none of the others. So
the same command, typed again, runs the holes. At the end stands a ledger, on the terminal and in ledger.json and
ledger.csv. Runs go to outputs/reproduce/<experiment>/<run id>/, those of smoke scale to outputs/smoke/."""
STATUS = """
Exit status: 0 if every run is finished, 1 if one failed, 2 for a mistake, 130 or 143 if stopped."""


def reproduce_parser() -> Parser:
    """Make the parser of the command."""
    parser = Parser(
        "reproduce",
        DESCRIPTION,
        examples="""
hyplearn reproduce bdeir_table3 --seeds 5 --dry-run
hyplearn reproduce bdeir_table3 --scale smoke
hyplearn reproduce bdeir_table3 --seeds 5 --jobs 4 dataset.root=/data trainer=gpu
hyplearn reproduce 'yue_table1_cub_*' --protocol code
hyplearn reproduce 'evidence/digits_*' --seeds 8
hyplearn reproduce yue_table1 --launcher submitit --slurm partition=gpu,time=720,gpus=1 --jobs 20""",
        more=STATUS,
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="word",
        complete="words",
        help="tables, experiments, globs; and key=value that hold for all runs: what changes a result makes another "
        "run with another id",
    )
    parser.add_argument(
        "--seeds",
        type=_seeds,
        default=[1],
        metavar="N",
        help="the seeds 1 to N; 1. Or a list: 2,5,7 (and 5, for seed 5 alone)",
    )
    parser.add_argument(
        "--scale",
        choices=["full", "smoke"],
        default="full",
        help="smoke: every run end to end in seconds, on digits in place of the real images, with narrow networks and "
        "two epochs of two batches. No number of it means anything; %(default)s",
    )
    parser.add_argument(
        "--protocol",
        choices=["paper", "code"],
        default="paper",
        help="code: what the authors' code does where it differs from the print; %(default)s",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the plan with states and estimates; run nothing, write nothing"
    )
    add_launching(parser)
    return parser


def _seeds(text: str) -> list[int]:
    numbers = text.removesuffix(",").split(",")
    if not all(re.fullmatch(r"\d+", number) for number in numbers) or text == "0":
        raise argparse.ArgumentTypeError(f"{text!r} must be a number of seeds from 1 on, or a list such as 1,2,5")
    seeds = [int(number) for number in numbers]
    return list(dict.fromkeys(seeds)) if "," in text else list(range(1, seeds[0] + 1))


def reproduce(argv: Sequence[str], *, start: Start = Child) -> int:
    """Plan, run what is missing, and print the ledger. start: another way to start a job, for tests."""
    options = reproduce_parser().parse_intermixed_args(list(argv))
    patterns = [word for word in options.words if "=" not in word]
    overrides = [word for word in options.words if "=" in word]
    if not patterns:
        raise ConfigError("hyplearn reproduce needs a table, an experiment or a glob (see hyplearn reproduce --help).")
    _check(overrides)
    launcher = chosen_launcher(options, overrides, start)
    chosen = choose(patterns)
    planned = plan(
        chosen.experiments, seeds=options.seeds, scale=options.scale, protocol=options.protocol, overrides=overrides
    )
    note_earlier_runs(planned)
    print_plan(planned, chosen.absent, scale=options.scale, protocol=options.protocol)
    if options.dry_run:
        return OK
    folder = new_directory(FOLDERS[options.scale] / "ledgers", _label(patterns))
    return Campaign(planned, folder, launcher, scale=options.scale, protocol=options.protocol).run()


def _check(overrides: Sequence[str]) -> None:
    for text in overrides:
        parsed = parse(text)
        if parsed.key_or_group in OWN:
            raise ConfigError(f"{text}: reproduce sets {parsed.key_or_group} itself. Use {OWN[parsed.key_or_group]}.")
        if parsed.is_sweep_override():
            raise ConfigError(f"{text} names several values: reproduce takes one that holds for all runs.")


def _label(patterns: Sequence[str]) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "_", "_".join(patterns))[:60].strip("_") or "all"

"""`hyplearn tune`: search settings by validation, with the same budget for each of what is compared."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import get_args

from hyplearn.cli.parser import Parser, at_least, folder
from hyplearn.jobs.processes import Child, Local, Start, devices
from hyplearn.jobs.tuning.search import Pruner, Sampler, SearchSettings, search

DESCRIPTION = """
Search settings by a validation metric with Optuna. Each trial is a run of its own; hopeless ones are stopped early.
The same command, typed again, goes on where it was stopped: interrupted trials are continued, failed ones tried again,
and with a larger --trials more are added. At the end stand the best settings by validation with their test value."""
WRITTEN = """
Written to outputs/tune/<name>/: study.db (Optuna's file), trials.csv, summary.json, the runs with their output in
<model>/<trial>_<run id>, and best/, a --config-dir whose experiments run the best settings again.
Exit status: 0 done, 1 if a trial failed (a loss that is not finite is a result) or a model has no complete trial,
2 for a mistake, 130 or 143 if stopped."""


def tune_parser() -> Parser:
    """Make the parser of the command."""
    parser = Parser(
        "tune",
        DESCRIPTION,
        examples="""
hyplearn tune model=hyp_vit_s --space 'loss.tau=log(0.02,1)' --space 'manifold.c=choice(0.1,1)'
hyplearn tune --compare model=sph_vit_s,hyp_vit_s,mix_vit_s --space 'loss.tau=log(0.02,1)'
hyplearn tune --compare model=hyp_vit_s,mix_vit_s --space 'loss.tau=log(0.02,1)' \\
    --space 'mix_vit_s:model.head.branches.poincare.weight=uniform(0.5,10)'
hyplearn tune model=hecnn_r18 --space 'optim.lr=log(0.01,1)' --space 'optim=choice(rsgd,radamw)'""",
        more=WRITTEN,
    )
    parser.add_argument("overrides", nargs="*", complete="words", help="group=choice and key=value of every trial")
    parser.add_argument(
        "--space",
        action="append",
        default=[],
        metavar="K=V",
        help="a key to search, as often as there are keys; V is choice(a,b,c), log(low,high), uniform(low,high) or "
        "int(low,high). VALUE:K=V searches K for this value of --compare alone. A key that decides nothing for a "
        "model, as the curvature of a sphere, is not searched for it",
    )
    parser.add_argument(
        "--compare",
        metavar="K=a,b,c",
        help="search each of these with a study and a budget of its own, in turns",
    )
    parser.add_argument(
        "--trials",
        type=at_least(1),
        help="trials of each study, those that were stopped early included; 20, or the whole grid",
    )
    parser.add_argument(
        "--metric",
        help="val/recall@1 of retrieval, val/top1 of a classifier; val/... alone, test metrics are refused",
    )
    parser.add_argument(
        "--sampler",
        choices=get_args(Sampler),
        default="tpe",
        help="grid: of choice and int, every combination once; %(default)s",
    )
    parser.add_argument(
        "--pruner",
        choices=get_args(Pruner),
        default="median",
        help="median: stop a trial that is worse after an epoch than half of the others were (from the sixth trial on)",
    )
    parser.add_argument(
        "--jobs",
        type=at_least(1),
        default=1,
        metavar="N",
        help="so many trials at a time; 1. On a machine with GPUs each has one of its own",
    )
    parser.add_argument("--jobs-per-gpu", type=at_least(1), default=1, metavar="N", help="let N share a GPU; 1")
    parser.add_argument("--name", type=_name, help="of the study; by default made of what is searched")
    parser.add_argument(
        "--config-dir", type=folder, action="append", default=[], metavar="DIR", help="further choices for the groups"
    )
    return parser


def _name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", text):
        raise argparse.ArgumentTypeError(f"{text!r} must be letters, digits, dots, - and _: it names a folder")
    return text


def tune(argv: Sequence[str], *, start: Start = Child) -> int:
    """Search, and print the best settings. start: another way to start a run, for tests."""
    options = tune_parser().parse_intermixed_args(list(argv))
    settings = SearchSettings(
        space=options.space,
        overrides=options.overrides,
        compare=options.compare,
        n_trials=options.trials,
        metric=options.metric,
        sampler=options.sampler,
        pruner=options.pruner,
        jobs=options.jobs,
        devices=devices(options.jobs, options.jobs_per_gpu),
        name=options.name,
        extra=options.config_dir,
    )
    return search(settings, Local(settings.jobs, settings.devices, start))

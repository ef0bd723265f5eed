"""The options that choose a launcher, shared by the commands that run several jobs."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from hyplearn.cli.parser import Parser, at_least
from hyplearn.errors import ConfigError, nearest
from hyplearn.jobs.launcher import Launcher
from hyplearn.jobs.processes import Child, Local, Start, devices
from hyplearn.jobs.slurm import Submitit
from hyplearn.runs.creation import OUTPUTS

LAUNCHERS = ("local", "submitit", "submitit-local")
QUEUE_LOGS = OUTPUTS / "submitit"
# Short names of --slurm for the arguments of submitit.AutoExecutor; their values are whole numbers.
COUNTS = {"time": "timeout_min", "gpus": "gpus_per_node", "cpus": "cpus_per_task", "mem": "mem_gb"}
# Those of SLURM, which submitit takes as slurm_<name>.
TEXTS = ("partition", "qos", "account", "constraint", "comment", "exclude", "gres", "mail_type", "mail_user")


def add_launching(parser: Parser) -> None:
    """Add --launcher, --jobs, --jobs-per-gpu and --slurm."""
    parser.add_argument(
        "--launcher",
        choices=LAUNCHERS,
        default="local",
        help="submitit: SLURM; submitit-local: its stand-in on this machine; %(default)s",
    )
    add_jobs(parser)
    parser.add_argument(
        "--slurm",
        type=_slurm,
        default=None,
        metavar="LIST",
        help="what the queue is asked for: partition=gpu,time=720,gpus=1,cpus=8,mem=32 (minutes, GB)",
    )


def add_jobs(parser: Parser) -> None:
    """Add --jobs and --jobs-per-gpu."""
    parser.add_argument(
        "--jobs",
        type=at_least(1),
        default=None,
        metavar="N",
        help="so many runs at a time; 1. On a machine with GPUs each has one of its own",
    )
    parser.add_argument("--jobs-per-gpu", type=at_least(1), default=1, metavar="N", help="let N share a GPU; 1")


def _slurm(text: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in text.split(","):
        name, sign, value = part.partition("=")
        if not sign or not value or name not in (*COUNTS, *TEXTS):
            raise argparse.ArgumentTypeError(
                f"{part!r} must be name=value with a name of {', '.join((*COUNTS, *TEXTS))}.{nearest(name, COUNTS)}"
            )
        if name in COUNTS:
            found[COUNTS[name]] = at_least(1)(value)
        else:
            found[f"slurm_{name}"] = value
    return found


def chosen_launcher(options: argparse.Namespace, overrides: Sequence[str], start: Start = Child) -> Launcher:
    """The launcher that the options describe. Raises ConfigError for options that do not go together.

    start: another way to start a job on this machine, for tests.
    """
    if options.slurm is not None and options.launcher != "submitit":
        raise ConfigError("--slurm is for --launcher submitit: without a queue nothing reads it.")
    jobs = options.jobs or (100 if options.launcher == "submitit" else 1)
    if options.launcher.startswith("submitit"):
        return _queue(options.launcher, jobs, options.slurm or {})
    on_cpu = any(text in ("trainer=cpu", "trainer=debug", "trainer.accelerator=cpu") for text in overrides)
    places = [] if on_cpu else devices(jobs, options.jobs_per_gpu)
    return Local(jobs, places, start)


def _queue(name: str, jobs: int, slurm: Mapping[str, Any]) -> Submitit:
    if name == "submitit-local":
        return Submitit("local", QUEUE_LOGS, {"timeout_min": 24 * 60}, jobs)
    if "timeout_min" not in slurm:
        raise ConfigError("--launcher submitit needs the minutes a job may take: --slurm time=720 (see --help).")
    return Submitit("slurm", QUEUE_LOGS, {**slurm, "slurm_array_parallelism": jobs}, jobs)

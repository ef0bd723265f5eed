"""`hyplearn tune`: search settings by validation, with the same budget for each of what is compared."""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyplearn.cli.parser import Parser, at_least, folder
from hyplearn.errors import FAILED, OK, ConfigError, listing
from hyplearn.jobs.launcher import devices
from hyplearn.jobs.tuning.contestants import Contender, contenders, monitored, objective
from hyplearn.jobs.tuning.space import Dimension, read
from hyplearn.runs.atomic import write_json
from hyplearn.runs.lock import occupied
from hyplearn.runs.places import OUTPUTS

if TYPE_CHECKING:
    from hyplearn.jobs.tuning.scheduler import Search, Start
    from hyplearn.jobs.tuning.study import Study

STUDIES = OUTPUTS / "tune"
SAMPLERS, PRUNERS = ("tpe", "random", "grid"), ("median", "none")
TRIALS = 20
DEFINITION = "study.json"

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
        choices=SAMPLERS,
        default="tpe",
        help="grid: of choice and int, every combination once; %(default)s",
    )
    parser.add_argument(
        "--pruner",
        choices=PRUNERS,
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


def tune(argv: Sequence[str], *, start: Start | None = None) -> int:
    """Search, and print the best settings. start: another way to start a run, for tests."""
    options = tune_parser().parse_intermixed_args(list(argv))
    space = [read(text) for text in options.space]
    if not space:
        raise ConfigError(
            "hyplearn tune needs a key to search: --space 'loss.tau=log(0.02,1)' (see hyplearn tune --help)."
        )
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError("hyplearn tune needs optuna: pip install 'hyplearn[tune]'")
    extra: list[Path] = options.config_dir
    places = devices(options.jobs, options.jobs_per_gpu)
    found = contenders(options.overrides, space, options.compare, extra=extra)
    metric = objective(options.metric, options.overrides, found, extra)
    found = monitored(found, metric, extra)
    budget = _budget(options, found)
    _check_runs(found, extra)
    definition = _definition(options, found, space, metric)
    path = STUDIES / (options.name or _default_name(found, options.compare, definition))
    _check_definition(path, definition)
    path.mkdir(parents=True, exist_ok=True)
    with occupied(path):
        write_json(path / DEFINITION, definition)
        return _search(Plan(found, metric, budget, path, extra, definition), options, places, start)


def _budget(options: argparse.Namespace, found: Sequence[Contender]) -> dict[str, int]:
    """Trials of each contender. A grid is run as a whole."""
    if options.sampler != "grid":
        return {contender.label: options.trials or TRIALS for contender in found}
    sizes = {contender.label: len(contender.grid()) for contender in found}
    if options.trials is not None and options.trials < max(sizes.values()):
        raise ConfigError(
            f"--trials {options.trials}: the grid has {max(sizes.values())} combinations, and a part of it favours the "
            "first ones. Leave --trials out, or use --sampler random."
        )
    return sizes


def _check_runs(found: Sequence[Contender], extra: Sequence[Path]) -> None:
    """The parts of the first and the last run that could come up work together. Imports torch."""
    from hyplearn.cli.train import checked_specification
    from hyplearn.config.compose import compose

    for contender in found:
        for end in (0, -1):
            settings = {dimension.key: dimension.ends()[end] for dimension in contender.dimensions}
            line = contender.line(settings)
            try:
                checked_specification(compose(line, extra=extra), restores=True)
            except ConfigError as error:
                raise ConfigError(f"{' '.join(line)}: {error}") from error


def _definition(
    options: argparse.Namespace, found: Sequence[Contender], space: Sequence[Dimension], metric: str
) -> dict[str, Any]:
    """What may not change while a study grows."""
    return {
        "metric": metric,
        "space": sorted(dimension.text.replace(" ", "") for dimension in space),
        "sampler": options.sampler,
        "pruner": options.pruner,
        "contenders": {contender.label: contender.run for contender in found},
        "overrides": {contender.label: list(contender.overrides) for contender in found},
    }


def _default_name(found: Sequence[Contender], compared: str | None, definition: Mapping[str, Any]) -> str:
    """Readable, and another one for another search."""
    essential = {key: value for key, value in definition.items() if key != "overrides"}
    digest = hashlib.sha256(json.dumps(essential, sort_keys=True).encode()).hexdigest()[:6]
    label = found[0].label if compared is None else f"{compared.partition('=')[0]}s"
    return f"{label}_{digest}"


def _check_definition(path: Path, definition: Mapping[str, Any]) -> None:
    """A study of this name is this study."""
    if not (path / DEFINITION).is_file():
        return
    stored = json.loads((path / DEFINITION).read_text())
    differing = [key for key in definition if key != "overrides" and stored.get(key) != definition[key]]
    if differing:
        raise ConfigError(
            f"--name {path.name}: {path} holds a study that differs in {listing(differing)}. Choose another name, or "
            "leave --name out."
        )


@dataclass(frozen=True)
class Plan:
    """A search that is about to run. budget: trials of each contender, by label. path: the folder of the study."""

    found: Sequence[Contender]
    metric: str
    budget: Mapping[str, int]
    path: Path
    extra: Sequence[Path]
    definition: Mapping[str, Any]


def _search(plan: Plan, options: argparse.Namespace, places: Sequence[str], start: Start | None) -> int:
    """Run what is left of the budget, and write and print what was found."""
    from hyplearn.console.board import Board
    from hyplearn.jobs.tuning import results as tuned
    from hyplearn.jobs.tuning import scheduler as search
    from hyplearn.jobs.tuning.study import Study, storage

    with storage(plan.path / "study.db") as opened:
        studies = [
            Study(contender, opened, metric=plan.metric, sampler=options.sampler, pruner=options.pruner)
            for contender in plan.found
        ]
        again = sum(study.recover() for study in studies)
        with Board() as board:
            work = search.Search(
                studies,
                metric=plan.metric,
                folder=plan.path,
                budget=plan.budget,
                board=board,
                jobs=options.jobs,
                devices=places,
                extra=plan.extra,
                start=start or search.start,
                saved=lambda: tuned.write_trials(studies, plan.path, plan.metric),
            )
            _announce(work, again)
            status = work.run()
        return _finish(plan, studies, status)


def _announce(work: Search, again: int) -> None:
    done = sum(study.counted() for study in work.studies)
    earlier = f", {done} finished before" if done else ""
    taken_up = f", {again} of them taken up again" if again else ""
    shared = ", ".join(f"{work.budget[study.contender.label]} of {study.contender.label}" for study in work.studies)
    work.board.say(f"study {work.folder}: {work.metric} of {shared}{earlier}; {work.total} trials to run{taken_up}")


def _finish(plan: Plan, studies: Sequence[Study], status: int) -> int:
    """Write the files, print the table, and return the exit status."""
    from hyplearn.jobs.tuning import results as tuned

    found = tuned.results(studies, plan.path, plan.metric, plan.extra)
    tuned.write_trials(studies, plan.path, plan.metric)
    tuned.write_summary(found, plan.path, plan.definition)
    tuned.print_results(found, plan.path, plan.metric, plan.extra)
    return status or (OK if all(result.good for result in found) else FAILED)

"""A training by Hydra's own runtime, with every mistake told in one message.

Hydra composes the configuration, makes the directory and runs the job. Four things of ours hang on it: `SingleRun`
checks a run before its directory is made, the sweeper and launcher of `hydra_plugins` check and run the jobs of a
multirun, `explained` says what was meant where Hydra refuses, and `main` turns what is raised into an exit status.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from hyplearn.cli.next_steps import next_steps
from hyplearn.config import resolvers
from hyplearn.config.compose import Composed, change, compose, composed, load, parse, task_overrides
from hyplearn.config.explain import explained, of_command_line, refuse_choices, searched
from hyplearn.config.folders import ROOT, check_choices, check_files, config_dir
from hyplearn.config.process import as_typed, read_by_hydra
from hyplearn.config.specification import checked_specification
from hyplearn.data.errors import DatasetError
from hyplearn.errors import FAILED, OK, ConfigError, JobsFailed, NonFiniteLoss
from hyplearn.runs.creation import OUTPUTS, claim, run_name
from hyplearn.runs.directory import RunDirectory
from hyplearn.runs.finding import reopen, to_continue, unfinished
from hyplearn.runs.keys import CONTINUED, within
from hyplearn.runs.latest import followed, mark_latest
from hyplearn.runs.lock import occupied
from hyplearn.runs.rank import first_process
from hyplearn.runs.writing import writing

if TYPE_CHECKING:
    from hyplearn.training.fit import TrainSpec

resolvers.register()  # here, so that the worker processes of other launchers have them, too


class Refused(BaseException):
    """Carries an error out of Hydra, which makes a warning of it in a callback and prints a text before it in a job."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        super().__init__(str(error))


class Plan(NamedTuple):
    """What to run; where and from which checkpoint, if it continues a run."""

    composed: Composed
    run_dir: Path | None = None
    checkpoint: Path | None = None


class Prepared(NamedTuple):
    """A plan whose parts were found to work together."""

    plan: Plan
    spec: TrainSpec


def run(
    flags: Sequence[str], overrides: Sequence[str], config_dirs: Sequence[Path], *, trust: Sequence[str] = ()
) -> int:
    """Let Hydra run a command line and return its exit status. config_dirs: those that the command line names.

    trust: packages beside hyplearn whose parts a run to be continued may name.
    """
    _trusted[:] = trust
    check_files([Path(value) for flag, value in itertools.pairwise(flags) if flag == "--config-path"])
    while True:
        try:
            folders = [*config_dirs, *searched(overrides)]
            check_choices(folders)
            refuse_choices(overrides, folders)
            return _run([*flags, *overrides])
        except Exception as error:  # noqa: PERF203 - a second time where a sign is missing
            if not of_command_line(error):
                raise
            overrides = explained(error, overrides, lambda line: load(line, config_dirs), config_dirs)


def _run(arguments: Sequence[str]) -> int:
    start = hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=ROOT)(job)
    try:
        with read_by_hydra(arguments):
            start()
    except Refused as refused:
        raise refused.error from refused.error.__cause__
    except JobsFailed:  # the table of the sweep has said so
        return FAILED
    finally:
        HydraConfig.instance().cfg = None  # what this process does next is no job of Hydra's
    return OK


def show(overrides: Sequence[str], *, extra: Sequence[Path] = ()) -> int:
    """Check and print the configuration that `overrides` describe; run nothing and write nothing."""
    config = compose(overrides, extra=extra)
    checked_specification(config, restores=True)  # nothing is trained: no weights are fetched
    print(OmegaConf.to_yaml(OmegaConf.create(config.config)), end="")
    return OK


class SingleRun(Callback):
    """Checks what Hydra composed for a single run before its directory is made, and names the directory."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        HydraConfig.instance().set_config(config)
        try:
            with as_typed():
                prepared = prepare(config, config.hydra)
                run_dir = _directory(config, prepared.plan)
            _prepared[:] = [prepared]
        except Exception as error:
            raise Refused(error) from error
        with read_write(config.hydra), open_dict(config.hydra):
            config.hydra.run.dir = str(run_dir)
            if prepared.plan.run_dir is not None or not first_process():
                config.hydra.output_subdir = None  # .hydra is that of the first session, and of the first process


# Of the command line, which Hydra hands to no callback: the packages that --trust names.
_trusted: list[str] = []
# Of a single run, between its check and its job.
_prepared: list[Prepared] = []


def prepare(config: DictConfig, own: Any) -> Prepared:
    """Check everything about a run that can be told before data are read. own: Hydra's node. Raises ConfigError."""
    plan = _plan(composed(config, own), task_overrides(own))
    spec = checked_specification(plan.composed, restores=plan.checkpoint is not None)
    from hyplearn.training.loggers import check_wandb_key

    check_wandb_key(spec.logger)
    return Prepared(plan, spec)


def _directory(config: DictConfig, plan: Plan) -> Path:
    """Make the directory of a run, or take the one that it continues.

    Raises ConfigError for one that is not empty, that another process holds, or in which nothing can be written: Hydra
    writes there before the run does.
    """
    if plan.run_dir is not None:
        with writing(plan.run_dir):
            return plan.run_dir
    path = Path(str(config.hydra.run.dir))
    if first_process():
        claimed = claim(path)
        with occupied(claimed):
            return claimed
    named = plan.composed.config["output_dir"] or any("hydra.run.dir=" in text for text in config.hydra.overrides.hydra)
    if not named and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("processes started side by side must share a directory: give all the same output_dir=...")
    return path


def job(config: DictConfig) -> float | None:
    """Train one configuration, as Hydra calls it; returns the metric that chose the weights.

    A launcher that is not ours calls it in a process where nothing was checked yet.
    """
    own = HydraConfig.get()
    try:
        with as_typed():
            prepared = _prepared.pop() if _prepared else prepare(config, own)
            run_dir = prepared.plan.run_dir or _output_dir()
            value = _fit(prepared, run_dir)
            if own.mode is RunMode.RUN and first_process() and prepared.spec.trainer.progress != "none":
                print(next_steps(run_dir, retrieval=prepared.spec.retrieval), flush=True)
            return value
    except (ConfigError, DatasetError, NonFiniteLoss) as error:
        if own.mode is RunMode.MULTIRUN:  # a launcher that is not ours takes it down
            raise
        raise Refused(error) from error  # which Hydra prints nothing about: the message says it all


def _output_dir() -> Path:
    """The directory that Hydra made for this job, as it was written: relative where the process stands above it."""
    path = Path(HydraConfig.get().runtime.output_dir)
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) and path != here else path


def _fit(prepared: Prepared, run_dir: Path) -> float | None:
    from hyplearn.training.fit import fit

    plan, spec = prepared
    config = {**plan.composed.config, "output_dir": str(run_dir), "resume": None}
    if first_process():
        mark_latest(run_dir, OUTPUTS)
    try:
        with occupied(run_dir) if first_process() else nullcontext():
            results = fit(replace(spec, config=config, run_dir=run_dir, resume=plan.checkpoint))
    except ValueError as error:
        if spec.datamodule.fingerprint["counts"] or isinstance(error, DatasetError):
            raise
        raise ConfigError(str(error)) from error  # before data are read: settings and checkpoint do not go together
    value = results.get("metrics", {}).get(spec.callbacks.monitored(retrieval=spec.retrieval))
    return None if value is None else float(value)


def _plan(found: Composed, typed: Sequence[str]) -> Plan:
    """A new run, unless `resume` says otherwise."""
    resume = {parsed.key_or_group: parsed.value() for parsed in map(parse, typed)}.get("resume")
    if not (resume is None or isinstance(resume, str)):
        raise ConfigError(f"resume={resume}: expected auto, a run directory or a checkpoint.")
    if resume not in (None, "auto"):
        path = followed(Path(resume))
        run, checkpoint = RunDirectory.locate(path), to_continue(path)
        rest = [text for text in typed if parse(text).key_or_group != "resume"]
        found = change(
            run.config, rest, allowed=lambda key: within(key, CONTINUED), file=run.config_file, trust=_trusted
        )
        return Plan(found, run.path, checkpoint)
    resume = found.config["resume"]  # an experiment may say auto, too
    if resume is None:
        return Plan(found)
    if resume != "auto":
        raise ConfigError(f"resume={resume} in a configuration file: name the run to continue on the command line.")
    output_dir = found.config["output_dir"]
    if output_dir is not None:
        run_or_none = reopen(Path(output_dir), found.config)
    else:
        run_or_none = unfinished(OUTPUTS / run_name(found.choices), found.config)
    return Plan(found) if run_or_none is None else Plan(found, run_or_none.path, run_or_none.last_checkpoint)

"""`hyplearn train`: compose, check, make, fit. No maths."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from omegaconf import OmegaConf

from hyplearn.config.compose import Composed, change, compose, parse
from hyplearn.data.errors import DatasetError
from hyplearn.errors import OK, ConfigError
from hyplearn.runs.creation import OUTPUTS, new_run, run_name
from hyplearn.runs.directory import RunDirectory
from hyplearn.runs.finding import reopen, to_continue, unfinished
from hyplearn.runs.keys import CONTINUED, within
from hyplearn.runs.lock import occupied
from hyplearn.runs.rank import first_process

if TYPE_CHECKING:
    from hyplearn.training.fit import TrainSpec


class Plan(NamedTuple):
    """What to run; where and from which checkpoint, if it continues a run."""

    composed: Composed
    run_dir: Path | None = None
    checkpoint: Path | None = None


def train(overrides: Sequence[str], *, extra: Sequence[Path] = ()) -> int:
    """Train the configuration that `overrides` describe, or continue the run that resume=... names."""
    plan = _plan(overrides, extra)
    spec = checked_specification(plan.composed, restores=plan.checkpoint is not None)
    from hyplearn.training.fit import fit

    config = plan.composed.config
    run_dir = plan.run_dir
    if run_dir is None:
        run_dir = new_run(config["output_dir"], run_name(plan.composed.choices), config["seed"]).path
    config = {**config, "output_dir": str(run_dir), "resume": None}
    try:
        with occupied(run_dir) if first_process() else nullcontext():
            fit(replace(spec, config=config, run_dir=run_dir, resume=plan.checkpoint))
    except ValueError as error:
        if spec.datamodule.fingerprint["counts"] or isinstance(error, DatasetError):
            raise
        raise ConfigError(str(error)) from error  # before data are read: settings and checkpoint do not go together
    return OK


def show(overrides: Sequence[str], *, extra: Sequence[Path] = ()) -> int:
    """Check and print the configuration that `overrides` describe; run nothing and write nothing."""
    composed = _plan(overrides, extra).composed
    checked_specification(composed, restores=True)  # nothing is trained: no weights are fetched
    print(OmegaConf.to_yaml(OmegaConf.create(composed.config)), end="")
    return OK


def checked_specification(composed: Composed, *, restores: bool = False) -> TrainSpec:
    """The parts of a run, found to work together. Raises ConfigError. restores: see `build.specification`.

    Imports torch and Lightning only now: the mistakes that `compose` finds are told at once.
    """
    from hyplearn.config.build import specification
    from hyplearn.config.compatibility import check

    spec = specification(composed.config, restores=restores)
    check(composed, spec)
    return spec


def _plan(overrides: Sequence[str], extra: Sequence[Path]) -> Plan:
    """A new run, unless `resume` says otherwise."""
    typed = {parsed.key_or_group: parsed.value() for parsed in map(parse, overrides)}
    resume = typed.get("resume")
    if not (resume is None or isinstance(resume, str)):
        raise ConfigError(f"resume={resume}: expected auto, a run directory or a checkpoint.")
    if resume not in (None, "auto"):
        run, checkpoint = RunDirectory.locate(Path(resume)), to_continue(Path(resume))
        rest = [text for text in overrides if parse(text).key_or_group != "resume"]
        return Plan(change(run.config, rest, allowed=lambda key: within(key, CONTINUED)), run.path, checkpoint)
    composed = compose(overrides, extra=extra)
    resume = composed.config["resume"]  # an experiment may say auto, too
    if resume is None:
        return Plan(composed)
    if resume != "auto":
        raise ConfigError(f"resume={resume} in a configuration file: name the run to continue on the command line.")
    output_dir = composed.config["output_dir"]
    if output_dir is not None:
        found = reopen(Path(output_dir), composed.config)
    else:
        found = unfinished(OUTPUTS / run_name(composed.choices), composed.config)
    return Plan(composed) if found is None else Plan(composed, found.path, found.last_checkpoint)

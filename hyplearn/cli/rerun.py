"""`hyplearn rerun`: a finished run once more, in a new directory, and whether the same comes out."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from hyplearn.cli.parser import Parser
from hyplearn.config.compose import Composed, change, parse
from hyplearn.errors import FAILED, OK, ConfigError
from hyplearn.runs.directory import RunDirectory
from hyplearn.runs.keys import REPEATED, within
from hyplearn.runs.lock import occupied
from hyplearn.runs.writing import writing

FIXED = ("resume", "choices")


DESCRIPTION = """
Train the configuration of a finished run (its config.yaml) anew, in a new directory below outputs/,
test it once and say whether metrics, curvatures and weights are equal to the last bit, or what differs
by how much. Before that, the commit, the versions of the packages and the machine are compared with
those that the run recorded."""
REMARKS = """
A key=value changes a setting: then the numbers are of another run, and are shown side by side all the
same. A rerun can be stopped and continued as every run: hyplearn train resume=<its directory>. On a GPU
bits may differ from one run to the next; trainer.deterministic=true, in both, forbids what makes them
differ."""


def rerun_parser() -> Parser:
    """Make the parser of the command."""
    parser = Parser(
        "rerun",
        DESCRIPTION,
        needs="a run directory",
        examples="""
hyplearn rerun outputs/hecnn_r18_digits/2025-01-31_12-00-00_seed1_ab12
hyplearn rerun outputs/... --any-commit trainer.accelerator=cpu output_dir=again
hyplearn rerun outputs/... seed=2""",
        more=REMARKS,
    )
    parser.add_argument("run", type=Path, help="the directory of a finished run")
    parser.add_argument("overrides", nargs="*", complete="words", help="key=value of what is to be changed")
    parser.add_argument(
        "--any-commit", action="store_true", help="run although commit or versions are others; what differs is said"
    )
    parser.add_trust()
    parser.add_argument("--exact", action="store_true", help="exit status 1 unless everything is equal")
    parser.add_argument(
        "--compare",
        type=Path,
        metavar="DIR",
        complete="directory",
        help="train nothing: compare with the run in DIR, as after a rerun that was stopped and continued",
    )
    return parser


def rerun(argv: Sequence[str]) -> int:
    """Repeat a run and compare. Raises ConfigError, before anything is trained, where code or versions are others."""
    options = rerun_parser().parse_intermixed_args(list(argv))
    if "=" in str(options.run) and not options.run.exists():
        raise ConfigError("hyplearn rerun needs a run directory (see hyplearn rerun --help).")
    original = _finished(options.run)
    if options.compare is not None:
        if options.overrides:
            raise ConfigError(f"{options.overrides[0]} would be ignored: --compare trains nothing.")
        return _compare(original, _finished(options.compare), changed=(), exact=options.exact)
    composed = _composed(original, options.overrides, options.trust)
    _check_code(original, any_commit=options.any_commit)
    repeated = _fit(composed)
    changed = [text for text in options.overrides if not within(parse(text).key_or_group, REPEATED)]
    return _compare(original, repeated, changed=changed, exact=options.exact)


def _finished(path: Path) -> RunDirectory:
    """A run that came to its end. Raises ConfigError."""
    run = RunDirectory.locate(path)
    if not path.is_dir():
        raise ConfigError(f"{path} is a checkpoint: name its run directory, {run.path}.")
    if not run.finished:
        raise ConfigError(
            f"{run.path} did not come to its end: there is nothing to compare with. Continue it with hyplearn train "
            f"resume={run.path}."
        )
    return run


def _composed(original: RunDirectory, overrides: Sequence[str], trust: Sequence[str]) -> Composed:
    stored = {**original.config, "output_dir": None, "resume": None}
    return change(
        stored,
        overrides,
        allowed=lambda key: key.split(".")[0] not in FIXED,
        file=original.config_file,
        trust=trust,
    )


def _check_code(original: RunDirectory, *, any_commit: bool) -> None:
    """Raise ConfigError where the code or versions are others, unless any will do; say what the machine has other."""
    from hyplearn.inference.repetition import code_differences, machine_differences
    from hyplearn.training.provenance import hardware, source, versions

    manifest = original.manifest
    if not manifest:
        raise ConfigError(
            f"{original.path} has no {original.manifest_file.name}: nobody knows with which code and versions it ran."
        )
    found = code_differences(manifest, source(), versions())
    lines = "\n".join(f"  {fact}" for fact in found)
    if found and not any_commit:
        raise ConfigError(
            f"code or versions are not those of {original.path}:\n{lines}\n"
            "Check out the commit and install the versions, or run all the same with --any-commit."
        )
    if found:
        print(f"other code or versions than those of {original.path}:\n{lines}", flush=True)
    machine = machine_differences(manifest, hardware())
    if machine:
        print("another machine, which may move the last bits:", flush=True)
        print("\n".join(f"  {fact}" for fact in machine), flush=True)


def _fit(composed: Composed) -> RunDirectory:
    """Train as `hyplearn train` does; returns the run directory."""
    from hyplearn.config.specification import checked_specification
    from hyplearn.runs.creation import new_run, run_name
    from hyplearn.runs.rank import first_process

    spec = checked_specification(composed)
    from hyplearn.training.fit import fit
    from hyplearn.training.loggers import check_wandb_key

    check_wandb_key(spec.logger)
    config = composed.config
    run = new_run(config["output_dir"], run_name(composed.choices), config["seed"])
    config = {**config, "output_dir": str(run.path), "resume": None}
    with occupied(run.path) if first_process() else nullcontext():
        fit(replace(spec, config=config, run_dir=run.path))
    return RunDirectory(run.path)


def _compare(before: RunDirectory, now: RunDirectory, *, changed: Sequence[str], exact: bool) -> int:
    """Print and store how the two differ."""
    from hyplearn.inference.repetition import data_differences, number_differences, weight_difference

    count, numbers = number_differences(before.results, now.results)
    data = data_differences(before.results, now.results)
    checkpoints = [run.tested_checkpoint or run.last_file for run in (before, now)]
    missing = [path for path in checkpoints if not path.exists()]
    weights = None if missing else weight_difference(*checkpoints)
    equal = not (numbers or data or missing) and weights == 0
    facts = {
        "original": str(before.path),
        "rerun": str(now.path),
        "changed": list(changed),
        "equal": equal,
        "numbers_compared": count,
        "differences": [fact._asdict() for fact in (*data, *numbers)],
        "largest_weight_difference": weights,
    }
    with writing(now.path):
        now.write_comparison(facts)
    print(f"\n{before.path} and its rerun {now.path}" + (f", with {' '.join(changed)}" if changed else ""))
    print("\n".join(_lines(count, numbers, data, missing, weights)))
    return FAILED if exact and not equal else OK


def _lines(
    count: int, numbers: Sequence[Any], data: Sequence[Any], missing: Sequence[Path], weights: float | None
) -> list[str]:
    """What came out, for people."""
    lines = [f"other data, {fact}" for fact in data]
    if not numbers:
        lines.append(f"all {count} metrics and curvatures are equal to the last bit")
    else:
        width = max(len(fact.name) for fact in numbers)
        lines.append(f"{len(numbers)} of {count} metrics and curvatures differ:")
        lines += [f"  {fact.name:<{width}}  {_numbers(fact)}" for fact in numbers]
    if missing:
        lines.append(f"weights not compared: {missing[0]} is not there")
    elif weights is None:
        lines.append("weights not compared: the models have other parameters")
    else:
        lines.append(
            "all weights are equal to the last bit" if weights == 0 else f"weights differ by up to {weights:.3g}"
        )
    return lines


def _numbers(fact: Any) -> str:
    """Before, now and the difference, where both are numbers."""
    before, now = fact.before, fact.now
    if not all(isinstance(value, (int, float)) for value in (before, now)):
        return f"{before} then, {now} now"
    return f"{before:.6g} then, {now:.6g} now, difference {now - before:+.3g}"

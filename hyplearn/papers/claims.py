"""The claims of the papers (claims.yaml), each answered by paired runs over shared seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from hyplearn.papers.measured import Group, Measured, facts, value
from hyplearn.papers.statistics import Paired, Spread, holm, paired, spread
from hyplearn.runs.directory import RunDirectory

FILE = "claims.yaml"
YES, NO, UNCLEAR, NOT_RUN = "yes", "no", "unclear", "not run"
REQUIRED = ("key", "question", "paper", "data", "metric", "larger_is_better", "margin", "arms", "comparisons")
OPTIONAL = ("note",)


@dataclass(frozen=True)
class Arm:
    """One side of a comparison. experiments: several are settings, of which `select` picks one for each seed."""

    label: str
    experiments: tuple[str, ...]
    select: str | None = None


@dataclass(frozen=True)
class Claim:
    """comparisons: (A, B) says that A is above B by more than margin; with a negative margin, not below by more."""

    key: str
    question: str
    paper: str
    data: str
    metric: str
    larger_is_better: bool
    margin: float
    arms: Mapping[str, Arm]
    comparisons: tuple[tuple[str, str], ...]
    note: str | None = None


@dataclass(frozen=True)
class Side:
    """What one arm of a comparison measured: values and runs by seed."""

    arm: Arm
    values: Mapping[int, float]
    runs: Mapping[int, RunDirectory]
    chosen: Mapping[int, str]
    diverged: tuple[RunDirectory, ...] = ()
    apart: tuple[Group, ...] = ()
    without: tuple[int, ...] = ()

    @property
    def spread(self) -> Spread | None:
        return spread(list(self.values.values()))


@dataclass(frozen=True)
class Comparison:
    """first and second are labels. result: the sign turned where smaller is better; None without shared seeds."""

    first: str
    second: str
    result: Paired | None
    answer: str
    corrected: float | None = None


@dataclass(frozen=True)
class Answered:
    claim: Claim
    sides: Mapping[str, Side]
    comparisons: tuple[Comparison, ...]

    @property
    def answer(self) -> str:
        return overall([comparison.answer for comparison in self.comparisons])


def read(path: Path | None = None) -> tuple[Claim, ...]:
    """The claims of a file, by default those of the package. Raises ValueError naming the claim and what is wrong."""
    text = path.read_text() if path else resources.files("hyplearn.papers").joinpath(FILE).read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    if not isinstance(content, dict) or not isinstance(content.get("claims"), list):
        raise ValueError(f"{path or FILE} must hold a list under `claims`")
    return tuple(_claim(record, number) for number, record in enumerate(content["claims"], 1))


def answer_all(claims: Sequence[Claim], measured: Callable[[str], Measured]) -> tuple[Answered, ...]:
    """Every claim with its answer. measured: the runs of an experiment. Holm's correction spans all comparisons."""
    answered = [_answer(claim, measured) for claim in claims]
    corrected = iter(holm([c.result.p if c.result else None for one in answered for c in one.comparisons]))
    return tuple(
        replace(one, comparisons=tuple(replace(c, corrected=next(corrected)) for c in one.comparisons))
        for one in answered
    )


def judge(result: Paired | None, margin: float) -> str:
    """yes, no or unclear by where the 95 % interval lies; "not run" without shared seeds."""
    if result is None:
        return NOT_RUN
    if result.low is None or result.high is None:
        return UNCLEAR
    if result.low > margin:
        return YES
    if margin < 0:
        return NO if result.high < margin else UNCLEAR
    inside = margin > 0 and result.low >= -margin and result.high <= margin
    return NO if result.high < -margin or inside else UNCLEAR


def overall(answers: Sequence[str]) -> str:
    """One answer of several: all alike, or mixed, or what is shown of a part."""
    kinds = set(answers)
    if len(kinds) == 1:
        return answers[0]
    if {YES, NO} <= kinds:
        return "mixed"
    if YES in kinds:
        return "yes in part"
    return "no in part" if NO in kinds else UNCLEAR


def _answer(claim: Claim, measured: Callable[[str], Measured]) -> Answered:
    sides = {label: _side(arm, claim.metric, measured) for label, arm in claim.arms.items()}
    comparisons = tuple(_compare(claim, sides[a], sides[b]) for a, b in claim.comparisons)
    return Answered(claim, sides, comparisons)


def _compare(claim: Claim, first: Side, second: Side) -> Comparison:
    sign = 1.0 if claim.larger_is_better else -1.0
    shared = sorted(set(first.values) & set(second.values))
    alike = [seed for seed in shared if _data(first, seed) == _data(second, seed)]
    result = paired([sign * (first.values[seed] - second.values[seed]) for seed in alike], null=claim.margin)
    return Comparison(first.arm.label, second.arm.label, result, judge(result, claim.margin))


def _data(side: Side, seed: int) -> str:
    return facts(side.runs[seed]).data


def _side(arm: Arm, metric: str, measured: Callable[[str], Measured]) -> Side:
    found = {name: measured(name) for name in arm.experiments}
    mains = {name: one.main.runs if one.main else {} for name, one in found.items()}
    every = set.intersection(*(set(runs) for runs in mains.values()))  # an equal budget for every seed
    chosen = {seed: _best(mains, seed, arm.select) for seed in sorted(every)}
    runs = {seed: mains[name][seed] for seed, name in chosen.items()}
    values = {seed: number for seed, run in runs.items() if (number := value(run, metric)) is not None}
    return Side(
        arm=arm,
        values=values,
        runs=runs,
        chosen=chosen,
        diverged=tuple(run for one in found.values() for run in one.diverged),
        apart=tuple(group for one in found.values() for group in one.groups[1:]),
        without=tuple(seed for seed in runs if seed not in values),
    )


def _best(mains: Mapping[str, Mapping[int, RunDirectory]], seed: int, select: str | None) -> str:
    """Choose of the settings of a seed the one with the best validation metric, the first of equals."""
    if select is None:
        return next(iter(mains))
    return max(mains, key=lambda name: mains[name][seed].metrics.get(select, float("-inf")))


def _claim(record: Any, number: int) -> Claim:
    if not isinstance(record, dict):
        raise ValueError(f"claim {number} must be a mapping")
    where = f"claim {number} ({record.get('key', 'without key')})"
    missing = [name for name in REQUIRED if name not in record]
    unknown = [name for name in record if name not in (*REQUIRED, *OPTIONAL)]
    if missing or unknown:
        raise ValueError(f"{where}: " + "; ".join(_named(missing, "missing") + _named(unknown, "unknown")))
    arms = {label: _arm(str(label), content, where) for label, content in record["arms"].items()}
    pairs = tuple((str(a), str(b)) for a, b in record["comparisons"])
    for label in {label for pair in pairs for label in pair}:
        if label not in arms:
            raise ValueError(f"{where}: comparisons name {label!r}, arms are {', '.join(map(repr, arms))}")
    if not isinstance(record["larger_is_better"], bool):
        raise ValueError(f"{where}: larger_is_better must be true or false, not {record['larger_is_better']!r}")
    fixed = {name: str(record[name]) for name in ("key", "question", "paper", "data", "metric")}
    better, margin = record["larger_is_better"], float(record["margin"])
    return Claim(**fixed, larger_is_better=better, margin=margin, arms=arms, comparisons=pairs, note=record.get("note"))


def _named(names: Sequence[str], what: str) -> list[str]:
    return [f"{what} {', '.join(map(str, names))}"] if names else []


def _arm(label: str, content: Any, where: str) -> Arm:
    if isinstance(content, str):
        return Arm(label, (content,))
    if not isinstance(content, dict) or set(content) != {"best_of", "select"}:
        raise ValueError(f"{where}: arm {label!r} must be an experiment, or have best_of and select")
    if not str(content["select"]).startswith("val/"):
        raise ValueError(f"{where}: arm {label!r} selects by {content['select']}; only val/ metrics may choose")
    return Arm(label, tuple(content["best_of"]), content["select"])

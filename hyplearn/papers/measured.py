"""What runs measured: one value a run, and runs that may be averaged kept apart from those that may not."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hyplearn.papers.statistics import Spread, spread
from hyplearn.runs.directory import RunDirectory

NON_FINITE = "NonFiniteLoss"
SELECTED_ON_TEST = "SELECTED ON TEST"


@dataclass(frozen=True)
class Facts:
    """What runs must share to be averaged. data: twelve digits of the hash of images and splits. rule: of selection."""

    data: str
    rule: str


@dataclass(frozen=True)
class Group:
    """Finished runs, one a seed, that share their facts."""

    facts: Facts
    runs: Mapping[int, RunDirectory]

    def values(self, metric: str) -> dict[int, float]:
        """Return values by seed; runs without the metric are left out."""
        found = {seed: value(run, metric) for seed, run in self.runs.items()}
        return {seed: number for seed, number in found.items() if number is not None}

    def spread(self, metric: str) -> Spread | None:
        return spread(list(self.values(metric).values()))


@dataclass(frozen=True)
class Measured:
    """The runs of one cell. groups: the largest first. others: not finished.

    smoke: how many runs on stand-in data, which count for nothing.
    """

    groups: tuple[Group, ...] = ()
    diverged: tuple[RunDirectory, ...] = ()
    others: tuple[RunDirectory, ...] = ()
    smoke: int = 0

    @property
    def main(self) -> Group | None:
        return self.groups[0] if self.groups else None


def collect(runs: Iterable[RunDirectory]) -> dict[str, Measured]:
    """Runs by cell. Of several runs with one id a finished one counts, of several finished ones the newest."""
    by_cell: dict[str, list[RunDirectory]] = defaultdict(list)
    for run in runs:
        if not run.smoke:
            by_cell[run.cell].append(run)
    return {cell: _measured(same) for cell, same in by_cell.items()}


def smoke_runs(runs: Iterable[RunDirectory]) -> Counter[str]:
    """Count how many finished smoke runs each experiment has. Their data, so their ids, are not those of the cell."""
    return Counter(str(run.config.get("choices", {}).get("experiment")) for run in runs if run.smoke and run.finished)


def value(run: RunDirectory, metric: str) -> float | None:
    """A metric of a run, None where the run has none.

    `test/top1` and its like, `results.<key>`, `curvature/<part>`; `epochs_to:<percent>`, the first epoch whose
    validation top-1 reaches it; `top1_within:<seconds>`, the best validation top-1 of the epochs that were trained in
    that time, without what validation took; `train/loss`, the mean loss of the last epoch.
    """
    name, _, argument = metric.partition(":")
    if name == "epochs_to":
        return next((row["epoch"] for row in run.history if row.get("val/top1", -1.0) >= float(argument)), None)
    if name == "top1_within":
        return _top1_within(run.history, float(argument))
    if metric == "train/loss":
        return _number(run.history[-1].get(metric)) if run.history else None
    if metric.startswith("results."):
        return _number(run.results.get(metric.removeprefix("results.")))
    if metric.startswith("curvature/"):
        return _number(run.results.get("curvature", {}).get(metric.removeprefix("curvature/")))
    return _number(run.metrics.get(metric))


def _top1_within(history: Sequence[Mapping[str, float]], seconds: float) -> float | None:
    ends = itertools.accumulate(row["seconds"] for row in history)
    return max((row["val/top1"] for row, end in zip(history, ends, strict=True) if end <= seconds), default=None)


def facts(run: RunDirectory) -> Facts:
    dataset = run.results.get("dataset") or {}
    text = json.dumps([dataset.get("sha256"), dataset.get("splits")], sort_keys=True)
    rule = (run.results.get("selection") or {}).get("rule") or "unknown"
    return Facts(f"{dataset.get('name')} {hashlib.sha256(text.encode()).hexdigest()[:12]}", rule)


def commits(run: RunDirectory) -> list[str]:
    """Commits of each session: twelve digits, and a mark where files differed from the commit."""
    found = [session.get("source") or {} for session in run.manifest.get("sessions", [])]
    return list(dict.fromkeys(_commit(source) for source in found)) or ["unknown"]


def seeds_text(runs: Sequence[RunDirectory]) -> str:
    """`<cell>_seed{1-5}`: the ids of runs of one cell, folded."""
    seeds: dict[str, list[int]] = defaultdict(list)
    for run in runs:
        seeds[run.cell].append(run.seed)
    return ", ".join(f"{cell}_seed{ranges(numbers)}" for cell, numbers in seeds.items())


def ranges(numbers: Iterable[int]) -> str:
    """`3` of one number, `{1-3,7}` of several."""
    ordered = sorted(set(numbers))
    parts: list[list[int]] = []
    for number in ordered:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    texts = [str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts]
    return texts[0] if len(ordered) == 1 else "{" + ",".join(texts) + "}"


def _measured(runs: Sequence[RunDirectory]) -> Measured:
    groups: dict[Facts, dict[int, RunDirectory]] = defaultdict(dict)
    for run in sorted((run for run in runs if run.finished), key=_age):
        groups[facts(run)][run.seed] = run
    have = {seed for group in groups.values() for seed in group}
    rest = {run.seed: run for run in sorted(runs, key=_age) if run.seed not in have}
    ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0].data, item[0].rule))
    return Measured(
        groups=tuple(Group(shared, dict(sorted(members.items()))) for shared, members in ordered),
        diverged=tuple(run for _, run in sorted(rest.items()) if _diverged(run)),
        others=tuple(run for _, run in sorted(rest.items()) if not _diverged(run)),
    )


def _age(run: RunDirectory) -> float:
    return (run.config_file).stat().st_mtime


def _diverged(run: RunDirectory) -> bool:
    """Whether a number of the run was not finite; before there was a status for it, the error said so."""
    status = run.results.get("status")
    return status == "diverged" or (status == "failed" and str(run.results.get("error")).startswith(NON_FINITE))


def _number(found: object) -> float | None:
    return float(found) if isinstance(found, (int, float)) else None


def _commit(source: Mapping[str, object]) -> str:
    commit = source.get("commit")
    return f"{str(commit)[:12] if commit else 'unknown'}{' (dirty)' if source.get('dirty') else ''}"

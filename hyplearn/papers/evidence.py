"""The report of the claims: answers first, then what each rests on, down to the run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from hyplearn.papers.claims import Answered, Claim, Comparison, Side
from hyplearn.papers.costs import costs
from hyplearn.papers.measured import SELECTED_ON_TEST, commits, facts, seeds_text, value
from hyplearn.papers.render import Block, Heading, Paragraph, Table
from hyplearn.papers.statistics import Spread, spread
from hyplearn.runs.directory import RunDirectory

ALPHA = 0.05
RULES = (
    "A comparison is paired: the difference of two arms over the seeds they share, with its 95 % interval by Student's "
    "t. yes: the whole interval lies above the margin. no: it lies below minus the margin, so that the opposite is "
    "shown, or, with a margin above 0, inside plus and minus the margin. unclear: neither. With a negative margin the "
    "claim is 'not worse by more': yes if the interval lies above the margin, no if below. Where smaller is better the "
    "sign is turned, so a positive difference always speaks for the claim. A claim is answered yes or no if all its "
    "comparisons are, mixed if some say yes and some no, 'in part' if the others are unclear.",
    "p tests that the difference is the margin (paired t-test, two-sided); p Holm is corrected for all p values of "
    "this report together. The answers follow the interval of each comparison, uncorrected: read a yes or no with p "
    "Holm above 0.05 as a hint. The exact p, from six pairs on, is Wilcoxon's, or the sign test where differences tie. "
    "A run that diverged or has no value is left out of its pair and named in the notes. Training loss: the mean of "
    "the last epoch, to see how far an arm has converged; losses of different kinds do not compare.",
)


def evidence(answered: Sequence[Answered], bench: Mapping[str, Any] | None) -> list[Block]:
    """bench: the newest output of `hyplearn bench table4`, quoted with the claim of costs."""
    runs = _runs(answered)
    blocks: list[Block] = [
        Heading("What small real data say about the papers' claims", 1),
        Paragraph(_summary(answered, runs)),
    ]
    blocks += [_overview(answered), Heading("How to read the answers"), *map(Paragraph, RULES)]
    for key, group in groupby(answered, key=lambda one: one.claim.key):
        same = list(group)
        blocks.append(Heading(f"Claim {key}: {same[0].claim.question}"))
        blocks += [block for one in same for block in _section(one)]
        if key == "j" and bench is not None:
            blocks += costs(bench)
    return [*blocks, *provenance(runs)]


def rows(answered: Sequence[Answered]) -> Iterator[dict[str, object]]:
    """One record a comparison, with every number and every run id."""
    for one in answered:
        for comparison in one.comparisons:
            sides = {"first": one.sides[comparison.first], "second": one.sides[comparison.second]}
            record: dict[str, object] = {"claim": one.claim.key, "question": one.claim.question, "data": one.claim.data}
            record |= {"metric": one.claim.metric, "larger_is_better": one.claim.larger_is_better}
            record |= {"margin": one.claim.margin, "answer": comparison.answer}
            for name, side in sides.items():
                record |= _record(name, side)
            found = comparison.result
            for field in ("mean", "low", "high", "n", "p", "exact"):
                record[{"mean": "difference", "exact": "p_exact"}.get(field, field)] = getattr(found, field, None)
            yield record | {"p_holm": comparison.corrected}


def provenance(runs: Sequence[RunDirectory]) -> list[Block]:
    """Data, rules, commits, versions and machines of runs, with how many share each."""
    if not runs:
        return []
    counted = {
        "data": Counter(facts(run).data for run in runs),
        "selection": Counter(facts(run).rule for run in runs),
        "commit": Counter(commit for run in runs for commit in commits(run)),
        "versions": Counter(_versions(run) for run in runs),
        "hardware": Counter(_hardware(run) for run in runs),
    }
    lines = [(kind, text, str(count)) for kind, counter in counted.items() for text, count in sorted(counter.items())]
    text = "(dirty) marks a commit with changed files. The hash of data covers the images and their split."
    return [Heading("Provenance"), Paragraph(text), Table(("", "value", "runs"), tuple(lines))]


def number(found: Spread | None, digits: int = 2) -> str:
    """`80.12 ± 0.30 (5)`; no deviation of one value."""
    if found is None:
        return "not run"
    return f"{found.mean:.{digits}f}{'' if found.std is None else f' ± {found.std:.{digits}f}'} ({found.n})"


def marks(runs: Sequence[RunDirectory]) -> str:
    """Warnings that stand beside run ids."""
    said = []
    if dirty := sum(any("(dirty)" in commit for commit in commits(run)) for run in runs):
        said.append(f"{dirty} of dirty commits")
    if any(SELECTED_ON_TEST in facts(run).rule for run in runs):
        said.append(SELECTED_ON_TEST)
    return f" [{'; '.join(said)}]" if said else ""


def _summary(answered: Sequence[Answered], runs: Sequence[RunDirectory]) -> str:
    every = [comparison for one in answered for comparison in one.comparisons]
    kinds = Counter(comparison.answer for comparison in every)
    said = ", ".join(f"{kinds[kind]} {kind}" for kind in ("yes", "no", "unclear", "not run") if kinds[kind])
    decided = [c for c in every if c.answer in ("yes", "no")]
    firm = sum(c.corrected is not None and c.corrected < ALPHA for c in decided)
    diverged = len({run.path for one in answered for side in one.sides.values() for run in side.diverged})
    lost = f" {diverged} more diverged (non-finite loss) and are shown as such." if diverged else ""
    return (
        f"{len(every)} comparisons from {len(runs)} finished runs: {said}. Of the {len(decided)} "
        f"with a yes or no, {firm} hold after correction for all comparisons of this report.{lost} "
        "These are small networks on small images: they neither reproduce nor refute a printed "
        "number, they show what the claimed effects are worth there."
    )


def _overview(answered: Sequence[Answered]) -> Table:
    lines = []
    for one in answered:
        kinds = Counter(comparison.answer for comparison in one.comparisons)
        detail = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        claim = one.claim
        lines.append((claim.key, claim.question, _short(claim.data), claim.metric, one.answer, detail))
    return Table(("", "claim", "data", "metric", "answer", "comparisons"), tuple(lines))


def _short(data: str) -> str:
    return data.partition(":")[0].partition(" after")[0]


def _section(one: Answered) -> Iterator[Block]:
    claim = one.claim
    yield Heading(f"{_short(claim.data)}, {claim.metric}: {one.answer}", 3)
    note = f" {claim.note}" if claim.note else ""
    yield Paragraph(f"Paper: {claim.paper}. Data: {claim.data}. Margin: {claim.margin:g}{_better(claim)}.{note}")
    yield Table(
        ("arm", "mean ± std (n)", "training loss", "runs", "notes"), tuple(_arm(side) for side in one.sides.values())
    )
    header = ("first over second", "difference", "95 % interval", "n", "p", "p Holm", "p exact", "answer")
    yield Table(header, tuple(_comparison(comparison) for comparison in one.comparisons))


def _better(claim: Claim) -> str:
    return "" if claim.larger_is_better else "; smaller is better"


def _arm(side: Side) -> tuple[str, ...]:
    found, runs = side.spread, list(side.runs.values())
    mean = "no value" if found is None and runs else number(found)
    loss = spread([last for run in runs if (last := value(run, "train/loss")) is not None])
    loss_text = "" if loss is None else f"{loss.mean:.3g}"
    return side.arm.label, mean, loss_text, f"{seeds_text(runs)}{marks(runs)}", "; ".join(_notes(side))


def _notes(side: Side) -> Iterator[str]:
    """Return what a reader of the mean must know beside it."""
    if side.diverged:
        yield f"diverged: {seeds_text(side.diverged)}"
    if side.without:
        yield f"{len(side.without)} never got there, left out"
    if side.apart:
        runs = [run for group in side.apart for run in group.runs.values()]
        yield f"on other data or under another rule, not averaged: {seeds_text(runs)}"
    if len(side.arm.experiments) > 1:
        taken = Counter(side.chosen.values())
        picks = ", ".join(f"{name.rpartition('_')[2]} {taken[name]} times" for name in side.arm.experiments)
        yield f"best of {len(side.arm.experiments)} by {side.arm.select}: {picks}"


def _comparison(comparison: Comparison) -> tuple[str, ...]:
    name, found = f"{comparison.first} over {comparison.second}", comparison.result
    if found is None:
        return name, "", "", "0", "", "", "", comparison.answer
    interval = "none" if found.low is None or found.high is None else f"{found.low:+.2f} to {found.high:+.2f}"
    tests = (p_text(found.p), p_text(comparison.corrected), p_text(found.exact))
    return name, f"{found.mean:+.2f}", interval, str(found.n), *tests, comparison.answer


def p_text(value: float | None) -> str:
    """Three digits; nothing where there was no test."""
    if value is None:
        return ""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _record(name: str, side: Side) -> dict[str, object]:
    found = side.spread
    return {
        name: side.arm.label,
        f"{name}_mean": found and found.mean,
        f"{name}_std": found and found.std,
        f"{name}_n": len(side.values),
        f"{name}_diverged": len(side.diverged),
        f"{name}_runs": " ".join(run.id for run in side.runs.values()),
    }


def _runs(answered: Sequence[Answered]) -> list[RunDirectory]:
    found = {run.path: run for one in answered for side in one.sides.values() for run in side.runs.values()}
    return [found[path] for path in sorted(found)]


def _versions(run: RunDirectory) -> str:
    session = (run.manifest.get("sessions") or [{}])[0]
    versions = session.get("versions", {})
    return ", ".join(
        f"{name} {versions[name]}" for name in ("hyplearn", "python", "torch", "numpy") if name in versions
    )


def _hardware(run: RunDirectory) -> str:
    hardware = (run.manifest.get("sessions") or [{}])[0].get("hardware", {})
    parts = (hardware.get("gpu"), hardware.get("processor"), f"{hardware.get('threads', '?')} thread(s)")
    return ", ".join(str(part) for part in parts if part)

"""A table of a paper: published numbers, measured ones beside them, what is missing, and the runs behind each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from hyplearn.papers.cells import Cell, geometry
from hyplearn.papers.evidence import marks, p_text, provenance
from hyplearn.papers.measured import Group, Measured, commits, seeds_text
from hyplearn.papers.render import Block, Heading, Listing, Paragraph, Table
from hyplearn.papers.statistics import paired, spread

SEEDS = 5  # of a printed standard deviation: bdeir Table 2
# Who is compared with whom, where data set, backbone and size are the same.
GEOMETRIES = (("hyp", "sph"), ("mix", "sph"), ("mix", "hyp"), ("hier", "hyp"), ("lhier", "hyp"), ("lhier", "hier"))
METHODS = (
    ("HECNN+", "Euclidean"),
    ("HCNN+", "Euclidean"),
    ("Hybrid Lorentz", "Euclidean"),
    ("HECNN+", "HECNN"),
    ("HECNN+", "HECNN Lorentz"),
    ("HCNN+", "HCNN Lorentz"),
    ("HECNN+ - Default", "HECNN+ - fixed curve"),
    ("HECNN+ - Default", "HECNN+ - no scaling"),
    ("HECNN+ - Default", "HECNN+ - no optim scheme"),
)


@dataclass(frozen=True)
class Line:
    """A cell and what was measured of it."""

    cell: Cell
    measured: Measured

    @property
    def label(self) -> str:
        """The row as the paper names it."""
        entry = self.cell.entry
        backbone = "" if entry.backbone in (None, entry.method) else f", {entry.backbone}"
        size = "" if entry.embed_dim is None else f", {entry.embed_dim}-d"
        return f"{entry.method}{backbone}{size}"

    @property
    def missing(self) -> str:
        """Say what stands between this cell and the paper's; empty where nothing does."""
        if self.cell.experiment is None:
            return self.cell.absent or ""
        main, wanted = self.measured.main, SEEDS if self.cell.entry.std else 1
        said = []
        if main is None:
            smoke = f"smoke runs only: {self.measured.smoke} (not a reproduction)"
            said.append(smoke if self.measured.smoke else "not run")
        elif len(main.runs) < wanted:
            said.append(f"{len(main.runs)} of {wanted} seeds")
        for kind, runs in (("diverged", self.measured.diverged), ("unfinished", self.measured.others)):
            if runs:
                said.append(f"{len(runs)} {kind}: {seeds_text(runs)}")
        return "; ".join(said)


def lines(cells: Sequence[Cell], measured: Callable[[str], Measured]) -> list[Line]:
    """Return the lines of every cell, in the order of the paper. measured: the runs of an experiment."""
    return [Line(cell, measured(cell.experiment) if cell.experiment else Measured()) for cell in cells]


def blocks(table: str, protocol: str, found: Sequence[Line]) -> list[Block]:
    """Return the report of one table."""
    possible = [line for line in found if line.cell.experiment]
    done = sum(line.measured.main is not None for line in possible)
    text = (
        f"{done} of {len(possible)} cells with an experiment measured, protocol {protocol}. Percent; measured is the "
        "mean ± standard deviation over seeds (n), difference is measured minus published, one run has no deviation."
    )
    made: list[Block] = [Heading(f"{table}: measured beside published", 1), Paragraph(text)]
    for dataset in dict.fromkeys(line.cell.entry.dataset for line in found):
        made += [Heading(dataset), _numbers([line for line in found if line.cell.entry.dataset == dataset])]
    made += [Heading("Compared over shared seeds"), *_comparisons(found)]
    made += [Heading("Runs"), *_runs(found)]
    groups = [group for line in found for group in line.measured.groups]
    return [*made, *provenance([run for group in groups for run in group.runs.values()])]


def records(protocol: str, found: Sequence[Line]) -> list[dict[str, object]]:
    """One record for a cell, a printed metric and a group of runs that may be averaged."""
    return [
        _record(line, name, group, protocol)
        for line in found
        for name in line.cell.entry.metrics
        for group in (line.measured.groups or (None,))
    ]


def _numbers(found: Sequence[Line]) -> Table:
    metrics = list(dict.fromkeys(name for line in found for name in line.cell.entry.metrics))
    header = ["method"] + [f"{name} {part}" for name in metrics for part in ("published", "measured", "difference")]
    rows = [(line.label, *(text for name in metrics for text in _triple(line, name)), line.missing) for line in found]
    return Table((*header, "missing"), tuple(rows))


def _triple(line: Line, name: str) -> tuple[str, str, str]:
    entry, main = line.cell.entry, line.measured.main
    value, std = entry.metrics.get(name), entry.std.get(name)
    published = ""
    if value is not None:
        published = f"{value:g}" if std is None else f"{value:.2f} ± {std:.2f}"
    got = main.spread(line.cell.measures[name]) if main and name in line.cell.measures else None
    if got is None:
        return published, "", ""
    deviation = "" if got.std is None else f" ± {got.std:.2f}"
    return published, f"{got.mean:.2f}{deviation} ({got.n})", "" if value is None else f"{got.mean - value:+.2f}"


def _comparisons(found: Sequence[Line]) -> list[Block]:
    rows = [row for a in found for b in found if _comparable(a.cell, b.cell) for row in _compared(a, b)]
    if not rows:
        return [Paragraph("No two rows that the paper compares were run with the same seeds and data.")]
    text = "A minus B over shared seeds, 95 % interval by Student's t, p by the paired t-test, exact p from six seeds."
    header = ("data", "A", "B", "metric", "published", "measured", "95 % interval", "n", "p", "p exact")
    return [Paragraph(text), Table(header, tuple(rows))]


def _comparable(a: Cell, b: Cell) -> bool:
    one, other = a.entry, b.entry
    if a.experiment is None or b.experiment is None:
        return False
    if (one.dataset, a.backbone, one.embed_dim) != (other.dataset, b.backbone, other.embed_dim):
        return False
    return (one.method, other.method) in METHODS or (geometry(one), geometry(other)) in GEOMETRIES


def _compared(a: Line, b: Line) -> Iterator[tuple[str, ...]]:
    first, second = a.measured.main, b.measured.main
    if first is None or second is None or first.facts.data != second.facts.data:
        return
    for name, value in a.cell.entry.metrics.items():
        beside = b.cell.entry.metrics.get(name)
        if name not in a.cell.measures or name not in b.cell.measures:
            continue
        ours, theirs = first.values(a.cell.measures[name]), second.values(b.cell.measures[name])
        result = paired([ours[seed] - theirs[seed] for seed in sorted(set(ours) & set(theirs))])
        if result is None:
            continue
        printed = "" if value is None or beside is None else f"{value - beside:+.2f}"
        interval = "" if result.low is None or result.high is None else f"{result.low:+.2f} to {result.high:+.2f}"
        numbers = (f"{result.mean:+.2f}", interval, str(result.n), p_text(result.p), p_text(result.exact))
        yield (a.cell.entry.dataset, a.label, b.label, name, printed, *numbers)


def _runs(found: Sequence[Line]) -> list[Block]:
    said = [
        text for line in found for at, group in enumerate(line.measured.groups) for text in [_said(line, group, at)]
    ]
    return [Listing("run ids, data and selection rules", tuple(said))] if said else [Paragraph("None.")]


def _said(line: Line, group: Group, at: int) -> str:
    runs = list(group.runs.values())
    apart = ", NOT AVERAGED with the line above: other data or another rule" if at else ""
    return f"{line.cell.name}: {seeds_text(runs)}{marks(runs)}; data {group.facts.data}; {group.facts.rule}{apart}"


def _record(line: Line, name: str, group: Group | None, protocol: str) -> dict[str, object]:
    cell, entry = line.cell, line.cell.entry
    published, ours = entry.metrics.get(name), cell.measures.get(name)
    values = list(group.values(ours).values()) if group and ours else []
    got = spread(values)
    runs = list(group.runs.values()) if group else []
    return {
        "table": cell.table,
        "row": entry.row,
        "method": entry.method,
        "backbone": entry.backbone,
        "embed_dim": entry.embed_dim,
        "dataset": entry.dataset,
        "metric": name,
        "experiment": cell.experiment,
        "our_metric": ours,
        "published": published,
        "published_std": entry.std.get(name),
        "measured": got and got.mean,
        "std": got and got.std,
        "n": len(values),
        "difference": got.mean - published if got and published is not None else None,
        "missing": line.missing,
        "averaged": group is line.measured.main if group else None,
        "protocol": protocol,
        "data": group.facts.data if group else None,
        "selection": group.facts.rule if group else None,
        "commits": " ".join(dict.fromkeys(commit for run in runs for commit in commits(run))),
        "run_ids": " ".join(run.id for run in runs),
    }

"""The papers' tables as the description of a dashboard: plain data, whatever draws it."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyplearn.papers.cells import Cell
    from hyplearn.runs.directory import RunDirectory

COLUMNS = (
    *("table", "cell", "method", "backbone", "embed_dim", "dataset", "metric", "published", "published_std"),
    *("measured", "std", "n", "difference", "run_ids", "protocol", "selection", "data"),
)


@dataclass(frozen=True)
class Line:
    """One printed number and what was measured of it. runs: one a seed."""

    cell: Cell
    metric: str
    values: tuple[float, ...]
    runs: tuple[RunDirectory, ...]
    protocol: str

    def row(self) -> dict[str, Any]:
        """Return the values by COLUMNS; None where there is nothing."""
        entry, values = self.cell.entry, self.values
        published = entry.metrics[self.metric]
        mean = statistics.fmean(values) if values else None
        return {
            "table": self.cell.table,
            "cell": self.cell.name,
            "method": entry.method,
            "backbone": entry.backbone,
            "embed_dim": entry.embed_dim,
            "dataset": entry.dataset,
            "metric": self.metric,
            "published": published,
            "published_std": entry.std.get(self.metric),
            "measured": mean,
            "std": statistics.stdev(values) if len(values) > 1 else None,
            "n": len(values),
            "difference": None if mean is None or published is None else mean - published,
            "run_ids": " ".join(run.id for run in self.runs),
            "protocol": self.protocol if values else None,
            "selection": "; ".join(_distinct(run.results["selection"]["rule"] for run in self.runs)),
            "data": "; ".join(_distinct(_fingerprint(run) for run in self.runs)),
        }


def line_of(cell: Cell, metric: str, runs: Sequence[RunDirectory], protocol: str) -> Line:
    """Compare one printed metric of a cell with its runs; those that do not have it are left out."""
    ours = cell.measures.get(metric)
    having = tuple(run for run in runs if ours in run.metrics)
    return Line(cell, metric, tuple(run.metrics[str(ours)] for run in having), having, protocol)


def _fingerprint(run: RunDirectory) -> str:
    """The data of a run: name and the first digits of the hash of its training part."""
    dataset = run.results.get("dataset") or {}
    digest = next(iter((dataset.get("sha256") or {}).values()), "")
    return f"{dataset.get('name')} {digest[:12]}".strip()


def _distinct(texts: Iterator[str]) -> list[str]:
    return list(dict.fromkeys(texts))


def dashboard(
    sections: Mapping[str, Sequence[Line]], *, project: str, entity: str | None, protocol: str
) -> dict[str, Any]:
    """Describe the report."""
    return {
        "title": "hyplearn: the papers' tables",
        "project": project,
        "entity": entity,
        "protocol": protocol,
        "sections": [_section(table, lines, protocol) for table, lines in sections.items()],
    }


def _section(table: str, lines: Sequence[Line], protocol: str) -> dict[str, Any]:
    metrics = list(dict.fromkeys(ours for line in lines for ours in line.cell.measures.values()))
    first = metrics[:1]
    stage = [f"val/{name.removeprefix('test/').rpartition('/')[2]}" for name in first]
    return {
        "table": table,
        "rows": [line.row() for line in lines],
        "filter": {"tags": [table, f"protocol-{protocol}"], "without": ["smoke"]},
        "group_by": "Group",
        "panels": [
            *({"kind": "bar", "title": metric, "metrics": [metric]} for metric in metrics),
            *({"kind": "line", "title": metric, "x": "epoch", "metrics": [metric]} for metric in stage),
        ],
    }


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write the rows as a table of Markdown."""
    header = ("method", "dataset", "metric", "published", "measured", "n", "difference", "run ids")
    lines = [_bar(header), _bar(["---"] * len(header))]
    for row in rows:
        name = " ".join(str(row[key]) for key in ("method", "backbone", "embed_dim") if row[key] is not None)
        spread = "" if row["std"] is None else f" ± {row['std']:.2f}"
        measured = "" if row["measured"] is None else f"{row['measured']:.2f}{spread}"
        published = "" if row["published"] is None else f"{row['published']:g}"
        difference = "" if row["difference"] is None else f"{row['difference']:+.2f}"
        lines.append(
            _bar((name, row["dataset"], row["metric"], published, measured, str(row["n"]), difference, row["run_ids"]))
        )
    return "\n".join(lines)


def _bar(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"

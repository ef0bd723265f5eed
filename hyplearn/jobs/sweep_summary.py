"""How the jobs of a multirun ended: summary.json, summary.csv, and the table at the end."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from hyplearn.console.tables import show
from hyplearn.errors import OK
from hyplearn.runs.atomic import write_json, write_text

SHOWN = {
    "test/top1": "test top-1",
    "val/top1": "val top-1",
    "test/recall@1": "test R@1",
    "test/map@r": "test MAP@R",
    "test/backbone/recall@1": "backbone R@1",
    "val/recall@1": "val R@1",
}  # in percent


@dataclass
class Outcome:
    """One job and how it ended. status: its exit status, None before it ran. reason: of a failure.

    same_as: number of an earlier job that is the same run and gives this one its results. running: begun and not ended.
    """

    number: int
    varied: Mapping[str, str]
    run_dir: Path
    status: int | None = None
    reason: str | None = None
    seconds: float = 0.0
    results: Mapping[str, Any] = field(default_factory=dict)
    same_as: int | None = None
    running: bool = False

    def copy(self, other: Outcome) -> None:
        """Take over how another job ended."""
        self.status, self.reason, self.results, self.run_dir = other.status, other.reason, other.results, other.run_dir

    @property
    def state(self) -> str:
        """ok, failed, or not run; and of which job it is the repetition."""
        state = "not run" if self.status is None else "ok" if self.status == OK else "failed"
        return state if self.same_as is None else f"{state}, as job {self.same_as}"


def write_summary(folder: Path, outcomes: Sequence[Outcome]) -> None:
    """Write both files of the summary, each replaced as a whole."""
    rows = [_row(outcome) for outcome in outcomes]
    write_json(folder / "summary.json", {"sweep": folder.name, "jobs": rows})
    flat = [_flat(row) for row in rows]
    columns = list(dict.fromkeys(key for row in flat for key in row))
    text = StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    write_text(folder / "summary.csv", text.getvalue())


def print_summary(folder: Path, outcomes: Sequence[Outcome]) -> None:
    """The table of all jobs, and below it why those that failed did."""
    metrics = [outcome.results.get("metrics", {}) for outcome in outcomes]
    shown = [name for name in SHOWN if any(name in found for found in metrics)]
    keys = list(dict.fromkeys(key for outcome in outcomes for key in outcome.varied))
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in ("job", *keys, "state"):
        table.add_column(column, overflow="fold")
    for column in (*(SHOWN[name] for name in shown), "time"):
        table.add_column(column, overflow="fold", justify="right")
    for outcome, found in zip(outcomes, metrics, strict=True):
        values = [outcome.varied.get(key, "") for key in keys]
        numbers = [f"{found[name]:.2f}" if name in found else "" for name in shown]
        table.add_row(str(outcome.number), *values, outcome.state, *numbers, f"{outcome.seconds:.0f} s")
    print(f"multirun {folder}")
    show(table)
    not_ok = [outcome for outcome in outcomes if outcome.status != OK]
    for outcome in not_ok:
        print(f"job {outcome.number} {outcome.state}: {outcome.reason or 'the sweep was stopped before'}")
    print(f"{len(outcomes) - len(not_ok)} of {len(outcomes)} jobs ok; see {folder / 'summary.csv'}")


def _row(outcome: Outcome) -> dict[str, Any]:
    return {
        "job": outcome.number,
        "state": outcome.state,
        "exit_status": outcome.status,
        "reason": outcome.reason,
        "seconds": round(outcome.seconds, 1),
        "run_dir": str(outcome.run_dir),
        "varied": dict(outcome.varied),
        "results": dict(outcome.results),
    }


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the table: job and what varied, how it ended, its metrics."""
    plain = {key: value for key, value in row.items() if key not in ("job", "varied", "results")}
    selection = row["results"].get("selection") or {}
    chosen = {"selection": selection["rule"]} if "rule" in selection else {}
    return {"job": row["job"], **row["varied"], **plain, **chosen, **row["results"].get("metrics", {})}

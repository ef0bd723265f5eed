"""What became of the runs of one `hyplearn reproduce`: ledger.json, ledger.csv, and the tables on the terminal."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from hyplearn.console.tables import duration, show, table_of
from hyplearn.jobs.plan import FINISHED, Planned
from hyplearn.jobs.smoke import NOTICE
from hyplearn.runs.atomic import write_json, write_text
from hyplearn.runs.directory import RunDirectory

EARLIER, DONE, FAILED_RUN, INTERRUPTED_RUN, NOT_RUN = "finished before", "finished", "failed", "interrupted", "not run"
GOOD = (EARLIER, DONE)


@dataclass
class Entry:
    """One run of the ledger. status: its exit status, None where this command did not run it."""

    planned: Planned
    state: str = NOT_RUN
    reason: str = ""
    status: int | None = None
    seconds: float = 0.0

    @property
    def metric(self) -> str:
        """The first test metric, `test/top1 97.50 %`; empty before there is one."""
        metrics = RunDirectory(self.planned.run_dir).metrics if self.state in GOOD else {}
        name = next((name for name in ("test/top1", "test/recall@1") if name in metrics), None)
        return f"{name} {metrics[name]:.2f} %" if name else ""


@dataclass
class Ledger:
    """All runs of a command, in the order of the plan. folder: None keeps it in memory alone."""

    folder: Path
    scale: str
    protocol: str
    entries: list[Entry] = field(default_factory=list)

    @classmethod
    def of(cls, planned: Sequence[Planned], folder: Path, *, scale: str, protocol: str) -> Ledger:
        entries = [Entry(run, EARLIER if run.state == FINISHED else NOT_RUN) for run in planned]
        return cls(folder, scale, protocol, entries)

    @property
    def complete(self) -> bool:
        """Whether every run is finished."""
        return all(entry.state in GOOD for entry in self.entries)

    def write(self) -> None:
        """Write both files, each replaced as a whole."""
        rows = [self._row(entry) for entry in self.entries]
        notice = {"notice": NOTICE} if self.scale == "smoke" else {}
        head = {"scale": self.scale, "protocol": self.protocol, **notice}
        write_json(self.folder / "ledger.json", {**head, "complete": self.complete, "runs": rows})
        text = StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _flat(value) for key, value in row.items()} for row in rows)
        write_text(self.folder / "ledger.csv", text.getvalue())

    def print(self) -> None:
        """The table of all runs, why those that failed did, and the sum."""
        table = table_of("run id", "experiment", "seed", "state", "result", right=("time",))
        for entry in self.entries:
            run, seconds = entry.planned, duration(entry.seconds) if entry.seconds else ""
            table.add_row(run.id, _experiments(run), str(run.seed), entry.state, entry.metric, seconds)
        print(f"\nledger {self.folder}" + (f"\n{NOTICE}" if self.scale == "smoke" else ""))
        show(table)
        for entry in self.entries:
            if entry.reason:
                print(f"{entry.planned.id} {entry.state}: {entry.reason} (see {entry.planned.run_dir})")
        print(f"{_sum(self.entries)}; see {self.folder / 'ledger.csv'}")

    def _row(self, entry: Entry) -> dict[str, Any]:
        run = entry.planned
        return {
            "run_id": run.id,
            "experiments": list(run.experiments),
            "tables": list(run.tables),
            "seed": run.seed,
            "scale": self.scale,
            "protocol": self.protocol,
            "state": entry.state,
            "exit_status": entry.status,
            "reason": entry.reason,
            "seconds": round(entry.seconds, 1),
            "run_dir": str(run.run_dir),
        }


def print_plan(planned: Sequence[Planned], absent: Mapping[str, str], *, scale: str, protocol: str) -> None:
    """The runs with their states and estimates, what has no experiment, and the sum."""
    table = table_of("run id", "experiment", "seed", "state", right=("time", "memory"), last=("estimated from",))
    for run in planned:
        needed = run.estimate if run.state != FINISHED else None
        seconds = "" if needed is None else "unknown" if needed.seconds is None else duration(needed.seconds)
        memory = "" if needed is None else "unknown" if needed.memory_gib is None else f"{needed.memory_gib:.1f} GiB"
        state = run.state if run.elsewhere is None else f"{run.state}: {run.elsewhere}"
        source = "" if needed is None else needed.source
        table.add_row(run.id, _experiments(run), str(run.seed), state, seconds, memory, source)
    print(f"scale {scale}, protocol {protocol}" + (f". {NOTICE}" if scale == "smoke" else ""))
    show(table)
    for why in dict.fromkeys(absent.values()):
        names = [name for name, reason in absent.items() if reason == why]
        print(f"no experiment for {len(names)} rows ({why}): {', '.join(names[:3])}{', ...' if names[3:] else ''}")
    print(_to_do(planned))


def _to_do(planned: Sequence[Planned]) -> str:
    """`12 runs: 3 finished, 9 to run, at least 4 min one after the other`."""
    states = [run.state for run in planned]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    known = [run.estimate.seconds for run in planned if run.state != FINISHED]
    times = [seconds for seconds in known if seconds is not None]
    total = f", {'about' if len(times) == len(known) else 'at least'} {duration(sum(times))} one after the other"
    return f"{len(planned)} run{'s' if len(planned) != 1 else ''}: {counts}{total if times else ''}"


def _sum(entries: Sequence[Entry]) -> str:
    states = [entry.state for entry in entries]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    return f"{len(entries)} run{'s' if len(entries) != 1 else ''}: {counts}"


def _experiments(run: Planned) -> str:
    """The first experiment, and how many more come to the same run."""
    more = len(dict.fromkeys(run.experiments)) - 1
    return f"{run.experiments[0]}{f' and {more} more' if more else ''}"


def _flat(value: Any) -> Any:
    return " ".join(value) if isinstance(value, list) else value

"""What became of the jobs of a command: a JSON file and a CSV file, each replaced as a whole, and a table."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NamedTuple

from hyplearn.console.tables import show, table_of
from hyplearn.errors import ConfigError
from hyplearn.jobs.launcher import J, Job
from hyplearn.runs.atomic import write_json, write_text
from hyplearn.runs.bounded import read_text
from hyplearn.runs.spreadsheet import table_of_records

NO_LEDGER = "Bring it back from a copy, or name a new output_dir: runs that are finished stay where they are."

Columns = Mapping[str, Callable[[J], Any]]  # what the files say of a job, by the name of the column


class Shown(NamedTuple):
    """A column of the table on the terminal. number: stands on the right."""

    heading: str
    text: Callable[[Any], str]
    number: bool = False


@dataclass
class Ledger(Generic[J]):
    """The jobs of a command, in the order in which it names them.

    folder, name: of both files. listed: the key of the jobs in the JSON file; head: what else it holds. columns: of a
    job there. lines: of a job in the CSV file, where they differ; a mapping is a column for each of its keys there.
    """

    folder: Path
    name: str
    jobs: Sequence[J]
    columns: Columns[J]
    listed: str
    head: Callable[[], Mapping[str, Any]] = dict
    lines: Columns[J] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every job is finished."""
        return all(job.state.good for job in self.jobs)

    @property
    def table(self) -> Path:
        """The CSV file."""
        return self.folder / f"{self.name}.csv"

    def write(self) -> None:
        """Write both files."""
        rows = [{name: value(job) for name, value in self.columns.items()} for job in self.jobs]
        write_json(self.folder / f"{self.name}.json", {**self.head(), self.listed: rows})
        lines = [dict(_spread(job, self.lines or self.columns)) for job in self.jobs]
        write_text(self.table, table_of_records(lines))

    def print(self, columns: Sequence[Shown]) -> None:
        """Print the table of all jobs."""
        left = [column for column in columns if not column.number]
        right = [column for column in columns if column.number]
        table = table_of(*(column.heading for column in left), right=[column.heading for column in right])
        for job in self.jobs:
            table.add_row(*(column.text(job) for column in (*left, *right)))
        show(table)

    def sum(self) -> str:
        """`3 runs: 2 finished, 1 failed`."""
        return counted(self.listed, [in_words(job) for job in self.jobs])


def counted(what: str, words: Sequence[str]) -> str:
    """`3 runs: 2 finished, 1 failed` of `runs` and the three states in words."""
    counts = ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words))
    return f"{len(words)} {what if len(words) != 1 else what.removesuffix('s')}: {counts}"


def in_words(job: Job, **others: str) -> str:
    """The state of a job as files and tables say it. others: words in place of the usual, by the name of the state."""
    words = {"WAITING": "not run", **others}
    return words.get(job.state.name, job.state.value)


def stored_jobs(folder: Path, name: str, listed: str, kinds: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """What the JSON file of an earlier command says of its jobs; nothing where there is none.

    kinds: the columns that are read of each job, with the types that they may have. Raises ConfigError, which names the
    file, where it is not what `Ledger.write` writes.
    """
    path = folder / f"{name}.json"
    if not path.exists():
        return []
    try:
        return _jobs_of(json.loads(read_text(path)), listed, kinds or {})
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is damaged ({error}). {NO_LEDGER}") from error


def _jobs_of(content: Any, listed: str, kinds: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The jobs of a ledger. Raises ValueError for content that is none."""
    rows = content.get(listed) if isinstance(content, dict) else None
    if not isinstance(rows, list):
        raise ValueError(f"it has no list of {listed}")
    for number, row in enumerate(rows):
        wrong = [key for key, kind in kinds.items() if not (isinstance(row, dict) and isinstance(row.get(key), kind))]
        if wrong:
            raise ValueError(f"{wrong[0]} of {listed}.{number} is missing or of another kind")
    return rows


def _spread(job: J, columns: Columns[J]) -> Iterator[tuple[str, Any]]:
    for name, read in columns.items():
        value = read(job)
        if isinstance(value, Mapping):
            yield from value.items()
        else:
            yield name, " ".join(value) if isinstance(value, (list, tuple)) else value

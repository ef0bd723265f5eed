"""`hyplearn report`: published numbers, measured ones beside them, and the runs behind each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyplearn.cli.parser import Parser, folder, name_of
from hyplearn.errors import OK, ConfigError, listing
from hyplearn.runs.bounded import read_text
from hyplearn.runs.writing import writing

if TYPE_CHECKING:
    from hyplearn.papers.measured import Measured
    from hyplearn.papers.render import Block

    Made = tuple[list[Block], list[dict[str, Any]]]

EVIDENCE, COSTS = "evidence", "bdeir_table4"

DESCRIPTION = """
A table of the papers: each published number, what the finished runs below --runs measured (mean and
standard deviation over n seeds), the difference, what is missing, and the runs behind every number.
evidence: the claims of the papers, answered by paired runs on small real data. bdeir_table4 reads the
newest bench/table4*.json below --runs.

Smoke runs are never counted. Runs on other data or under another selection rule are told apart, not
averaged."""


def report_parser() -> Parser:
    """Make the parser of the command."""
    from hyplearn.papers.cells import tables

    known = [*tables(), EVIDENCE]
    parser = Parser(
        "report",
        DESCRIPTION,
        needs=f"a table or evidence: {listing(known)}",
        examples="""
hyplearn report bdeir_table3
hyplearn report yue_table1 --format html --output yue_table1.html
hyplearn report evidence > RESULTS.md""",
    )
    parser.add_argument("table", type=name_of("table", known), choices=known, metavar="table", help=", ".join(known))
    parser.add_argument(
        "--format",
        choices=["md", "tex", "html", "csv"],
        default="md",
        help="tex: booktabs; html: one file; csv: a row for each number; %(default)s",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="instead of the terminal")
    parser.add_argument("--protocol", choices=["paper", "code"], default="paper", help="%(default)s")
    parser.add_argument(
        "--runs", type=folder, action="append", metavar="DIR", help="where to look for runs; outputs (can be repeated)"
    )
    return parser


def report(argv: Sequence[str]) -> int:
    """Print or write the report. Raises ConfigError."""
    options = report_parser().parse_intermixed_args(list(argv))
    with writing(options.output):
        folders = options.runs or [path for path in [Path("outputs")] if path.is_dir()]
        blocks, rows = _made(options.table, folders, options.protocol)
        text = _csv(rows) if options.format == "csv" else _rendered(blocks, options.format)
        if options.output is None:
            print(text, end="")
            return OK
        from hyplearn.runs.atomic import write_text

        write_text(options.output, text)
        print(f"written to {options.output}")
        return OK


def _made(table: str, folders: Sequence[Path], protocol: str) -> Made:
    """The report for people, and its numbers as records."""
    if table == EVIDENCE:
        return _evidence(folders, protocol)
    if table == COSTS:
        return _costs(folders)
    from hyplearn.papers.cells import cells
    from hyplearn.papers.table import blocks, lines, records

    found = lines(cells(table), _finder(folders, protocol))
    return blocks(table, protocol, found), records(protocol, found)


def _evidence(folders: Sequence[Path], protocol: str) -> Made:
    from hyplearn.papers.claims import answer_all, read
    from hyplearn.papers.evidence import evidence, rows

    answered = answer_all(read(), _finder(folders, protocol))
    return evidence(answered, _bench(folders)), list(rows(answered))


def _costs(folders: Sequence[Path]) -> Made:
    from hyplearn.papers.costs import costs, rows
    from hyplearn.papers.render import Heading

    bench = _bench(folders)
    if bench is None:
        places = ", ".join(map(str, folders)) or "outputs"
        raise ConfigError(f"there is no bench/table4*.json below {places}. Measure first: hyplearn bench table4")
    return [Heading(COSTS, 1), *costs(bench)], rows(bench)


def _finder(folders: Iterable[Path], protocol: str) -> Callable[[str], Measured]:
    """The runs of an experiment, by the identity of what it composes to."""
    from hyplearn.config.compose import compose
    from hyplearn.papers.measured import Measured, collect, smoke_runs
    from hyplearn.runs.finding import runs_below
    from hyplearn.runs.identity import cell_id

    runs = runs_below(folders)
    by_cell, smoke = collect(runs), smoke_runs(runs)

    @cache
    def measured(experiment: str) -> Measured:
        if not runs:  # to compose an experiment takes its time
            return Measured()
        config = compose([f"experiment={experiment}", f"protocol={protocol}"]).config
        return replace(by_cell.get(cell_id(config), Measured()), smoke=smoke[experiment])

    return measured


def _bench(folders: Sequence[Path]) -> Mapping[str, Any] | None:
    """The newest measurement of costs, with the name of its file."""
    files = [path for place in folders for path in place.glob("bench/table4*.json")]
    if not files:
        return None
    newest = max(files, key=lambda path: path.stat().st_mtime)
    try:
        return {"file": newest.name, **_costs_of(json.loads(read_text(newest)))}
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{newest} is damaged ({error}). Remove it, and measure anew: hyplearn bench table4"
        ) from error


def _costs_of(content: Any) -> Mapping[str, Any]:
    """What `hyplearn bench` wrote. Raises ValueError for anything else."""
    rows = content.get("rows") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "method" in row for row in rows):
        raise ValueError("it has no list of rows, each with a method")
    found: Mapping[str, Any] = content
    return found


def _rendered(blocks: Sequence[Block], kind: str) -> str:
    from hyplearn.papers.render import FORMATS

    return FORMATS[kind](blocks)


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    from hyplearn.runs.spreadsheet import table_of_records

    return table_of_records(rows)

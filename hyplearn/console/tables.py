"""Tables and durations on a terminal, in a file or in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

WIDE = 200  # characters of a line in a file or a pipe


def duration(seconds: float) -> str:
    """`12 s`, `3 min`, `2.5 h`, `4.1 d`."""
    for size, unit in ((86400, "d"), (3600, "h")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


def table_of(*columns: str, right: Sequence[str], last: Sequence[str] = ()) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for column in right:
        table.add_column(column, overflow="fold", justify="right")
    for column in last:
        table.add_column(column, overflow="fold")
    return table


def show(table: Table) -> None:
    """Print a table as wide as the terminal, or as a file takes it."""
    Console(markup=False, width=None if sys.stdout.isatty() else WIDE).print(table)

"""Tables of comma-separated values that a spreadsheet may open: no text of them becomes a formula."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # what makes a formula of a cell


def cell(value: Any) -> Any:
    """Return a value as a table holds it: a text that would be a formula has an apostrophe before it, as they do.

    Numbers stay numbers, those in a text such as -0.5 as well.
    """
    if not isinstance(value, str) or _number(value):
        return value
    text = value.replace("\r\n", "\n").replace("\r", "\n")  # Python's writer puts no quotes around a carriage return
    return f"'{text}" if value.startswith(STARTS) else text


def table(rows: Iterable[Sequence[Any]]) -> str:
    """Return rows as comma-separated values."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([cell(value) for value in row] for row in rows)
    return text.getvalue()


def table_of_records(records: Sequence[Mapping[str, Any]]) -> str:
    """Return records as comma-separated values, with a column for each key of any of them, in order of appearance."""
    names = list(dict.fromkeys(name for record in records for name in record))
    return table([names, *([record.get(name, "") for name in names] for record in records)])


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text == text.strip() and "_" not in text

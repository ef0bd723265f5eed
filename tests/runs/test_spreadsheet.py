from __future__ import annotations

import csv
import io
from typing import Any

import pytest

from hyplearn.jobs.ledger import Ledger
from hyplearn.plots.style import table as table_of_a_figure
from hyplearn.runs.spreadsheet import cell, table, table_of_records

FORMULAS = [
    "=1+1",
    "+cmd|' /C calc'!A0",
    "-2+3+cmd",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    '=HYPERLINK("http://x")',
    "＝1",
    "-",
]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_becomes_a_text(text: str) -> None:
    safe = "'" + text.replace("\r", "\n")
    assert cell(text) == safe
    for written in (table([[text]]), table_of_records([{"a": text}]), table_of_a_figure([{"a": text}])):
        assert list(csv.reader(io.StringIO(written, newline="")))[-1] == [safe]


@pytest.mark.parametrize(
    "value", ["-0.5", "+1e-3", "-inf", -0.5, 3, None, True, "a=b", "a-b", "", "1", "nan", "seed=1"]
)
def test_numbers_and_other_texts_stay(value: Any) -> None:
    assert cell(value) == value


def test_columns_that_are_named_as_a_formula_are_texts() -> None:
    assert table_of_records([{"=a": 1}]) == "'=a\n1\n"


def test_a_record_without_a_column_leaves_it_empty() -> None:
    assert table_of_records([{"a": 1}, {"b": "x,y"}]) == 'a,b\n1,\n,"x,y"\n'


def test_the_table_of_a_ledger_escapes(tmp_path: Any) -> None:
    Ledger(tmp_path, "summary", [], {}, "jobs").write()
    assert (tmp_path / "summary.csv").exists()

from __future__ import annotations

import csv
from pathlib import Path

from hyplearn.training.callbacks.history import recorded_rows, write_csv


def test_columns_are_those_of_all_rows(tmp_path: Path) -> None:
    write_csv(tmp_path / "m.csv", [{"epoch": 1, "a": 0.1}, {"epoch": 2, "a": 1e-20, "b": float("nan")}])
    with (tmp_path / "m.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert rows == [{"epoch": "1", "a": "0.1", "b": ""}, {"epoch": "2", "a": "1e-20", "b": "nan"}]


def test_the_history_lies_in_the_checkpoint(finished_run: Path) -> None:
    rows = recorded_rows(finished_run / "checkpoints" / "last.ckpt")
    with (finished_run / "metrics.csv").open() as stream:
        table = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(stream)]
    assert rows == table

from __future__ import annotations

import csv
from pathlib import Path

from hyplearn.training.callbacks.history import recorded_rows


def test_the_history_lies_in_the_checkpoint(finished_run: Path) -> None:
    rows = recorded_rows(finished_run / "checkpoints" / "last.ckpt")
    with (finished_run / "metrics.csv").open() as stream:
        table = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(stream)]
    assert rows == table

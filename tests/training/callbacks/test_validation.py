"""Epochs that validate."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from hyplearn.training.fit import fit
from hyplearn.training.settings import TrainerSettings
from tests.support import runs


@pytest.mark.parametrize(
    ("first", "every", "expected"), [(2, 2, ["3", "5"]), (None, 2, ["2", "4", "6"]), (0, 3, ["1", "4"])]
)
def test_the_first_validation_and_those_that_follow(
    first: int | None, every: int, expected: list[str], tmp_path: Path
) -> None:
    """Epochs of a table count from 1."""
    fit(runs.spec(tmp_path, trainer={"max_epochs": 6, "val_first_epoch": first, "val_every_epochs": every}))
    with (tmp_path / "metrics.csv").open() as stream:
        assert [row["epoch"] for row in csv.DictReader(stream) if row["val/top1"]] == expected


def test_a_first_validation_after_the_end_is_a_mistake() -> None:
    with pytest.raises(ValueError, match=r"trainer\.val_first_epoch=6 must be in \[0, 6\), or null"):
        TrainerSettings(max_epochs=6, val_first_epoch=6)

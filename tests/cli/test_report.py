"""`hyplearn report` from fake run directories: what counts, what is missing, and the formats."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from hyplearn.cli.report import report
from hyplearn.config.compose import compose
from hyplearn.errors import ConfigError
from hyplearn.runs.atomic import write_yaml

CELL = "bdeir_table5_cifar100_hecnn_r50"
FIXED = "bdeir_table5_cifar100_hecnn_r50_fixed_curvature"


def run(
    folder: Path, experiment: str, seed: int, top1: float, *, dirty: bool = False, rule: str = "last epoch", **more: str
) -> None:
    path = folder / f"{experiment}{seed}{''.join(more.values())}"
    path.mkdir(parents=True)
    composed = compose([f"experiment={experiment}", f"seed={seed}", *(f"{key}={value}" for key, value in more.items())])
    write_yaml(path / "config.yaml", {**composed.config, "choices": composed.choices})
    results = {
        "status": "finished",
        "metrics": {"test/top1": top1},
        "dataset": {"name": "cifar100", "sha256": {"train": "1"}},
        "selection": {"rule": rule},
    }
    (path / "results.json").write_text(json.dumps(results))
    source = {"source": {"commit": "0123456789abcdef", "dirty": dirty}}
    (path / "manifest.json").write_text(json.dumps({"sessions": [source]}))


def test_a_table_counts_pairs_and_marks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, top1 in ((1, 80.0), (2, 81.0)):
        run(tmp_path, CELL, seed, top1, dirty=seed == 2)
        run(tmp_path, FIXED, seed, top1 - seed)
    run(tmp_path, CELL, 3, 10.0, rule="best of the test classes: SELECTED ON TEST")
    assert report(["bdeir_table5", "--runs", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "80.50 ± 0.71 (2)" in text and "-0.36" in text
    assert r"_seed{1-2} \[1 of dirty commits]" in text
    assert "SELECTED ON TEST" in text and "NOT AVERAGED" in text
    assert "+1.50" in text and "not run" in text


def test_smoke_runs_never_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, CELL, 1, 99.0, scale="smoke")
    report(["bdeir_table5", "--runs", str(tmp_path)])
    text = capsys.readouterr().out
    assert "smoke runs only: 1 (not a reproduction)" in text and "99.0" not in text


def test_csv_has_a_row_for_each_number(tmp_path: Path) -> None:
    run(tmp_path / "runs", CELL, 1, 80.0)
    target = tmp_path / "table.csv"
    report(["bdeir_table5", "--runs", str(tmp_path / "runs"), "--format", "csv", "--output", str(target)])
    found = [row for row in csv.DictReader(io.StringIO(target.read_text())) if row["measured"]]
    assert [(row["experiment"], row["n"], row["std"], row["selection"]) for row in found] == [
        (CELL, "1", "", "last epoch")
    ]
    assert found[0]["run_ids"].endswith("_seed1")


def test_table_4_reads_the_newest_measurement(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="hyplearn bench table4"):
        report(["bdeir_table4", "--runs", str(tmp_path)])
    (tmp_path / "bench").mkdir()
    row = {"method": "Euclidean", "printed": {"memory_gb": 4.5, "seconds_per_epoch": 30}, "memory_gb": 2.25}
    (tmp_path / "bench/table4_a.json").write_text(json.dumps({"rows": [row], "device": "cpu"}))
    report(["bdeir_table4", "--runs", str(tmp_path)])
    assert "| Euclidean | 4.50" in (text := capsys.readouterr().out) and "2.25" in text


def test_evidence_without_runs_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(["evidence", "--runs", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "from 0 finished runs" in text and "| not run" in text


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean bdeir_table3"):
        report(["bdeir_tabel3"])
    with pytest.raises(ConfigError, match="needs a table or evidence"):
        report([])
    with pytest.raises(ConfigError, match="no folder"):
        report(["evidence", "--runs", str(tmp_path / "none")])

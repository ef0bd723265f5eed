"""A metric over two settings, from run directories."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from hyplearn.cli.plot.command import plot
from hyplearn.errors import ConfigError


def leave_run(folder: Path, *, tau: float, c: float | None, seed: int, value: float, lr: float = 0.1) -> None:
    """A finished run; c: None of a sphere."""
    manifold: dict[str, Any] = {"kind": "sphere"} if c is None else {"kind": "poincare", "c": c}
    config = {
        "seed": seed,
        "scale": "full",
        "model": {"head": 1},
        "dataset": {"name": "digits"},
        "trainer": {"max_epochs": 1},
        "optim": {"lr": lr},
        "loss": {"tau": tau},
        "manifold": manifold,
        "choices": {"model": "sph_vit_s" if c is None else "hyp_vit_s"},
    }
    path = folder / f"{tau}_{c}_{seed}_{lr}"
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    metrics = {"val/recall@1": value, "test/recall@1": value - 1}
    (path / "results.json").write_text(json.dumps({"status": "finished", "metrics": metrics}))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    for seed in (1, 2):
        for tau, c, value in ((0.1, None, 70), (0.2, None, 60), (0.1, 0.1, 80), (0.1, 1.0, 90), (0.2, 1.0, 85)):
            leave_run(folder, tau=tau, c=c, seed=seed, value=value + seed)
    return folder


def test_means_over_seeds_a_row_for_the_sphere_and_equal_budgets(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plot(["grid", str(runs), "--output", str(tmp_path / "out")]) == 0
    with (tmp_path / "out" / "grid.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["manifold.c"], row["loss.tau"], row["mean"]) for row in rows] == [
        ("0.1", "0.1", "80.5"),
        ("1", "0.1", "90.5"),
        ("1", "0.2", "85.5"),
        ("sphere", "0.1", "70.5"),
        ("sphere", "0.2", "60.5"),
    ]
    with (tmp_path / "out" / "budget.csv").open(newline="") as stream:
        budget = {(row["geometry"], row["n"]): row for row in csv.DictReader(stream)}
    assert set(budget) == {("hyp_vit_s", "1"), ("hyp_vit_s", "2"), ("sph_vit_s", "1"), ("sph_vit_s", "2")}
    assert float(budget["hyp_vit_s", "2"]["mean"]) == pytest.approx((90.5 + 90.5 + 85.5) / 3, abs=1e-3)
    told = capsys.readouterr().out
    for name in ("grid.png", "curves.png", "budget.png"):
        assert f"written to {tmp_path / 'out' / name}" in told
        assert (tmp_path / "out" / name).is_file()


def test_settings_are_never_averaged(runs: Path, tmp_path: Path) -> None:
    leave_run(runs, tau=0.1, c=1.0, seed=1, value=50, lr=0.5)
    with pytest.raises(ConfigError, match=r"differ in optim\.lr"):
        plot(["grid", str(runs), "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--x", "loss.tua"], r"--x loss\.tua.*loss\.tau"),
        (["--metric", "test/recall@2"], r"--metric test/recall@2: .* has no such metric. Did you mean test/recall@1"),
        (["missing"], "missing is no folder"),
    ],
)
def test_mistakes_are_named(runs: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plot(["grid", str(runs), *arguments])


def test_runs_without_validation_are_drawn_but_not_chosen_from(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in runs.glob("*/results.json"):
        path.write_text(path.read_text().replace("val/recall@1", "train/loss"))
    assert plot(["grid", str(runs), "--output", str(tmp_path / "out")]) == 0
    assert "and val/recall@1 to choose by (dataset.val_fraction=0.2)" in capsys.readouterr().out
    assert (tmp_path / "out" / "grid.png").is_file() and not (tmp_path / "out" / "budget.png").exists()


def test_settings_are_not_chosen_among_data_sets(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in runs.glob("*_0.1_*/results.json"):
        results = json.loads(path.read_text())
        path.write_text(json.dumps({**results, "dataset": {"sha256": {"test": "others"}}}))
    assert plot(["grid", str(runs), "--output", str(tmp_path / "out")]) == 0
    assert "on one data set" in capsys.readouterr().out
    assert not (tmp_path / "out" / "budget.png").exists()

"""Claims are read strictly and answered by rule."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from hyplearn.papers.claims import answer_all, judge, overall, read
from hyplearn.papers.evidence import evidence, rows
from hyplearn.papers.measured import Measured, collect, value
from hyplearn.papers.render import markdown
from hyplearn.papers.statistics import Paired
from hyplearn.runs.directory import RunDirectory

CLAIM = {
    "key": "a",
    "question": "Is A above B?",
    "paper": "none",
    "data": "digits: few",
    "metric": "test/top1",
    "larger_is_better": True,
    "margin": 0.0,
    "arms": {"A": "x", "B": {"best_of": ["y", "z"], "select": "val/top1"}},
    "comparisons": [["A", "B"]],
}


def write(
    folder: Path, name: str, seed: int, *, test: float, val: float = 0.0, digest: str = "d", error: str = ""
) -> RunDirectory:
    path = folder / f"{name}{seed}"
    path.mkdir()
    config = {"seed": seed, "model": {"name": name}, "dataset": {}, "trainer": {}}
    results = {
        "status": "failed" if error else "finished",
        "error": error or None,
        "metrics": {"test/top1": test, "val/top1": val},
        "dataset": {"name": "digits", "sha256": {"train": digest}},
        "selection": {"rule": "last epoch"},
    }
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    (path / "results.json").write_text(json.dumps(results))
    return RunDirectory(path)


def measured(runs: dict[str, list[RunDirectory]]) -> dict[str, Measured]:
    return {name: next(iter(collect(same).values())) for name, same in runs.items()}


def claims(tmp_path: Path, **changes: object) -> Path:
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump({"claims": [{**CLAIM, **changes}]}))
    return path


@pytest.mark.parametrize(
    ("low", "high", "margin", "answer"),
    [
        (0.1, 2.0, 0.0, "yes"),
        (-2.0, -0.1, 0.0, "no"),
        (-0.1, 0.1, 0.0, "unclear"),
        (-0.1, 0.1, 0.5, "no"),
        (0.2, 0.8, 0.5, "unclear"),
        (-0.9, 0.3, -1.0, "yes"),
        (-3.0, -1.1, -1.0, "no"),
        (-1.5, -0.5, -1.0, "unclear"),
        (None, None, 0.0, "unclear"),
    ],
)
def test_the_interval_decides(low: float | None, high: float | None, margin: float, answer: str) -> None:
    assert judge(Paired(0.0, low, high, 3, None, None), margin) == answer


def test_overall_answers() -> None:
    assert judge(None, 0.0) == "not run"
    assert overall(["yes", "yes"]) == "yes" and overall(["yes", "no", "unclear"]) == "mixed"
    assert overall(["yes", "unclear"]) == "yes in part" and overall(["no", "unclear"]) == "no in part"


def test_best_of_selects_by_validation_for_seeds_that_tried_all(tmp_path: Path) -> None:
    runs = {
        "x": [write(tmp_path, "x", seed, test=90.0 + seed) for seed in (1, 2, 3)],
        "y": [write(tmp_path, "y", seed, test=99.0, val=10.0) for seed in (1, 2, 3)],
        "z": [write(tmp_path, "z", seed, test=80.0 - seed, val=20.0) for seed in (1, 2)],
    }
    found = measured(runs)
    (one,) = answer_all(read(claims(tmp_path)), found.__getitem__)
    result = one.comparisons[0].result
    assert one.sides["B"].values == {1: 79.0, 2: 78.0}
    assert result is not None and (result.n, result.mean) == (2, pytest.approx(13.0))
    (row,) = rows([one])
    assert row["first_runs"].count("_seed") == 3 and row["n"] == 2


def test_other_data_are_neither_averaged_nor_paired_and_diverged_runs_told(tmp_path: Path) -> None:
    runs = {
        "x": [
            *(write(tmp_path, "x", seed, test=90.0 + seed) for seed in (1, 2)),
            write(tmp_path, "x", 3, test=10.0, digest="other"),
            write(tmp_path, "x", 4, test=0.0, error="NonFiniteLoss: non-finite loss in epoch 1"),
        ],
        "y": [write(tmp_path, "y", seed, test=80.0, digest="other") for seed in (1, 2)],
    }
    found = measured(runs)
    (one,) = answer_all(read(claims(tmp_path, arms={"A": "x", "B": "y"})), found.__getitem__)
    assert one.answer == "not run" and one.sides["A"].values == {1: 91.0, 2: 92.0}
    text = markdown(evidence([one], None))
    assert "diverged: " in text and "not averaged: " in text


def test_smaller_is_better_turns_the_sign(tmp_path: Path) -> None:
    runs = {
        "x": [write(tmp_path, "x", seed, test=1.0 + seed / 10) for seed in (1, 2, 3)],
        "y": [write(tmp_path, "y", seed, test=5.0) for seed in (1, 2, 3)],
    }
    path = claims(tmp_path, larger_is_better=False, arms={"A": "x", "B": "y"})
    (one,) = answer_all(read(path), measured(runs).__getitem__)
    assert one.answer == "yes"


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("epochs_to:80", 2),
        ("epochs_to:99", None),
        ("top1_within:25", 85.0),  # the third epoch ends after 30 seconds
        ("top1_within:30", 90.0),
        ("top1_within:9", None),
        ("train/loss", 0.4),
    ],
)
def test_values_of_the_course_of_a_run(tmp_path: Path, metric: str, expected: float | None) -> None:
    run = write(tmp_path, "x", 1, test=90.0)
    rows = [(60.0, 1.5), (85.0, 0.9), (90.0, 0.4)]
    run.write_history(
        [
            {"epoch": epoch, "train/loss": loss, "val/top1": top1, "seconds": 10.0}
            for epoch, (top1, loss) in enumerate(rows, 1)
        ]
    )
    assert value(run, metric) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": {"A": "x"}}, "comparisons name 'B'"),
        ({"arms": {"A": "x", "B": {"best_of": ["y"], "select": "test/top1"}}}, "only val/ metrics"),
        ({"larger_is_better": "maybe"}, "larger_is_better must be"),
        ({"extra": 1}, "unknown extra"),
    ],
)
def test_mistakes_name_the_claim(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=rf"claim 1 \(a\).*{message}"):
        read(claims(tmp_path, **changes))


def test_the_claims_of_the_package_are_read() -> None:
    assert [key for key in "abcdefghij" if key not in {claim.key for claim in read()}] == []

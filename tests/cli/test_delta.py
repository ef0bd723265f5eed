from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from hyplearn.evaluation.delta import distance_matrix, drawn, gromov_delta
from hyplearn.evaluation.metric import Embeddings, Metric
from hyplearn.evaluation.store import load, save
from tests.support.commands import Command

QUICK = ("--samples", "60", "--draws", "2")


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    points = 0.5 * torch.randn(80, 3)
    metrics = (Metric("poincare", 0.1, weight=0.5), Metric("sphere"))
    path, _ = save(tmp_path / "mine", Embeddings((points, points), metrics), torch.arange(80) % 4)
    return path


def test_of_a_file_every_space_by_itself(command: Command, stored: Path) -> None:
    result = command("delta", str(stored), "--json", "--seed", "3", *QUICK)
    assert result.status == 0, result.err
    first, second = json.loads(result.out)["results"]
    assert (first["part"], second["part"]) == ("embedding, poincare", "embedding, sphere")
    read = load(stored)
    for row, points, metric in zip(
        (first, second), read.points, [Metric("poincare", 0.1), Metric("sphere")], strict=True
    ):
        ratios = []
        for positions in drawn(80, samples=60, draws=2, seed=3):
            distances = distance_matrix(points[positions], metric)
            ratios.append(2 * gromov_delta(distances) / distances.max().item())
        assert row["delta_rel"] == row["delta_rel_relative"] == pytest.approx(sum(ratios) / 2)
        assert row["delta_rel_half"] == pytest.approx(sum(ratios) / 4)
        assert row["suggested_c"] == pytest.approx((0.144 / row["delta_rel"]) ** 2)


def test_of_a_data_set_its_pixels(command: Command) -> None:
    result = command("delta", "digits", "dataset.limit_train=100", *QUICK)
    assert result.status == 0, result.err
    (row,) = [line for line in result.out.splitlines() if line.startswith("pixels")]
    assert "60 of 100" in row and row.endswith("euclidean")
    half = command("delta", "digits", "dataset.limit_train=100", "--convention", "half", *QUICK)
    assert float(half.out.splitlines()[2].split()[1]) == pytest.approx(float(row.split()[1]) / 2, abs=1e-4)


def test_of_a_classifier_every_stage_in_its_own_space(command: Command, classifier_run: Path) -> None:
    result = command("delta", str(classifier_run), "--plot", "delta.png", "--json", *QUICK)
    assert result.status == 0, result.err
    rows = {row["part"]: row for row in json.loads(result.out)["results"]}
    assert list(rows) == ["pixels", "stem", "stage1", "stage2", "stage3", "stage4", "embedding"]
    kinds = {name: row["metric"].partition("(")[0] for name, row in rows.items()}
    assert kinds == {
        "pixels": "euclidean", "stem": "euclidean", "stage1": "lorentz", "stage2": "euclidean",
        "stage3": "lorentz", "stage4": "euclidean", "embedding": "lorentz",
    }  # fmt: skip
    assert all(0 < row["delta_rel"] < 1 for row in rows.values())
    assert Path("delta.png").is_file()
    lines = Path("delta.csv").read_text().splitlines()
    assert lines[3].startswith(f"stage1,{rows['stage1']['delta_rel']:.6g},")


def test_of_a_retrieval_run(command: Command, retrieval_run: Path) -> None:
    result = command("delta", str(retrieval_run), "--split", "test", "--features", "backbone,embedding", *QUICK)
    assert result.status == 0, result.err
    assert [line.split()[0] for line in result.out.splitlines()[2:4]] == ["backbone", "embedding"]
    assert "poincare(c=0.1)" in result.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "needs a data set, a run or a file"),
        (("digist",), "Did you mean digits?"),
        (("nowhere.npz",), "nowhere.npz does not exist"),
        (("digits", "model.width=3"), "model.width=3 would be ignored"),
        (("digits", "--features", "stages"), "without a model there are only pixels"),
        (("digits", "--features", "edges"), "'edges' must be of pixels, stages, backbone, embedding"),
        (("digits", "--samples", "3"), "must be a whole number from 4 on"),
        (("digits", "--plot", "delta.pdf"), "must end in .png"),
        (("mine.npz", "dataset.root=/data"), "dataset.root=/data would be ignored: mine.npz is a file"),
        (("mine.npz", "--features", "pixels"), "--features pixels: mine.npz holds embeddings, no pixels"),
        (("mine.npz", "--features", "backbone"), "mine.npz has no array 'backbone'"),
    ],
)
def test_mistakes_are_told(command: Command, stored: Path, arguments: tuple[str, ...], message: str) -> None:
    result = command("delta", *arguments)
    assert result.status == 2
    assert message in result.err


def test_a_model_has_no_other_parts_than_it_has(command: Command, classifier_run: Path, retrieval_run: Path) -> None:
    for run, kind in ((classifier_run, "backbone"), (retrieval_run, "stages")):
        result = command("delta", str(run), "--features", kind)
        assert result.status == 2
        assert f"--features {kind}: the model of {run} has pixels, " in result.err

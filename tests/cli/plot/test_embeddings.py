from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from hyplearn.cli.plot import embeddings as plot_embeddings
from hyplearn.evaluation.metric import Embeddings, Metric
from hyplearn.evaluation.store import load, save
from hyplearn.geometry import poincare
from tests.support.commands import SMALL, Command


def read(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """In the sphere and in the ball, with super-classes."""
    points = 0.5 * torch.randn(80, 3)
    labels = torch.arange(80) % 10
    path, _ = save(
        tmp_path / "mine",
        Embeddings((points, points), (Metric("sphere"), Metric("poincare", 0.1))),
        labels,
        super_labels=labels % 2,
        super_names=["even", "odd"],
    )
    return path


def test_of_a_retrieval_run_its_stored_embeddings(command: Command, retrieval_run: Path) -> None:
    result = command(
        "plot", "embeddings", str(retrieval_run), "--points", "50", "--centre", "origin", "--output", "out"
    )
    assert result.status == 0, result.err
    assert [line.removeprefix("written to ") for line in result.out.splitlines()] == [
        "out/disk.png", "out/disk.csv", "out/radii.png", "out/radii.csv",
    ]  # fmt: skip
    kept = load(retrieval_run / "embeddings" / "test.npz")
    rows = read(Path("out/radii.csv"))
    radii = poincare.dist0(kept.points[0].double(), c=0.1)
    assert [float(row["radius"]) for row in rows] == pytest.approx(radii.tolist(), rel=1e-5)
    assert [int(row["label"]) for row in rows] == kept.labels.tolist()
    drawn = read(Path("out/disk.csv"))
    assert len(drawn) == 50
    by_id = {row["id"]: float(row["radius"]) for row in rows}
    places = torch.tensor([[float(row["x"]), float(row["y"])] for row in drawn], dtype=torch.float64)
    shown = poincare.dist0(places, c=1.0) / 0.1**0.5
    assert shown.tolist() == pytest.approx([by_id[row["id"]] for row in drawn], rel=1e-4)


def test_of_a_classifier_what_its_head_sees(command: Command, classifier_run: Path) -> None:
    result = command("plot", "embeddings", str(classifier_run), "--output", "out")
    assert result.status == 0, result.err
    assert len(read(Path("out/disk.csv"))) == 359


@pytest.mark.slow
def test_a_model_of_two_dimensions_is_drawn_exactly(command: Command) -> None:
    model = ("model=hyp_vit_s", "model.head.size=2", "model.small.width=12", "trainer.max_epochs=2")
    assert command("train", *model, *SMALL, "output_dir=run").status == 0
    result = command("plot", "embeddings", "run")
    assert result.status == 0, result.err
    kept = load(Path("run/embeddings/test.npz")).points[0].double()
    rows = read(Path("run/figures/disk.csv"))
    places = torch.tensor([[float(row["x"]), float(row["y"])] for row in rows], dtype=torch.float64)
    assert torch.allclose(places, 0.1**0.5 * kept, rtol=1e-4, atol=1e-7)


def test_of_several_spaces_the_hyperbolic_one_by_super_class(command: Command, stored: Path) -> None:
    result = command("plot", "embeddings", str(stored), "--color", "super", "--output", "out")
    assert result.status == 0, result.err
    (points,) = load(stored).points[1:]
    radii = [float(row["radius"]) for row in read(Path("out/radii.csv"))]
    assert radii == pytest.approx(poincare.dist0(points.double(), c=0.1).tolist(), rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "needs a run or a file"),
        (("nowhere",), "nowhere does not exist"),
        (("nowhere.npz",), "nowhere.npz does not exist"),
        (("mine.npz", "--layout", "disc"), "invalid choice: 'disc'"),
        (("mine.npz", "--points", "0"), "must be a whole number from 1 on"),
        (("mine.npz", "--space", "lorentz"), "--space lorentz: mine.npz has sphere, poincare"),
        (("mine.npz", "--space", "sphere", "--layout", "disk"), "has no Poincare disk; use --layout umap"),
    ],
)
def test_mistakes_are_told(command: Command, stored: Path, arguments: tuple[str, ...], message: str) -> None:
    result = command("plot", "embeddings", *arguments)
    assert result.status == 2
    assert message in result.err


def test_super_classes_that_are_not_there(command: Command, retrieval_run: Path) -> None:
    result = command("plot", "embeddings", str(retrieval_run), "--color", "super")
    assert result.status == 2
    assert "has no super-classes; use --color class" in result.err


def test_a_missing_extra_is_named(command: Command, stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plot_embeddings, "find_spec", lambda name: None)
    for arguments in (("--layout", "umap"), ("--space", "sphere")):
        result = command("plot", "embeddings", str(stored), *arguments)
        assert result.status == 2
        assert "needs umap-learn: pip install 'hyplearn[umap]'" in result.err

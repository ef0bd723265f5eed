"""`hyplearn plot hard-negatives` and `plot weights`, from run directories."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from hyplearn.evaluation.metric import Embeddings, Metric
from hyplearn.evaluation.store import load, save
from tests.support.commands import Command


@pytest.fixture
def other_run(retrieval_run: Path, tmp_path: Path) -> Path:
    """The same run with embeddings on a sphere that know nothing."""
    folder = tmp_path / "other"
    shutil.copytree(retrieval_run, folder)
    kept = load(folder / "embeddings" / "test.npz")
    points = torch.nn.functional.normalize(torch.randn(len(kept.labels), 4, generator=torch.Generator().manual_seed(0)))
    save(
        folder / "embeddings" / "test",
        Embeddings(points, Metric("sphere")),
        kept.labels,
        ids=kept.ids,
        class_names=kept.class_names,
    )
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["loss"]["tau"] = 0.7
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture
def with_batch(retrieval_run: Path, tmp_path: Path) -> Path:
    """A run that kept a batch of four classes."""
    folder = tmp_path / "batch"
    folder.mkdir()
    shutil.copy(retrieval_run / "config.yaml", folder)
    points = 0.5 * torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    save(
        folder / "embeddings" / "last_batch",
        Embeddings(points, Metric("poincare", 0.1, 5.0)),
        torch.arange(8) % 4,
        ids=10 * torch.arange(8),
    )
    return folder


def test_two_runs_side_by_side(command: Command, retrieval_run: Path, other_run: Path) -> None:
    result = command("plot", "hard-negatives", str(retrieval_run), str(other_run), "--queries", "2", "--negatives", "3")
    assert result.status == 0, result.err
    shared, *written = result.out.splitlines()
    assert "of 3 images are in both lists, mean of 128 anchors drawn at random" in shared
    assert written == [f"written to plots/hard_negatives.{kind}" for kind in ("png", "json", "html")]
    data = json.loads(Path("plots/hard_negatives.json").read_text())
    assert f"{data['mean_shared']:.2f} of 3 images" in shared
    kept = load(retrieval_run / "embeddings" / "test.npz")
    labels = dict(zip(kept.ids.tolist(), kept.labels.tolist(), strict=True))
    assert len(data["anchors"]) == 2
    for anchor in data["anchors"]:
        assert set(anchor["negatives"]) == {"Hyp, tau=0.2", "Hyp, tau=0.7"}
        for negatives in anchor["negatives"].values():
            distances = [negative["distance"] for negative in negatives]
            assert len(negatives) == 3 and distances == sorted(distances)
            assert all(labels[n["id"]] == n["label"] != anchor["label"] for n in negatives)
    assert Path("plots/hard_negatives.html").read_text().count("<img ") == 2 * (1 + 2 * 3)


def test_embeddings_that_were_not_kept_are_computed(command: Command, retrieval_run: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(retrieval_run, bare, ignore=shutil.ignore_patterns("embeddings"))
    names = ("--names", "kept", "computed", "--negatives", "3")
    result = command("plot", "hard-negatives", str(retrieval_run), str(bare), *names)
    assert result.status == 0, result.err
    assert result.out.startswith("3.00 of 3 images are in both lists")


def test_weights_of_a_batch(command: Command, with_batch: Path) -> None:
    result = command("plot", "weights", str(with_batch), "--query", "30", "--output", "out")
    assert result.status == 0, result.err
    assert result.out.splitlines() == ["written to out/weights.png", "written to out/weights.csv"]
    rows = list(csv.DictReader(Path("out/weights.csv").read_text().splitlines()))
    assert {row["anchor"] for row in rows} == {"30", "mean"}
    weights = [float(row["weight"]) for row in rows if row["anchor"] == "30"]
    assert len(weights) == 6 and weights == sorted(weights, reverse=True) and 0 < sum(weights) < 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("hard-negatives", "{run}"), "compares two runs, 1 given"),
        (("hard-negatives", "{run}", "nowhere"), "nowhere does not exist"),
        (("hard-negatives", "{run}", "{run}", "--negatives", "0"), "'0' must be a whole number from 1 on"),
        (("hard-negatives", "{run}", "{run}", "--negatives", "895"), "--negatives 895: the gallery has"),
        (("hard-negatives", "{classifier}", "{classifier}"), "the run is one of a classifier"),
        (("weights",), "hyplearn plot weights needs runs"),
        (
            ("weights", "{run}"),
            "last training batch after an epoch with evaluation.hard_negatives=true",
        ),
        (("weights", "{batch}", "--query", "5"), "--query 5 is not in the batch of every run: those are 0, 10, 20"),
        (("weights", "{batch}", "--anchors", "0"), "argument --anchors: '0' must be a whole number from 1 on"),
        (("weights", "{batch}", "{batch}", "--names", "a"), "--names must be 2 different names"),
    ],
)
def test_mistakes_are_told(
    command: Command,
    retrieval_run: Path,
    classifier_run: Path,
    with_batch: Path,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    places = {"run": retrieval_run, "classifier": classifier_run, "batch": with_batch}
    result = command("plot", *(argument.format(**places) for argument in arguments))
    assert result.status == 2
    assert message in result.err


def test_other_test_data_are_told(command: Command, retrieval_run: Path, other_run: Path) -> None:
    results = json.loads((other_run / "results.json").read_text())
    results["dataset"]["sha256"]["test"] = 64 * "0"
    (other_run / "results.json").write_text(json.dumps(results))
    result = command("plot", "hard-negatives", str(retrieval_run), str(other_run))
    assert result.status == 2
    assert "were tested on other images" in result.err and "and 000000000000)" in result.err


def test_other_images_are_told_where_no_result_tells(command: Command, retrieval_run: Path, other_run: Path) -> None:
    (other_run / "results.json").unlink()
    kept = load(other_run / "embeddings" / "test.npz")
    save(other_run / "embeddings" / "test", kept.embeddings, kept.labels.flip(0), class_names=kept.class_names)
    result = command("plot", "hard-negatives", str(retrieval_run), str(other_run))
    assert result.status == 2
    assert "hold embeddings of other images" in result.err


def test_batches_without_a_common_image_are_told(command: Command, with_batch: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere"
    shutil.copytree(with_batch, other)
    kept = load(other / "embeddings" / "last_batch.npz")
    save(other / "embeddings" / "last_batch", kept.embeddings, kept.labels, ids=kept.ids + 1)
    result = command("plot", "weights", str(with_batch), str(other))
    assert result.status == 2
    assert "have no image in common" in result.err

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hyplearn.evaluation.metric import Embeddings, Metric
from hyplearn.evaluation.recall import evaluate, summarize
from hyplearn.evaluation.store import save
from hyplearn.geometry import lorentz


def images(count: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    """Ball points of c = 0.1 and their labels."""
    labels = torch.randint(0, 6, (count,))
    return 0.4 * (torch.randn(6, 4)[labels] + 0.6 * torch.randn(count, 4)), labels


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A file of a user, without a metric."""
    points, labels = images()
    np.savez(tmp_path / "mine.npz", embeddings=points.numpy(), labels=np.array([f"class {i}" for i in labels.tolist()]))
    return tmp_path / "mine.npz"


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    """A file of a run: two spaces, backbone, super-labels, every third image a query only."""
    points, labels = images()
    query = torch.arange(60) % 3 == 0
    path, _ = save(
        tmp_path / "test",
        Embeddings((points, points), (Metric("poincare", 0.1, weight=0.5), Metric("sphere"))),
        labels,
        query=query,
        gallery=~query,
        super_labels=labels // 2,
        super_names=["sea", "wood", "town"],
        backbone=torch.randn(60, 9),
    )
    return path


def answer(result: Any) -> dict[str, Any]:
    assert result.status == 0, result.err
    parsed: dict[str, Any] = json.loads(result.out)
    return parsed


@pytest.mark.parametrize("index", ["auto", "faiss", "torch"])
def test_json_is_one_object_of_fractions(command, mine: Path, index: str) -> None:
    arguments = ("--geometry", "poincare", "--c", "0.1", "--k", "1,2,4,8,10", "--index", index, "--json")
    found = answer(command("recall", str(mine), *arguments))
    with np.load(mine) as arrays:
        embeddings = Embeddings(torch.from_numpy(arrays["embeddings"]), Metric("poincare", 0.1))
        labels = torch.from_numpy(np.unique(arrays["labels"], return_inverse=True)[1])
    ks = (1, 2, 4, 8, 10)
    assert list(found)[:7] == [*(f"recall@{k}" for k in ks), "map@r", "r_precision"]
    assert found == summarize(evaluate(embeddings, labels, ks=ks), ks)


def test_a_file_of_a_run_knows_its_metric(command, ours: Path) -> None:
    table = command("recall", str(ours), "--metrics", "trained,cosine,euclidean,backbone", "--k", "2,1")
    assert table.status == 0, table.err
    header, first = table.out.splitlines()[1:3]
    assert header.split("  ") != []
    for name in ("0.5 poincare(c=0.1) + sphere", "cosine", "euclidean", "backbone, cosine"):
        assert name in header
    assert first.startswith("recall@1")
    found = answer(command("recall", str(ours.with_suffix(".safetensors")), "--metrics", "trained,cosine", "--json"))
    assert found["queries"] + found["lone_queries"] == 20
    assert set(found["beside"]) == {"cosine"}
    assert set(found["beside"]["cosine"]) == set(found) - {"beside"}


def test_classes_and_clusters(command, mine: Path, ours: Path) -> None:
    found = answer(command("recall", str(ours), "--per-class", "--nmi", "--json"))
    assert set(found["super_classes"]) == {"sea", "wood", "town"}
    assert sum(row["queries"] for row in found["classes"].values()) == found["queries"]
    assert 0 <= found["ami"] <= found["nmi"] <= 1
    table = command("recall", str(mine), "--geometry", "sphere", "--per-class")
    assert "classes, sphere" in table.out
    assert "class 5" in table.out


def test_a_class_without_a_match_has_no_means(command, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", embeddings=np.eye(3), labels=np.array([0, 0, 7]))
    found = answer(command("recall", "x.npz", "--geometry", "euclidean", "--per-class", "--json"))
    assert found["classes"]["7"]["recall@1"] is None
    assert (found["queries"], found["lone_queries"]) == (2, 1)
    assert " - " in command("recall", "x.npz", "--geometry", "euclidean", "--per-class").out


def test_classes_of_one_name_have_a_row_each(command, tmp_path: Path) -> None:
    names = np.array(["gull", "wren", "gull"])
    np.savez(tmp_path / "x.npz", embeddings=np.eye(6), labels=np.arange(6) // 2, class_names=names)
    found = answer(command("recall", "x.npz", "--geometry", "euclidean", "--per-class", "--json"))
    assert {name: row["queries"] for name, row in found["classes"].items()} == {"gull (0)": 2, "wren": 2, "gull (2)": 2}
    np.savez(tmp_path / "x.npz", embeddings=np.eye(6), labels=np.arange(6), class_names=names)
    refused = command("recall", "x.npz", "--geometry", "euclidean", "--per-class")
    assert refused.status == 2
    assert "'labels' holds 5, but 'class_names' has names for 0 to 2" in refused.err


def test_ambient_points_give_the_numbers_of_their_space_part(command, tmp_path: Path) -> None:
    points, labels = images()
    for name, x in (("space", points), ("ambient", lorentz.to_ambient(points, c=2.0))):
        np.savez(tmp_path / f"{name}.npz", embeddings=x.numpy(), labels=labels.numpy())
    options = ("--geometry", "lorentz", "--c", "2", "--json")
    found = answer(command("recall", "space.npz", *options))
    assert answer(command("recall", "ambient.npz", "--ambient", *options)) == found
    wrong = command("recall", "space.npz", "--ambient", *options)
    assert wrong.status == 2
    assert "do not lie on the hyperboloid of c=2" in wrong.err


def test_help_and_its_examples(command) -> None:
    result = command("recall", "--help")
    assert result.status == 0
    for option in ("--geometry", "--c C", "--k", "--metrics", "--index", "--per-class", "--nmi", "--json", "--ambient"):
        assert option in result.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "needs a file of embeddings"),
        (("absent.npz",), "absent.npz does not exist"),
        (("mine.npz",), "mine.npz names no metric: say the geometry of its embeddings, --geometry lorentz"),
        (("mine.npz", "--geometry", "poincare"), "--geometry poincare needs --c"),
        (("mine.npz", "--geometry", "ball"), "invalid choice: 'ball'"),
        (
            ("mine.npz", "--geometry", "sphere", "--c", "1"),
            "--c 1 would be ignored: --geometry sphere has no curvature",
        ),
        (("mine.npz", "--c", "1"), "--c 1 needs a hyperbolic geometry"),
        (("mine.npz", "--geometry", "poincare", "--c", "9"), "lie outside the ball of c=9"),
        (("mine.npz", "--geometry", "poincare", "--c", "0"), "c=0.0 must be > 0"),
        (("mine.npz", "--geometry", "sphere", "--ambient"), "--ambient is a form of points of the hyperboloid"),
        (("mine.npz", "--geometry", "sphere", "--k", "0,1"), "'0,1' must be ranks from 1 on"),
        (("mine.npz", "--geometry", "sphere", "--k", "one"), "'one' must be ranks from 1 on"),
        (("mine.npz", "--geometry", "sphere", "--metrics", "l2"), "'l2' must be of trained, cosine"),
        (("mine.npz", "--geometry", "sphere", "--metrics", "backbone"), "has no array 'backbone'"),
        (("mine.npz", "--geo", "sphere"), "unrecognized arguments: --geo"),
        (("test.npz", "--geometry", "sphere"), "holds points of 2 spaces"),
    ],
)
def test_what_does_not_fit_together_is_status_2(command, mine, ours, arguments: tuple[str, ...], message: str) -> None:
    result = command("recall", *arguments)
    assert result.status == 2
    assert message in result.err
    assert result.out == ""

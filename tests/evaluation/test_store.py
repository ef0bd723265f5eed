from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from hyplearn.evaluation.metric import Embeddings, Metric
from hyplearn.evaluation.store import load, save

BALL = Metric("poincare", 0.1, weight=0.5)


def ball(count: int = 5) -> Embeddings:
    return Embeddings(torch.rand(count, 3), BALL)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_everything_comes_back(tmp_path: Path, suffix: str) -> None:
    embeddings = Embeddings((torch.randn(5, 2), torch.rand(5, 3).double()), (Metric("sphere"), BALL))
    mask = torch.tensor([True, False, True, False, True])
    given: dict[str, Any] = {
        "ids": torch.tensor([7, 5, 3, 1, 9]),
        "query": mask,
        "gallery": ~mask,
        "super_labels": torch.tensor([0, 0, 1, 1, 0]),
        "backbone": torch.randn(5, 4),
    }
    labels = torch.tensor([0, 1, 2, 1, 0])
    lists = {
        "class_names": ("gull", "wren", "owl"),
        "super_names": ("sea", "wood"),
        "paths": tuple(f"ö/{i}.jpg" for i in range(5)),
    }
    paths = save(tmp_path / "run" / "test", embeddings, labels, **given, **lists)  # type: ignore[arg-type]
    assert [path.name for path in paths] == ["test.npz", "test.safetensors"]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["test.npz", "test.safetensors"]
    stored = load(tmp_path / "run" / f"test{suffix}")
    assert stored.metrics == embeddings.metrics
    for name, entries in lists.items():
        assert getattr(stored, name) == entries
    assert torch.equal(stored.labels, labels)
    for points, x in zip(stored.embeddings.points, embeddings.points, strict=True):
        assert torch.equal(points, x) and points.dtype == x.dtype
    for name, value in given.items():
        assert torch.equal(getattr(stored, name), value), name


def test_defaults_are_stored(tmp_path: Path) -> None:
    path, _ = save(tmp_path / "epoch=3.npz", ball(), torch.zeros(5, dtype=torch.int64))
    assert path == tmp_path / "epoch=3.npz"
    stored = load(path)
    assert stored.ids.tolist() == [0, 1, 2, 3, 4]
    assert stored.query.all() and stored.gallery.all()
    assert stored.super_labels is None and stored.backbone is None and stored.class_names is None


def test_safetensors_tell_their_metric_and_more(tmp_path: Path) -> None:
    _, path = save(tmp_path / "test", ball(), torch.zeros(5, dtype=torch.int64), selection="last epoch")
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["selection"] == load(path).selection == "last epoch"
    assert json.loads(metadata["metrics"]) == [{"kind": "poincare", "c": 0.1, "weight": 0.5}]


@pytest.mark.parametrize("dtype", [">f4", "f2", "<f8"])
def test_arrays_of_other_programs(tmp_path: Path, dtype: str) -> None:
    x = np.arange(6).reshape(3, 2).astype(dtype)
    np.savez(tmp_path / "mine.npz", embeddings=x, labels=np.array(["wren", "gull", "wren"]), note=np.array("any"))
    stored = load(tmp_path / "mine.npz")
    assert stored.points[0].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert stored.labels.tolist() == [1, 0, 1]
    assert stored.class_names == ("gull", "wren")
    assert stored.metrics is None
    with pytest.raises(ValueError, match="names no metric"):
        _ = stored.embeddings


@pytest.mark.parametrize("kind", ["U", "S"])
def test_texts_of_other_programs_may_be_arrays_and_bytes(tmp_path: Path, kind: str) -> None:
    x, names = np.ones((3, 2)), np.array(["wren", "gull", "wren"]).astype(kind)
    np.savez(tmp_path / "texts.npz", embeddings=x, labels=names, paths=np.array(["a", "b", "c"]).astype(kind))
    stored = load(tmp_path / "texts.npz")
    assert (stored.labels.tolist(), stored.class_names, stored.paths) == ([1, 0, 1], ("gull", "wren"), ("a", "b", "c"))
    np.savez(tmp_path / "numbers.npz", embeddings=x, labels=np.array([2, 0, 1]), class_names=names)
    assert load(tmp_path / "numbers.npz").class_names == ("wren", "gull", "wren")


def test_safetensors_of_other_programs(tmp_path: Path) -> None:
    save_file(
        {"embeddings": torch.ones(2, 2, dtype=torch.bfloat16), "labels": torch.arange(2)}, tmp_path / "m.safetensors"
    )
    assert load(tmp_path / "m.safetensors").points[0].dtype == torch.float32


X = np.ones((3, 2), dtype=np.float32)
LABELS = np.arange(3)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"features": X, "labels": LABELS}, "holds features, labels, but no array 'embeddings'"),
        ({"embeddings": X}, "holds embeddings, but no array 'labels'"),
        ({"embeddings": X[0], "labels": LABELS}, "'embeddings' has shape (2,) and type float32: needed are floats"),
        ({"embeddings": LABELS[:, None], "labels": LABELS}, "'embeddings' has shape (3, 1) and type int64"),
        ({"embeddings": X, "labels": LABELS[:2]}, "'labels' has shape (2,) and type int64: needed are an integer"),
        ({"embeddings": X, "labels": X[:, 0]}, "'labels' has shape (3,) and type float32"),
        (
            {"embeddings": X, "labels": LABELS, "query": LABELS},
            "'query' has shape (3,) and type int64: needed are booleans",
        ),
        ({"embeddings": X, "labels": LABELS, "ids": X[:, 0]}, "'ids' has shape (3,) and type float32"),
        ({"embeddings": X, "labels": LABELS, "backbone": X[:2]}, "'backbone' has shape (2, 2)"),
        ({"embeddings": X, "labels": LABELS, "metrics": np.array("cosine")}, "needed is a JSON list"),
        ({"embeddings": X, "labels": LABELS, "metrics": np.array("[]")}, "one entry for each of 1 arrays"),
        ({"embeddings": X, "labels": LABELS, "metrics": np.array('[{"kind": "flat"}]')}, "kind='flat' must be one of"),
        ({"embeddings": X, "labels": LABELS, "class_names": np.array("{")}, "needed is a JSON list of texts"),
        ({"embeddings": X, "labels": LABELS, "class_names": np.array('"ab"')}, "needed is a JSON list of texts, or an"),
        (
            {"embeddings": X, "labels": LABELS, "class_names": np.array(["a", "b"])},
            "'labels' holds 2, but 'class_names' has names for 0 to 1: give every number a name, or leave class_names",
        ),
        ({"embeddings": X, "labels": LABELS - 1, "class_names": np.array(list("abc"))}, "'labels' holds -1, but"),
        (
            {"embeddings": X, "labels": LABELS, "super_labels": LABELS, "super_names": np.array(["a"])},
            "'super_labels' holds 2, but 'super_names' has names for 0 to 0",
        ),
        ({"embeddings": X, "labels": LABELS, "paths": np.array(["a"])}, "'paths' has 1 entries: needed are 3"),
        ({"embeddings": X, "labels": np.array([b"\xff"] * 3)}, "can't decode byte 0xff"),
        ({"embeddings": X, "labels": np.array([None] * 3)}, "'labels' cannot be read without unpickling"),
    ],
)
def test_arrays_that_do_not_fit_are_named(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "mine.npz", **arrays)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        load(tmp_path / "mine.npz")
    assert str(tmp_path / "mine.npz") in str(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    for name, content, message in (
        ("absent.npz", None, "does not exist"),
        ("test.pt", b"", r"read from .npz or .safetensors files"),
        ("torn.npz", b"PK\x03\x04torn", "damaged"),
        ("text.npz", b"label,x\n1,2\n", "is no .npz file"),
        ("torn.safetensors", b"torn", "damaged"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=message):
            load(tmp_path / name)
    np.savez(tmp_path / "torn.npz", embeddings=X, labels=LABELS)
    whole = (tmp_path / "torn.npz").read_bytes()
    (tmp_path / "torn.npz").write_bytes(whole.replace(X.tobytes(), X.tobytes()[::-1]))
    with pytest.raises(ValueError, match=r"is damaged .*CRC"):
        load(tmp_path / "torn.npz")
    with (tmp_path / "one.npz").open("wb") as file:
        np.save(file, X)
    with pytest.raises(ValueError, match="is a single array"):
        load(tmp_path / "one.npz")


def test_rows_that_do_not_belong_together_are_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape("labels of shape (4,) must have 5 rows")):
        save(tmp_path / "test", ball(), torch.arange(4))
    with pytest.raises(ValueError, match="'paths' has 2 entries"):
        save(tmp_path / "test", ball(), torch.arange(5), paths=["a", "b"])
    with pytest.raises(ValueError, match="'labels' holds 4, but 'class_names' has names for 0 to 1"):
        save(tmp_path / "test", ball(), torch.arange(5), class_names=["a", "b"])
    assert list(tmp_path.iterdir()) == []

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hyplearn.evaluation import store
from hyplearn.inference.open import open_trained
from hyplearn.inference.prediction import Trained
from tests.support import brute_force
from tests.support.commands import SMALL
from tests.support.pictures import write_unseen_digits

WITHOUT_HYPLEARN = """
import importlib.abc, runpy, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"hyplearn", "torch", "torchvision", "timm", "geoopt", "pytorch_lightning"}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_unseen_digits(tmp_path_factory.mktemp("pictures"), each=24)


@pytest.fixture(scope="module")
def mixed_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose dissimilarity is the weighted sum of that of a sphere and that of the hyperboloid."""
    from hyplearn.cli.main import main

    folder = tmp_path_factory.mktemp("mixed") / "run"
    model = ("model=mix_vit_s", "model.small.width=12", "optim.lr=3e-3", "trainer.max_epochs=1")
    assert main(["train", *model, *SMALL, f"output_dir={folder}"]) == 0
    return folder


def rows(folder: str) -> list[dict[str, str]]:
    with Path(folder, "neighbours.csv").open() as file:
        return list(csv.DictReader(file))


def by_definition(command, run: Path, pictures: Path, k: int) -> list[tuple[str, float]]:
    """The neighbours of every picture among all, every pair in float64, from what `embed` stores."""
    assert command("embed", str(run), str(pictures), "--output", "all.npz").status == 0
    stored = store.load(Path("all.npz"))
    near, distances = brute_force.neighbours(stored.embeddings, stored.embeddings, k)
    flat = zip(near.flatten().tolist(), distances.flatten().tolist(), strict=True)
    return [(stored.paths[row], distance) for row, distance in flat]


@pytest.mark.parametrize("kind", ["retrieval_run", "mixed_run", "classifier_run"])
def test_neighbours_are_those_of_the_trained_metric(
    command, request: pytest.FixtureRequest, pictures: Path, kind: str
) -> None:
    run = request.getfixturevalue(kind)
    answer = command("search", str(run), str(pictures), "--in", str(pictures), "--k", "4", "--output", "found")
    assert answer.status == 0, answer.err
    expected = by_definition(command, run, pictures, 4)
    found = [(row["image"], float(row["distance"])) for row in rows("found")]
    # pictures that are equal to the sixth digit may change places: distances decide
    np.testing.assert_allclose([d for _, d in found], [d for _, d in expected], rtol=1e-3, atol=2e-5)
    assert sum(a[0] == b[0] for a, b in zip(found, expected, strict=True)) > 0.97 * len(found)
    metrics = " + ".join(str(m) for m in open_trained(run, device="cpu").model.metrics if m is not None)
    assert f"{len(found) // 4} searched among {len(found) // 4} under {metrics}" in answer.out


def test_table_sheet_and_page_show_the_same(command, retrieval_run: Path, pictures: Path) -> None:
    queries = [str(path) for path in sorted((pictures / "7").iterdir())[:2]]
    answer = command("search", str(retrieval_run), *queries, "--in", str(pictures), "--k", "3", "--output", "found")
    assert answer.status == 0, answer.err
    found = rows("found")
    assert [row["rank"] for row in found] == ["1", "2", "3"] * 2
    assert all(row["image"] in answer.out for row in found)
    with Image.open("found/sheet.png") as sheet:
        assert sheet.width > 4 * 132
        assert sheet.height > 2 * 132
        assert len(set(sheet.convert("L").tobytes())) > 10
    page = Path("found/index.html").read_text()
    assert page.count("<img") == 8
    assert re.findall(r'(?:src|href)="(?!data:)', page) == []
    for row in found:
        assert Path(row["image"]).name in page


def test_names_of_files_are_text_on_the_page(command, retrieval_run: Path, pictures: Path) -> None:
    source = next((pictures / "5").iterdir())
    Path("odd/<b>x").mkdir(parents=True)
    shutil.copy(source, "odd/<b>x/<script>alert(1)<&>.png")
    answer = command("search", str(retrieval_run), "odd", "--in", "odd", "--output", "found")
    assert answer.status == 0, answer.err
    page = Path("found/index.html").read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;&amp;&gt;.png" in page


def test_what_was_embedded_once_is_not_embedded_again(
    command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, retrieval_run: Path, mixed_run: Path, pictures: Path
) -> None:
    monkeypatch.setenv("HYPLEARN_CACHE", str(tmp_path / "kept"))
    seen: list[int] = []
    plain = Trained.__call__

    def counted(self: Trained, pixels: torch.Tensor):
        seen.append(len(pixels))
        return plain(self, pixels)

    monkeypatch.setattr(Trained, "__call__", counted)
    shutil.copytree(pictures / "5", "fives/5")
    arguments = ("fives", "--in", "fives", "--k", "2", "--output")
    assert command("search", str(retrieval_run), *arguments, "first").status == 0
    assert sum(seen) == 24
    Path("fives/5").rename("fives/renamed")
    assert command("search", str(retrieval_run), *arguments, "second").status == 0
    assert sum(seen) == 24
    assert [row["distance"] for row in rows("first")] == [row["distance"] for row in rows("second")]

    shutil.copy(next((pictures / "6").iterdir()), "fives/renamed/new.png")
    assert command("search", str(retrieval_run), *arguments, "third").status == 0
    assert sum(seen) == 25
    assert command("search", str(mixed_run), *arguments, "other").status == 0
    assert sum(seen) == 50  # other weights

    for file in (tmp_path / "kept/embedded").glob("*.npz"):
        file.write_bytes(file.read_bytes()[:100])
    assert command("search", str(retrieval_run), *arguments, "fourth").status == 0
    assert sum(seen) == 75
    # 25 pictures at once round differently from 24 and one
    third, fourth = ([float(row["distance"]) for row in rows(name)] for name in ("third", "fourth"))
    np.testing.assert_allclose(third, fourth, rtol=1e-4, atol=1e-5)


def test_a_picture_with_nothing_near_is_unknown(command, retrieval_run: Path, pictures: Path) -> None:
    query = str(next((pictures / "8").iterdir()))
    arguments = ("search", str(retrieval_run), query, "--in", str(pictures / "5"), "--k", "3", "--output", "found")
    command(*arguments)
    nearest = float(rows("found")[0]["distance"])
    answer = command(*arguments, "--open-set", str(nearest / 2))
    assert "1 unknown, with nothing within" in answer.out
    assert {row["known"] for row in rows("found")} == {"false"}
    assert "nothing known is near enough" in Path("found/index.html").read_text()
    answer = command(*arguments, "--open-set", str(2 * nearest))
    assert "0 unknown" in answer.out
    assert rows("found")[0]["known"] == "true"


def test_the_own_threshold_is_where_most_of_the_gallery_has_a_neighbour(
    command, retrieval_run: Path, pictures: Path
) -> None:
    answer = command("search", str(retrieval_run), str(pictures), "--in", str(pictures), "--open-set", "auto")
    told = re.search(r"with nothing within ([0-9.e-]+)", answer.out)
    assert told is not None
    assert command("embed", str(retrieval_run), str(pictures), "--output", "all.npz").status == 0
    stored = store.load(Path("all.npz"))
    own = torch.arange(len(stored.labels))
    near = []
    for row in own.tolist():
        same = ((stored.labels == stored.labels[row]) & (own != row)).nonzero().squeeze(1)
        near.append(stored.embeddings.direct(torch.full_like(same, row), stored.embeddings, same).min())
    assert float(told[1]) == pytest.approx(float(torch.stack(near).quantile(0.95)), rel=1e-3)


def test_an_export_holds_the_gallery_that_was_named(command, retrieval_run: Path, pictures: Path) -> None:
    """By search, by predict, and by the script in the folder, which is run where hyplearn cannot be imported."""
    answer = command("export", str(retrieval_run), "--output", "model", "--index", "--onnx", "--gallery", str(pictures))
    assert answer.status == 0, answer.out + answer.err
    facts = json.loads(Path("model/gallery.json").read_text())
    names = sorted(path.relative_to(pictures).as_posix() for path in pictures.rglob("*.png"))
    assert sorted(facts["paths"]) == names
    queries = [str(path) for path in sorted((pictures / "9").iterdir())[:3]]
    assert command("search", "model", *queries, "--k", "4", "--output", "found").status == 0
    found = rows("found")
    predicted = command("predict", "model", *queries, "--k", "4", "--output", "-")
    assert [row["image"] for row in csv.DictReader(predicted.out.splitlines())] == [row["image"] for row in found]
    typed = [sys.executable, "-c", WITHOUT_HYPLEARN, "model/search.py", *queries, "--k", "4"]
    done = subprocess.run(typed, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    alone = list(csv.DictReader(done.stdout.splitlines()))
    assert [(row["image"], row["class"]) for row in alone] == [(row["image"], row["class"]) for row in found]
    distances = [[float(row["distance"]) for row in answers] for answers in (alone, found)]
    np.testing.assert_allclose(*distances, rtol=1e-3, atol=1e-4)

    done = subprocess.run([*typed[:4], "model/config.yaml"], check=False, capture_output=True, text=True)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert "config.yaml cannot be read" in done.stderr


def test_a_sum_of_dissimilarities_is_exported_with_its_coordinates(command, mixed_run: Path, pictures: Path) -> None:
    answer = command("export", str(mixed_run), "--output", "model", "--index", "--onnx", "--gallery", str(pictures))
    assert answer.status == 0, answer.out + answer.err
    assert "a sum is no inner product, so that there is no FAISS index" in answer.out
    assert not Path("model/gallery.faiss").exists()
    query = str(next((pictures / "6").iterdir()))
    assert command("search", "model", query, "--k", "5", "--output", "found").status == 0
    typed = [sys.executable, "-c", WITHOUT_HYPLEARN, "model/search.py", query]
    done = subprocess.run(typed, check=True, capture_output=True, text=True)
    alone = list(csv.DictReader(done.stdout.splitlines()))
    np.testing.assert_allclose(
        [float(row["distance"]) for row in alone],
        [float(row["distance"]) for row in rows("found")],
        rtol=1e-3,
        atol=1e-4,
    )


def test_a_run_that_is_named_is_its_test(command, retrieval_run: Path, pictures: Path) -> None:
    """Not the figures that lie in its directory."""
    query = str(next((pictures / "6").iterdir()))
    answers = [command("search", str(retrieval_run), query, *place) for place in ((), ("--in", str(retrieval_run)))]
    assert [answer.status for answer in answers] == [0, 0]
    assert answers[0].out == answers[1].out
    assert "id " in answers[0].out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "search needs a run and pictures"),
        (["{run}", "nowhere.png"], "nowhere.png does not exist"),
        (["{run}", "{pictures}", "--in", "nowhere"], "--in nowhere does not exist: name a folder of pictures"),
        (["{run}", "{pictures}", "--in", "mine.txt"], "embeddings are read from .npz or .safetensors files"),
        (["{run}", "{pictures}", "--in", "empty"], "no image in empty"),
        (["{run}", "{pictures}", "--open-set", "near"], "'near' must be a distance from 0 on, or auto"),
        (["{run}", "{pictures}", "--open-set", "-1"], "'-1' must be a distance"),
        (["{run}", "{pictures}", "--output", "mine.txt"], "--output mine.txt is a file: name a folder"),
        (["{run}", "{pictures}", "--k", "0"], "'0' must be a whole number from 1 on"),
        (["{run}", "{pictures}", "--pictures", "nowhere"], "--pictures nowhere is no folder"),
    ],
)
def test_what_does_not_fit_is_told(
    command, retrieval_run: Path, pictures: Path, arguments: list[str], message: str
) -> None:
    Path("mine.txt").touch()
    Path("empty").mkdir()
    answer = command("search", *(text.format(run=retrieval_run, pictures=pictures) for text in arguments))
    assert answer.status == 2
    assert message in answer.err


def test_a_damaged_picture_stops_the_search_or_is_left_out(command, retrieval_run: Path, pictures: Path) -> None:
    shutil.copytree(pictures / "5", "mine/5")
    Path("mine/5/bad.png").write_bytes(b"\x89PNG")
    answer = command("search", str(retrieval_run), "mine", "--in", str(pictures))
    assert answer.status == 1
    assert "1 of 25 images cannot be read" in answer.err
    answer = command("search", str(retrieval_run), "mine", "--in", str(pictures), "--skip-unreadable")
    assert answer.status == 0, answer.err
    assert "1 of 25 images are left out" in answer.out

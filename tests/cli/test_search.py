"""`hyplearn search`: what is found is what the trained metric says is nearest, shown with its pictures."""

from __future__ import annotations

import csv
import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from hyplearn.cli import search as command_module
from hyplearn.data import outside_images
from hyplearn.data.sources.retrieval_arrays import DigitsRetrieval
from hyplearn.evaluation import store


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some digits that no retrieval run has seen, in folders of their classes."""
    folder = tmp_path_factory.mktemp("pictures")
    test = DigitsRetrieval().part(None, "test")
    assert test is not None
    for number, (image, label) in enumerate(zip(test.images.pixels[:60], test.labels.tolist(), strict=False)):
        (folder / test.class_names[label]).mkdir(exist_ok=True)
        Image.fromarray(image[..., 0].numpy()).save(folder / test.class_names[label] / f"{number:03d}.png")
    return folder


def rows(folder: str = "search_results") -> list[dict[str, str]]:
    with Path(folder, "neighbours.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_nearest_are_those_of_the_trained_metric(command, retrieval_run: Path, pictures: Path) -> None:
    answer = command("search", str(retrieval_run), str(pictures), "--in", str(pictures), "--k", "4")
    assert answer.status == 0, answer.err
    command("embed", str(retrieval_run), str(pictures), "--output", "all.npz")
    stored = store.load(Path("all.npz"))
    count = len(stored.labels)
    exact = stored.embeddings.direct(
        torch.arange(count).repeat_interleave(count), stored.embeddings, torch.arange(count).repeat(count)
    ).view(count, count)
    found = rows()
    assert len(found) == 4 * count
    for query in range(count):
        mine = found[4 * query : 4 * query + 4]
        assert mine[0]["image"] == mine[0]["path"] == stored.paths[query]  # itself
        assert [float(row["distance"]) for row in mine] == pytest.approx(exact[query].sort()[0][:4].tolist(), abs=1e-4)
        assert all(row["class"] == row["image"].split("/")[0] for row in mine)
    assert "written to search_results: neighbours.csv, sheet.png, page.html" in answer.out


def test_a_folder_a_file_and_an_export_are_searched_alike(command, retrieval_run: Path, pictures: Path) -> None:
    query = str(sorted((pictures / "5").iterdir())[0])
    command("embed", str(retrieval_run), str(pictures), "--output", "all.npz")
    command("export", str(retrieval_run), "--index", "--gallery", "all.npz", "--output", "model")
    answers = [
        command("search", run, query, *place, "--output", f"to{number}")
        for number, (run, place) in enumerate(
            [
                (str(retrieval_run), ["--in", str(pictures)]),
                (str(retrieval_run), ["--in", "all.npz"]),
                ("model", []),
                (str(retrieval_run), ["--in", "model"]),
            ]
        )
    ]
    assert [answer.status for answer in answers] == [0] * 4, [answer.err for answer in answers]
    first, *others = (rows(f"to{number}") for number in range(4))
    assert len(first) == 5
    for other in others:
        assert [row["image"] for row in other] == [row["image"] for row in first]
        assert [row["class"] for row in other] == [row["class"] for row in first]


def test_without_a_place_the_gallery_of_the_run_is_searched_and_shown(
    command, retrieval_run: Path, pictures: Path
) -> None:
    answer = command("search", str(retrieval_run), str(pictures / "5"), "--k", "2")
    assert answer.status == 0, answer.err
    assert all(row["image"].startswith("id ") for row in rows())
    page = Path("search_results/page.html").read_text()
    assert "no picture here" not in page  # the data set has the pictures
    assert page.count("<figure") == 3 * len({row["path"] for row in rows()})


def test_what_is_far_from_everything_is_unknown(command, retrieval_run: Path, pictures: Path) -> None:
    Path("fives").mkdir()
    for file in sorted((pictures / "5").iterdir())[1:]:
        shutil.copy(file, "fives")
    typed = ["search", str(retrieval_run), str(pictures / "5"), "--in", "fives", "--open-set", "0"]
    answer = command(*typed)
    assert answer.status == 0, answer.err
    nearest = [row for row in rows() if row["rank"] == "1"]
    assert [row["known"] for row in nearest] == ["no"] + ["yes"] * (len(nearest) - 1)
    assert f"1 of {len(nearest)} are unknown: their nearest is farther than 0" in answer.out
    assert Path("search_results/page.html").read_text().count("unknown</b>") == 1


def test_the_page_needs_no_other_file_and_the_sheet_shows_every_picture(
    command, retrieval_run: Path, pictures: Path
) -> None:
    command("search", str(retrieval_run), str(pictures / "5"), "--in", str(pictures), "--k", "3")
    queries = len({row["path"] for row in rows()})
    page = Path("search_results/page.html").read_text()
    assert set(re.findall(r'src="([^"]{11})', page)) == {"data:image/"}
    assert "http" not in page
    assert page.count("<img") == 4 * queries
    with Image.open("search_results/sheet.png") as sheet:
        assert sheet.width > 4 * 112
        assert sheet.height > queries * 112


def test_names_cannot_change_the_page(command, retrieval_run: Path, pictures: Path) -> None:
    Path("odd").mkdir()
    shutil.copy(sorted((pictures / "5").iterdir())[0], "odd/<script>alert(1)<b>.png")
    shutil.copy(sorted((pictures / "5").iterdir())[0], "odd/=1+1.png")
    assert command("search", str(retrieval_run), "odd", "--in", "odd").status == 0
    assert "<script>alert" not in Path("search_results/page.html").read_text()
    assert "\n=1+1" not in Path("search_results/neighbours.csv").read_text()


def test_what_was_searched_once_is_not_decoded_again(
    command, retrieval_run: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HYPLEARN_CACHE", str(tmp_path / "cache"))
    typed = ["search", str(retrieval_run), str(pictures / "5"), "--in", str(pictures)]
    assert "known by their content" in command(*typed).out  # the queries, which lie in the folder
    first, count = rows(), len(list(pictures.rglob("*.png")))
    monkeypatch.setattr(outside_images, "_chunk", None)
    answer = command(*typed)
    assert f"{count} of {count} pictures were known by their content" in answer.out
    assert rows() == first
    (kept,) = (tmp_path / "cache" / "embeddings").glob("*.npz")
    kept.write_bytes(b"damaged")
    monkeypatch.undo()
    monkeypatch.setenv("HYPLEARN_CACHE", str(tmp_path / "cache"))
    assert command(*typed).status == 0
    assert rows() == first
    before = kept.read_bytes()
    assert "known" not in command(*typed, "--forget").out
    assert kept.read_bytes() == before


def test_other_weights_remember_nothing_of_these(command, retrieval_run: Path, pictures: Path, tmp_path: Path) -> None:
    shutil.copytree(retrieval_run, "other")
    for path in Path("other/checkpoints").glob("*.ckpt"):
        content = torch.load(path, weights_only=True)
        next(x for x in content["state_dict"].values() if x.is_floating_point() and x.dim() > 1).mul_(1.5)
        torch.save(content, path)
    five = str(pictures / "5")
    command("search", str(retrieval_run), five, "--in", five, "--output", "a")
    command("search", "other", five, "--in", five, "--output", "b")
    assert rows("a") != rows("b")
    answer = command("search", "other", five)
    assert answer.status == 2
    assert "was made by other weights" in answer.err
    assert "name it with --in" in answer.err


def test_unreadable_pictures_stop_the_search_or_are_left_out(command, retrieval_run: Path, pictures: Path) -> None:
    shutil.copytree(pictures / "5", "mixed")
    Path("mixed/broken.png").write_bytes(b"no picture")
    typed = ["search", str(retrieval_run), str(pictures / "7"), "--in", "mixed"]
    answer = command(*typed)
    assert answer.status != 0
    assert "broken.png" in answer.err
    answer = command(*typed, "--skip-unreadable")
    assert answer.status == 0
    assert "1 of" in answer.out
    assert "broken.png" in answer.out
    assert all(row["image"] != "broken.png" for row in rows())


def test_a_classifier_searches_folders(command, classifier_run: Path, pictures: Path) -> None:
    five = str(pictures / "5")
    assert command("search", str(classifier_run), five, "--in", five).status == 0
    answer = command("search", str(classifier_run), five)
    assert answer.status == 2
    assert "is a classifier, which has no gallery" in answer.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{run}"], "pictures"),
        (["{run}", "nowhere"], "nowhere does not exist"),
        (["{run}", "{photos}", "--in", "nowhere"], "--in nowhere does not exist"),
        (["{run}", "{photos}", "--in", "{run}/config.yaml"], "must be a folder, or a file of embeddings"),
        (["{run}", "{photos}", "--k", "0"], "--k"),
        (["{run}", "{photos}", "--open-set", "nan"], "--open-set nan must be a distance"),
        (["{run}", "{photos}", "--open-set", "-1"], "--open-set -1 must be a distance"),
        (["{run}", "{photos}", "--output", "{run}/config.yaml"], "is a file: name a folder"),
    ],
)
def test_what_does_not_fit_is_told(
    command, retrieval_run: Path, pictures: Path, arguments: list[str], message: str
) -> None:
    answer = command("search", *(text.format(run=retrieval_run, photos=pictures) for text in arguments))
    assert answer.status == 2
    assert message in answer.err
    assert "Traceback" not in answer.err


def test_only_the_first_queries_are_told(command, retrieval_run: Path, pictures: Path) -> None:
    answer = command("search", str(retrieval_run), str(pictures), "--in", str(pictures))
    assert f"and {60 - command_module.SHOWN} more" in answer.out

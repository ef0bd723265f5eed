from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hyplearn.data.sources.datasets import Digits
from hyplearn.data.sources.retrieval_arrays import DigitsRetrieval
from hyplearn.evaluation import store


def write_pngs(folder: Path, pixels: torch.Tensor, names: list[str]) -> None:
    for number, (image, name) in enumerate(zip(pixels, names, strict=True)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0].numpy()).save(folder / name / f"{number:04d}.png")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test digits as files in folders of their classes."""
    folder = tmp_path_factory.mktemp("digits")
    test = Digits().test(None)
    write_pngs(folder, test.pixels, [str(label) for label in test.labels.tolist()])
    return folder


@pytest.fixture(scope="module")
def unseen_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits that no retrieval run has seen, in the order of their ids by name."""
    folder = tmp_path_factory.mktemp("unseen")
    test = DigitsRetrieval().part(None, "test")
    assert test is not None
    write_pngs(folder, test.images.pixels, [test.class_names[label] for label in test.labels.tolist()])
    return folder


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def results(run: Path) -> dict:
    return json.loads((run / "results.json").read_text())


def test_a_classifier_sees_files_as_it_saw_its_test_images(command, classifier_run: Path, digits: Path) -> None:
    answer = command("predict", str(classifier_run), str(digits), "--top", "3", "--output", "found.csv")
    assert answer.status == 0, answer.err
    found = rows(Path("found.csv").read_text())
    assert [row["rank"] for row in found[:4]] == ["1", "2", "3", "1"]
    first = [row for row in found if row["rank"] == "1"]
    right = sum(row["class"] == row["path"].split("/")[0] for row in first)
    accuracy = results(classifier_run)["metrics"]["test/top1"]
    assert len(first) == len(Digits().test(None).labels)
    assert 100 * right / len(first) == pytest.approx(accuracy, abs=1e-9)
    assert f"{right} of {len(first)} images in folders of its classes are right, {accuracy:.2f} %" in answer.out
    probabilities = [float(row["probability"]) for row in found[:3]]
    assert probabilities == sorted(probabilities, reverse=True)
    assert 0 < sum(probabilities) <= 1


def test_embeddings_of_files_are_those_of_the_test(command, retrieval_run: Path, unseen_digits: Path) -> None:
    answer = command("embed", str(retrieval_run), str(unseen_digits), "--output", "mine.npz")
    assert answer.status == 0, answer.err
    mine, own = store.load(Path("mine.npz")), store.load(retrieval_run / "embeddings" / "test.npz")
    assert mine.metrics == own.metrics
    order = torch.tensor([int(Path(path).stem) for path in mine.paths])
    torch.testing.assert_close(mine.points[0], own.points[0][order], rtol=1e-5, atol=1e-6)
    assert [mine.class_names[label] for label in mine.labels] == [own.class_names[i] for i in own.labels[order]]
    recalled = json.loads(command("recall", "mine.npz", "--json").out)
    assert 100 * recalled["recall@1"] == pytest.approx(results(retrieval_run)["metrics"]["test/recall@1"], abs=0.3)


def test_neighbours_are_from_the_gallery_of_the_run_or_of_a_file(
    command, retrieval_run: Path, unseen_digits: Path
) -> None:
    image = str(unseen_digits / "5" / "0000.png")
    answer = command("predict", str(retrieval_run), image, "--k", "2", "--output", "-")
    found = rows(answer.out)
    assert [(row["path"], row["rank"]) for row in found] == [(image, "1"), (image, "2")]
    assert (found[0]["image"], found[0]["class"]) == ("id 0", "5")  # itself
    assert float(found[0]["distance"]) < 1e-4 < float(found[1]["distance"])

    command("embed", str(retrieval_run), str(unseen_digits / "7"), "--output", "sevens.npz")
    answer = command("predict", str(retrieval_run), image, "--gallery", "sevens.npz", "--k", "9000", "--output", "-")
    stored = store.load(Path("sevens.npz"))
    assert {row["image"] for row in rows(answer.out)} == set(stored.paths)


def test_a_gallery_of_other_weights_is_refused(command, retrieval_run: Path, unseen_digits: Path) -> None:
    """Of the same geometry, so that nothing but the weights can tell them apart."""
    image = str(unseen_digits / "5" / "0000.png")
    shutil.copytree(retrieval_run, "other")
    for name in ("best.ckpt", "last.ckpt"):
        path = Path("other/checkpoints", name)
        content = torch.load(path, weights_only=True)
        first = next(x for x in content["state_dict"].values() if x.is_floating_point() and x.dim() > 1)
        first += 1e-3
        torch.save(content, path)
    answer = command("predict", "other", image, "--output", "-")
    assert answer.status == 2
    assert "embeddings/test.npz was made by other weights" in answer.err
    assert command("embed", "other", str(unseen_digits / "7"), "--output", "sevens.npz").status == 0
    assert command("predict", "other", image, "--gallery", "sevens.npz", "--output", "-").status == 0
    answer = command("predict", str(retrieval_run), image, "--gallery", "sevens.npz", "--output", "-")
    assert (answer.status, answer.out) == (2, "")
    assert "sevens.npz was made by other weights" in answer.err


def test_a_gallery_that_names_no_weights_is_taken_and_that_is_told(
    command, retrieval_run: Path, unseen_digits: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = np.load(retrieval_run / "embeddings" / "test.npz")
    np.savez("foreign.npz", **{name: own[name] for name in ("embeddings", "labels", "metrics")})
    image = str(unseen_digits / "5" / "0000.png")
    assert command("predict", str(retrieval_run), image, "--gallery", "foreign.npz", "--output", "-").status == 0
    assert "foreign.npz does not say which weights made it" in caplog.text


def test_images_in_no_folder_are_classes_of_their_own(command, classifier_run: Path, digits: Path) -> None:
    files = sorted((digits / "3").iterdir())[:3]
    answer = command("embed", str(classifier_run), *map(str, files), "--output", "three.npz")
    assert answer.status == 0
    assert "three.npz" in answer.out
    shutil.copytree(digits / "3", "flat")
    answer = command("embed", str(classifier_run), "flat", "--output", "flat.npz")
    assert "there is no recall to measure" in answer.out
    stored = store.load(Path("flat.npz"))
    assert len(stored.labels.unique()) == len(stored.labels)
    assert stored.metrics[0].kind == "lorentz"
    assert stored.metrics[0].c == pytest.approx(results(classifier_run)["curvature"]["decoder"], rel=1e-6)


def test_files_of_every_kind_become_images_of_the_run(command, classifier_run: Path, digits: Path) -> None:
    grey = Image.open(sorted((digits / "4").iterdir())[0])
    Path("kinds/4").mkdir(parents=True)
    grey.convert("RGB").save("kinds/4/colour.png")
    grey.convert("CMYK").save("kinds/4/print.tif")
    Image.fromarray(np.asarray(grey).astype(np.uint16) * 257).save("kinds/4/deep.png")
    turned = grey.rotate(-90)
    exif = Image.Exif()
    exif[0x0112] = 8  # the viewer turns it back by 90 degrees
    turned.save("kinds/4/turned.png", exif=exif)
    wide = Image.new("L", (24, 8))
    wide.paste(grey, (8, 0))
    wide.save("kinds/4/wide.png")
    grey.save("kinds/4/as_it_is.png")
    Path("kinds/4/notes.txt").write_text("no image")
    answer = command("predict", str(classifier_run), "kinds", "--top", "1")
    assert answer.status == 0, answer.err
    assert "1 files that are no images by their names are left out" in answer.out
    found = rows(Path("predictions.csv").read_text())
    assert len(found) == 6
    assert len({(row["class"], row["probability"]) for row in found}) == 1


def test_an_unreadable_file_stops_the_command_or_is_left_out(command, classifier_run: Path, digits: Path) -> None:
    shutil.copytree(digits / "1", "photos/1")
    Path("photos/1/broken.png").write_bytes(b"nothing")
    Path("photos/1/empty.jpg").touch()
    stopped = command("predict", str(classifier_run), "photos", "--batch-size", "8")
    assert stopped.status == 1
    assert "broken.png" in stopped.err
    assert "empty.jpg: the file is empty" in stopped.err
    assert "--skip-unreadable" in stopped.err
    assert not Path("predictions.csv").exists()
    answer = command("predict", str(classifier_run), "photos", "--skip-unreadable", "--batch-size", "8", "--top", "1")
    assert answer.status == 0
    assert f"2 of {len(list(Path('photos/1').iterdir()))} images cannot be read and are left out" in answer.out
    assert len(rows(Path("predictions.csv").read_text())) == len(list(Path("photos/1").iterdir())) - 2


def test_without_its_data_set_the_run_still_knows_its_classes(command, tmp_path: Path, digits: Path) -> None:
    shutil.copytree(digits, tmp_path / "train_digits/train")
    shutil.copytree(digits, tmp_path / "train_digits/test")
    status = command(
        *("train", "model=euclidean_r18", "model.width=4", "dataset=image_folder", "dataset.root=train_digits"),
        *("dataset.image_size=8", "trainer.max_epochs=1", "trainer.progress=none", "output_dir=run"),
        *("callbacks.figures=false", "trainer.accelerator=cpu", "trainer.num_threads=1"),
    )
    assert status.status == 0, status.err
    (tmp_path / "train_digits").rename(tmp_path / "away")
    answer = command("predict", "run", "away/test", "--top", "1")
    assert answer.status == 0, answer.err
    assert f"{results(Path('run'))['metrics']['test/top1']:.2f} %" in answer.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "needs a run and images"),
        (["{run}"], "needs a run and images"),
        (["nowhere", "{photos}"], "nowhere does not exist"),
        (["{photos}", "{photos}"], "is no run directory"),
        (["{run}", "no photos"], "no photos does not exist"),
        (["{run}", "{run}/checkpoints"], "no image in"),
        (["{run}", "{photos}", "--output", "a.txt"], "--output a.txt must end in .csv"),
        (["{run}", "{photos}", "--top", "0"], "'0' must be a whole number from 1 on"),
        (["{run}", "{photos}", "--k", "3"], "--k is for a retrieval model"),
        (["{run}", "{photos}", "--gallery", "a.npz"], "--gallery is for a retrieval model"),
        (["{ret}", "{photos}", "--top", "3"], "--top 3 is for a classifier"),
        (["{ret}", "{photos}", "--gallery", "a.npz"], "a.npz does not exist"),
    ],
)
def test_what_does_not_fit_is_told(
    command, classifier_run: Path, retrieval_run: Path, digits: Path, arguments: list[str], message: str
) -> None:
    typed = [text.format(run=classifier_run, ret=retrieval_run, photos=digits / "0") for text in arguments]
    answer = command("predict", *typed)
    assert answer.status == 2
    assert message in answer.err
    assert not Path("predictions.csv").exists()


@pytest.mark.parametrize("name", ["predict", "embed"])
def test_help_shows_its_options(command, name: str) -> None:
    answer = command(name, "--help")
    assert answer.status == 0
    assert "--skip-unreadable" in answer.out
    assert max(map(len, answer.out.splitlines())) <= 120

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from scipy.io import loadmat, savemat

from hyplearn.data.errors import DatasetError
from hyplearn.data.sources.cars import Cars
from tests.support.retrieval_trees import make_cars

LAST = (1, 2, 98, 99, 195, 196)


@pytest.mark.parametrize("layout", ["one", "halves", "folders"])
def test_classes_are_parted_by_number_in_every_layout(tmp_path: Path, layout: str) -> None:
    make_cars(tmp_path, LAST, 4, layout=layout)
    train, test = (Cars().part(tmp_path, part) for part in ("train", "test"))
    assert train is not None and test is not None
    for part, first in ((train, 0), (test, 3)):
        assert part.labels.bincount().tolist() == [0] * first + [4] * 3
        for path, label in zip(part.images.absolute(), part.labels.tolist(), strict=True):
            assert part.class_names[label].endswith(f"Car {LAST[label]}")
            assert path.is_file()
    assert Cars().facts(tmp_path).num_classes == 3
    assert Cars().part(tmp_path, "val") is None


def test_both_halves_are_needed(tmp_path: Path) -> None:
    base = make_cars(tmp_path, LAST, 2, layout="halves")
    (base / "devkit" / "cars_test_annos_withlabels.mat").unlink()
    (problem,) = Cars().index(tmp_path).problems
    assert "cars_test_annos_withlabels.mat: the file is missing; both halves" in str(problem)


def test_annotations_may_lie_beside_the_folders(tmp_path: Path) -> None:
    base = make_cars(tmp_path, LAST, 2, layout="halves")
    for path in list((base / "devkit").iterdir()):
        path.rename(base / path.name)
    assert len(Cars().train(tmp_path)) == 6
    assert Cars().facts(tmp_path).class_names == ("Car 1", "Car 2", "Car 98")


def test_all_class_folders_may_have_names_alone(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for number in range(196):
            path = tmp_path / part / f"Make {number:03d}" / "1.png"
            path.parent.mkdir(parents=True)
            Image.new("L", (2, 2)).save(path)
    index = Cars().index(tmp_path)
    assert not index.problems
    assert index.parts["train"].labels.bincount().tolist() == [2] * 98
    assert index.parts["test"].class_names[98] == "Make 098"


def test_bad_records_are_named(tmp_path: Path) -> None:
    path = make_cars(tmp_path, LAST, 1) / "cars_annos.mat"
    content = {key: value for key, value in loadmat(path).items() if not key.startswith("__")}
    content["annotations"][0, 1]["class"] = 197
    content["annotations"][0, 4]["relative_im_path"] = ""
    savemat(path, content)
    assert [str(problem) for problem in Cars().index(tmp_path).problems] == [
        f"{path}, record 2: class 197 is not a number from 1 to 196",
        f"{path}, record 5: the record has no file name (relative_im_path or fname)",
    ]


def test_a_broken_file_of_annotations_is_named(tmp_path: Path) -> None:
    path = make_cars(tmp_path, LAST, 1) / "cars_annos.mat"
    path.write_bytes(b"not a matrix")
    with pytest.raises(DatasetError, match=r"cars_annos\.mat: .*place it again"):
        Cars().train(tmp_path)
    savemat(path, {"other": 1})
    with pytest.raises(DatasetError, match=r"cars_annos\.mat: has no 'annotations'"):
        Cars().train(tmp_path)


@pytest.mark.parametrize("compressed", [False, True])
def test_annotations_cut_anywhere_are_named(tmp_path: Path, compressed: bool) -> None:
    path = make_cars(tmp_path, LAST, 1) / "cars_annos.mat"
    content = {key: value for key, value in loadmat(path).items() if not key.startswith("__")}
    savemat(path, {"annotations": content["annotations"]}, do_compression=compressed)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(DatasetError, match=r"cars_annos\.mat: .*place it again"):
            Cars().train(tmp_path)


def test_class_numbers_may_be_doubles_if_they_are_whole(tmp_path: Path) -> None:
    path = make_cars(tmp_path, LAST, 1) / "cars_annos.mat"
    content = {key: value for key, value in loadmat(path).items() if not key.startswith("__")}
    for record in content["annotations"][0]:
        record["class"] = record["class"].astype(float)
    content["annotations"][0, 2]["class"] = 1.5
    content["annotations"][0, 3]["class"] = float("nan")
    savemat(path, content)
    index = Cars().index(tmp_path)
    assert [problem.message.split(" is ")[0] for problem in index.problems] == ["class 1.5", "class nan"]
    assert [index.parts["train"].class_names[label] for label in index.parts["train"].labels] == ["Car 1", "Car 2"]


def test_nobody_offers_the_archives_so_their_place_is_told(tmp_path: Path) -> None:
    assert Cars().facts(tmp_path).num_classes == 98
    with pytest.raises(DatasetError, match=r"place in .*cars196 either cars_annos\.mat and car_ims/"):
        Cars().prepare(tmp_path)

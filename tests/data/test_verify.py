from __future__ import annotations

import json
from pathlib import Path

import pytest

from hyplearn.data.sources.cars import Cars
from hyplearn.data.sources.cub import CUB
from hyplearn.data.sources.datasets import CIFAR10, Digits, FashionMNIST, TinyImageNet
from hyplearn.data.sources.folder import ImageFolder
from hyplearn.data.sources.inshop import InShop
from hyplearn.data.sources.retrieval_arrays import FashionMNISTRetrieval
from hyplearn.data.sources.retrieval_csv import CSVRetrieval
from hyplearn.data.sources.retrieval_folder import ImageFolderRetrieval
from hyplearn.data.sources.sop import SOP
from hyplearn.data.verify import Report, verify
from tests.support.retrieval_trees import make_cars, make_cub, make_inshop, make_sop


def texts(report: Report, base: Path) -> list[str]:
    return [str(problem).replace(f"{base}/", "") for problem in report.problems]


def test_a_sound_tree_is_clean_and_says_how_much_of_the_archive_it_is(tmp_path: Path) -> None:
    make_cub(tmp_path)
    report = verify(CUB(), tmp_path)
    assert report.clean
    assert report.complete is False
    text = report.render()
    for line in ("training images   20 of 5,864", "test classes      3 of 100", "no problems", "Not the full archive"):
        assert line in text


def test_every_problem_has_its_file_and_line(tmp_path: Path) -> None:
    base = make_cub(tmp_path)
    (base / "images/001.Bird_1/Bird_1_0002.jpg").unlink()
    (base / "images/101.Bird_101/Bird_101_0000.jpg").write_bytes(b"")
    with (base / "images.txt").open("a") as file:
        file.write("junk\n")
    report = verify(CUB(), tmp_path)
    assert not report.clean
    assert texts(report, base) == [
        "images.txt, line 33: 'junk' is not a number and a text",
        "images.txt, line 3: images/001.Bird_1/Bird_1_0002.jpg: No such file",
        "images.txt, line 21: images/101.Bird_101/Bird_101_0000.jpg: the file is empty",
    ]
    assert "3 problems:" in report.render()
    assert "CUB_200_2011.tgz and place it in" in report.render()
    loaded = json.loads(json.dumps(report.to_dict()))
    assert loaded["problems"][1]["line"] == 3
    assert loaded["counts"]["training images"] == {"found": 20, "full": 5864}
    assert (loaded["clean"], loaded["complete"]) == (False, False)


def test_every_official_set_is_verified_in_its_layout(tmp_path: Path) -> None:
    for number, (make, source) in enumerate(((make_cars, Cars()), (make_sop, SOP()), (make_inshop, InShop()))):
        base = make(tmp_path / str(number))
        assert verify(source, tmp_path / str(number)).clean
        path = next(base.rglob("*.[jJ][pP][gG]"))
        path.unlink()
        (problem,) = verify(source, tmp_path / str(number)).problems
        assert problem.line is not None
        assert path.name in problem.message
    assert verify(InShop(), tmp_path / "2").counts["query images"] == (10, 14218)


def test_the_official_counts_add_up() -> None:
    totals = {CUB: (200, 11788), Cars: (196, 16185), SOP: (22634, 120053), InShop: (7982, 52712)}
    for source, (classes, images) in totals.items():
        official = source.official
        assert official["training classes"] + official["test classes"] == classes
        assert official["training images"] + official["test images"] == images
    assert InShop.official["query images"] + InShop.official["gallery images"] == InShop.official["test images"]


def test_the_full_archive_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_cub(tmp_path)
    small = {"training classes": 5, "training images": 20, "test classes": 3, "test images": 12}
    monkeypatch.setattr(CUB, "official", small)
    report = verify(CUB(), tmp_path)
    assert report.complete
    assert "Not the full archive" not in report.render()


def test_what_is_not_there_is_told_with_where_to_get_it(tmp_path: Path) -> None:
    report = verify(Cars(), tmp_path)
    assert not report.clean
    assert report.counts["training images"] == (0, 8054)
    assert f"no cars found, neither in {tmp_path}/cars196 nor" in report.render()
    assert "place in" in report.render()


def test_a_broken_index_is_a_problem(tmp_path: Path) -> None:
    (make_cars(tmp_path) / "cars_annos.mat").write_bytes(b"no matrix")
    (problem,) = verify(Cars(), tmp_path).problems
    assert "cars_annos.mat" in problem.message


def test_users_folders_and_other_data_sets_are_verified_too(tmp_path: Path, folder_root: Path) -> None:
    (folder_root / "train" / "ant" / "3.png").write_bytes(b"unreadable")
    report = verify(ImageFolder(), folder_root)
    assert report.counts == {"training images": (20, None), "test images": (8, None)}
    assert report.complete is None
    (problem,) = report.problems
    assert problem.file == folder_root / "train" / "ant" / "3.png"
    assert verify(Digits(), None).clean
    assert not verify(FashionMNIST(), tmp_path / "nowhere").clean
    overlap = verify(ImageFolderRetrieval(), folder_root)
    assert any("class ant is in train and in test" in str(problem) for problem in overlap.problems)


def test_progress_counts_every_image_once(tmp_path: Path) -> None:
    make_cub(tmp_path)
    told: list[tuple[int, int]] = []
    verify(CUB(), tmp_path, threads=3, progress=lambda done, total: told.append((done, total)))
    assert told == [(number, 32) for number in range(1, 33)]


def test_all_faults_of_all_parts_are_listed(cifar10_root: Path) -> None:
    batches = cifar10_root / "cifar-10-batches-py"
    for name in ("data_batch_2", "data_batch_4", "test_batch"):
        (batches / name).write_bytes(b"unreadable")
    (batches / "batches.meta").unlink(missing_ok=True)
    report = verify(CIFAR10(), cifar10_root)
    assert not report.clean
    for name in ("data_batch_2", "data_batch_4", "test_batch"):
        assert name in report.render()
    assert any("batches.meta is missing" in remark for remark in report.remarks)


def test_bad_lines_and_missing_pictures_of_tiny_imagenet_are_listed(tiny_imagenet_root: Path) -> None:
    val = tiny_imagenet_root / "tiny-imagenet-200" / "val"
    picture, unnamed = sorted((val / "images").iterdir())[:2]
    picture.unlink()
    unnamed.with_name("unnamed.JPEG").write_bytes(unnamed.read_bytes())
    report = verify(TinyImageNet(), tiny_imagenet_root)
    assert [problem.file.name for problem in report.problems] == [picture.name]
    assert any("no list names, the first unnamed.JPEG" in remark for remark in report.remarks)
    with (val / "val_annotations.txt").open("a") as file:
        file.write("val_7.JPEG\tn07\nval_8.JPEG\tn08\n")
    report = verify(TinyImageNet(), tiny_imagenet_root)
    assert [problem.line for problem in report.problems] == [7, 8]


def test_pictures_that_no_list_names_are_said(tmp_path: Path) -> None:
    make_sop(tmp_path)
    base = SOP().base(tmp_path)
    assert base is not None
    (base / "extra.JPG").write_bytes(b"")
    report = verify(SOP(), tmp_path)
    assert report.clean
    assert report.remarks == ("1 pictures that no list names, the first extra.JPG",)
    assert "note: 1 pictures" in report.render()


def test_all_faults_within_a_part_are_listed(fashion_root: Path) -> None:
    for name in ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", "t10k-labels-idx1-ubyte.gz"):
        (fashion_root / name).write_bytes(b"unreadable")
    (fashion_root / "t10k-images-idx3-ubyte.gz").unlink()
    for source in (FashionMNIST(), FashionMNISTRetrieval()):
        said = [str(problem) for problem in verify(source, fashion_root).problems]
        assert len(said) == 4
        for name in ("train-images", "train-labels", "t10k-images", "t10k-labels"):
            assert sum(name in line for line in said) == 1, (name, said)
    (fashion_root / "t10k-labels-idx1-ubyte.gz").unlink()
    for source in (FashionMNIST(), FashionMNISTRetrieval()):
        said = [str(problem) for problem in verify(source, fashion_root).problems]
        for name in ("train-images", "train-labels", "t10k-images", "t10k-labels"):
            assert sum(name in line for line in said) == 1, (name, said)


def test_missing_files_beside_broken_ones_are_listed(cifar10_root: Path) -> None:
    batches = cifar10_root / "cifar-10-batches-py"
    (batches / "data_batch_1").unlink()
    (batches / "data_batch_3").unlink()
    (batches / "data_batch_2").write_bytes(b"unreadable")
    said = verify(CIFAR10(), cifar10_root).render()
    for number in (1, 2, 3):
        assert said.count(f"data_batch_{number}") >= 1, said


def test_queries_without_a_gallery_picture_are_said(tmp_path: Path) -> None:
    make_cub(tmp_path)
    parts = {
        "101.Bird_101": "query",
        "102.Bird_102": "test",
        "103.Bird_103": "test",
    }  # the first has no gallery picture
    pictures = [(path.relative_to(tmp_path), path.parent.name) for path in sorted(tmp_path.rglob("*.jpg"))]
    rows = ["path,label,split", *(f"{path},{name},{parts.get(name, 'train')}" for path, name in pictures)]
    (tmp_path / "index.csv").write_text("\n".join(rows) + "\n")
    report = verify(CSVRetrieval(file="index.csv"), tmp_path)
    assert report.clean, report.render()
    assert report.remarks == (
        "4 test queries have no gallery picture of their class and are not counted (101.Bird_101)",
    )
    assert "note:" in report.render()

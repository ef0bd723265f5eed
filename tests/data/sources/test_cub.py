from __future__ import annotations

from pathlib import Path

import pytest

from hyplearn.data.errors import DatasetError
from hyplearn.data.sources.cub import CUB
from hyplearn.data.sources.retrieval_source import Index
from tests.support.retrieval_trees import make_cub, write_picture

LAST = (1, 99, 100, 101, 102, 200)


def problems(root: Path) -> list[str]:
    return [str(problem).removeprefix(f"{root}/CUB_200_2011/") for problem in CUB().index(root).problems]


@pytest.mark.parametrize("texts", [True, False])
def test_classes_are_parted_by_number(tmp_path: Path, texts: bool) -> None:
    make_cub(tmp_path, LAST, 2, texts=texts)
    train, test = (CUB().part(tmp_path, part) for part in ("train", "test"))
    assert train is not None and test is not None
    assert train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert test.labels.tolist() == [3, 3, 4, 4, 5, 5]
    assert [train.class_names[label] for label in (2, 3, 5)] == ["100.Bird_100", "101.Bird_101", "200.Bird_200"]
    assert test.query.all() and test.gallery.all()
    assert all(path.is_file() for path in train.images.absolute() + test.images.absolute())
    assert CUB().part(tmp_path, "val") is None
    facts = CUB().facts(tmp_path)
    assert (facts.in_channels, facts.num_classes, facts.image_size) == (3, 3, None)
    assert facts.class_names == ("001.Bird_1", "099.Bird_99", "100.Bird_100")


def test_the_root_may_be_the_folder_itself(tmp_path: Path) -> None:
    base = make_cub(tmp_path, LAST, 1)
    assert len(CUB().train(base)) == 3


def test_text_files_and_folders_give_the_same(tmp_path: Path) -> None:
    make_cub(tmp_path, LAST, 2)
    listed = CUB().index(tmp_path)
    for name in ("images.txt", "image_class_labels.txt"):
        (tmp_path / "CUB_200_2011" / name).unlink()
    (tmp_path / "CUB_200_2011" / "images" / "001.Bird_1" / "._Bird.jpg").write_bytes(b"left by a Macintosh")
    (tmp_path / "CUB_200_2011" / "images" / "001.Bird_1" / "notes.txt").write_text("no image")
    scanned: Index = CUB().index(tmp_path)
    for part in ("train", "test"):
        assert scanned.parts[part].images.paths == listed.parts[part].images.paths  # type: ignore[index]
        assert scanned.parts[part].labels.equal(listed.parts[part].labels)  # type: ignore[index]


def test_facts_before_the_files_are_those_of_the_archive(tmp_path: Path) -> None:
    assert CUB().facts(tmp_path).num_classes == 100
    with pytest.raises(DatasetError, match=r"cub not found below .*/CUB_200_2011\.tgz and place it in"):
        CUB().train(tmp_path)


def test_every_bad_line_is_named(tmp_path: Path) -> None:
    base = make_cub(tmp_path, (1, 101), 2)
    images, labels = base / "images.txt", base / "image_class_labels.txt"
    images.write_text(images.read_text() + "five path.jpg\n2 again.jpg\n\n6\n7 unlabelled.jpg\n")
    labels.write_text(labels.read_text().replace("2 1\n", "2 201\n").replace("3 101\n", "3 x\n") + "9 1\n")
    assert sorted(problems(tmp_path)) == [
        "image_class_labels.txt, line 2: class '201' is not a number from 1 to 200",
        "image_class_labels.txt, line 3: class 'x' is not a number from 1 to 200",
        "image_class_labels.txt, line 5: image 9 is not in images.txt",
        "images.txt, line 5: 'five path.jpg' is not a number and a text",
        "images.txt, line 6: number 2 stands in line 2 already",
        "images.txt, line 8: '6' is not a number and a text",
        "images.txt, line 9: image 7 is not in image_class_labels.txt",
    ]
    with pytest.raises(DatasetError, match="7 of them"):
        CUB().train(tmp_path)


def test_one_text_file_without_the_other_is_a_problem(tmp_path: Path) -> None:
    (make_cub(tmp_path, (1, 101), 1) / "image_class_labels.txt").unlink()
    assert problems(tmp_path) == ["image_class_labels.txt: the file is missing"]


def test_a_folder_without_a_class_number_is_a_problem(tmp_path: Path) -> None:
    base = make_cub(tmp_path, (1, 101), 1, texts=False)
    write_picture(base / "images" / "Cardinal" / "1.jpg", 1, 1)
    write_picture(base / "images" / "201.Dodo" / "1.jpg", 1, 1)
    assert problems(tmp_path) == [
        "images/201.Dodo: the name has no class number from 1 to 200 in front",
        "images/Cardinal: the name has no class number from 1 to 200 in front",
    ]


def test_the_index_is_read_once_by_each_object(tmp_path: Path) -> None:
    base = make_cub(tmp_path, LAST, 1)
    source = CUB()
    assert source.index(tmp_path) is source.index(tmp_path)
    (base / "images.txt").unlink()
    assert not source.index(tmp_path).problems
    assert CUB().index(tmp_path).problems
    assert len(source.index(make_cub(tmp_path / "other", LAST, 2)).parts["train"]) == 6

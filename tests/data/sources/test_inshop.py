from __future__ import annotations

from pathlib import Path

import pytest

from hyplearn.data.errors import DatasetError
from hyplearn.data.sources.inshop import InShop
from tests.support.retrieval_trees import make_inshop


def test_training_items_and_queries_against_a_gallery(tmp_path: Path) -> None:
    make_inshop(tmp_path, 6, 4)
    train, test = (InShop().part(tmp_path, part) for part in ("train", "test"))
    assert train is not None and test is not None
    assert train.labels.bincount().tolist() == [4, 4, 4]
    assert train.class_names[:3] == ("id_00000003", "id_00000009", "id_00000015")
    assert test.labels.bincount().tolist() == [0, 0, 0, 4, 4, 4]
    assert test.query.tolist() == [True, True, False, False] * 3
    assert test.gallery.equal(~test.query)
    assert test.super_names == ("MEN/Denim", "WOMEN/Dresses")
    assert all(path.is_file() for path in train.images.absolute() + test.images.absolute())
    assert InShop().facts(tmp_path).num_classes == 3


def test_images_beside_the_list_are_found(tmp_path: Path) -> None:
    base = make_inshop(tmp_path, 4, 2)
    (base / "Eval" / "list_eval_partition.txt").rename(base / "list_eval_partition.txt")
    (base / "Img" / "img").rename(base / "img")
    (base / "Img").rmdir()
    assert all(path.is_file() for path in InShop().part(base, "test").images.absolute())  # type: ignore[union-attr]


def test_every_bad_line_is_named(tmp_path: Path) -> None:
    base = make_inshop(tmp_path, 4, 2)
    path = base / "Eval" / "list_eval_partition.txt"
    with path.open("a") as file:
        file.write(
            "img/MEN/Denim/x.jpg id_1 validation\nimg/MEN/Denim/y.jpg id_1\nimg/MEN/Denim/z.jpg id_00000003 query\n"
        )
    assert [str(problem).removeprefix(f"{path}, ") for problem in InShop().index(tmp_path).problems] == [
        "line 1: 8 images are announced, 11 are named",
        "line 11: 'img/MEN/Denim/x.jpg id_1 validation' is not image_name item_id evaluation_status with train, query "
        "or gallery",
        "line 12: 'img/MEN/Denim/y.jpg id_1' is not image_name item_id evaluation_status with train, query or gallery",
        "line 13: class id_00000003 is in train and in test, but no class may be in two parts",
    ]


def test_the_first_line_is_the_number_of_images(tmp_path: Path) -> None:
    path = make_inshop(tmp_path, 4, 2) / "Eval" / "list_eval_partition.txt"
    path.write_text("\n".join(["many", *path.read_text().splitlines()[1:]]))
    with pytest.raises(DatasetError, match="line 1: the first line is not the number of images"):
        InShop().train(tmp_path)


def test_the_set_is_given_out_on_request_so_its_place_is_told(tmp_path: Path) -> None:
    assert InShop().facts(tmp_path).num_classes == 3997
    with pytest.raises(DatasetError, match=r"on request .* Eval/list_eval_partition\.txt and, unpacked, Img/img\.zip"):
        InShop().prepare(tmp_path)

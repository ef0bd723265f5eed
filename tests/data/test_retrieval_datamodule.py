from __future__ import annotations

import json
import logging
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from hyplearn.data.batches.crops import CenterCrop, RandomCrop
from hyplearn.data.batches.transforms import Augmentation
from hyplearn.data.errors import BadImagesError, DatasetError
from hyplearn.data.retrieval_datamodule import RetrievalDataModule
from hyplearn.data.sources.cub import CUB
from hyplearn.data.sources.inshop import InShop
from hyplearn.data.sources.retrieval_arrays import DigitsRetrieval
from hyplearn.data.sources.retrieval_csv import CSVRetrieval
from hyplearn.data.verify import verify
from tests.support.retrieval_trees import make_cub, make_inshop

NUMBERS = {"mean": [0.3], "std": [0.4]}


def digits(**options: Any) -> RetrievalDataModule:
    chosen = {"batch_size": 12, "images_per_class": 4, "val_fraction": 0.4, **NUMBERS}
    return RetrievalDataModule(DigitsRetrieval(), **{**chosen, **options})


def birds(root: Path, **options: Any) -> RetrievalDataModule:
    chosen = {"batch_size": 6, "images_per_class": 2, "val_fraction": 0.4, "num_workers": 0, "image_size": 16}
    return RetrievalDataModule(CUB(), root=root, **{**NUMBERS, **chosen, **options})


def everything(data: RetrievalDataModule, split: Any, **options: Any) -> list[torch.Tensor]:
    return [torch.cat(parts) for parts in zip(*data.batches(split, **options), strict=True)]


def ready(data: RetrievalDataModule) -> RetrievalDataModule:
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    return data


def test_validation_classes_are_other_classes_than_those_trained_on() -> None:
    data = ready(digits(sampler="shuffled", images_per_class=None))
    official = {part: DigitsRetrieval().part(None, part).labels.bincount() for part in ("train", "test")}  # type: ignore[union-attr,arg-type]
    assert data.class_names is not None
    trained = [int(name) for name in data.class_names]
    labels = everything(data, "train")[1]
    assert labels.bincount().tolist() == official["train"][trained].tolist()  # contiguous, in the order of the classes
    held_out = sorted(set(range(5)) - set(trained))
    assert data.num_classes == len(trained) == 3
    assert everything(data, "val")[1].unique().tolist() == held_out
    assert everything(data, "test")[1].bincount().tolist() == official["test"].tolist()


def test_the_split_follows_split_seed_alone() -> None:
    kept = {seed: digits(seed=seed).class_names for seed in (0, 1)}
    assert kept[0] == kept[1]
    assert len({digits(split_seed=seed).class_names for seed in range(10)}) > 1


def test_the_protocol_of_the_papers_has_no_validation() -> None:
    data = ready(digits(val_fraction=0.0))
    assert data.num_classes == 5
    assert data.val_dataloader() == []
    assert data.selection == data.fingerprint["selection"] == "none"
    with pytest.raises(ValueError, match="there are no val images: val_fraction is 0"):
        data.evaluation("val")


def test_selecting_on_the_test_classes_is_stamped() -> None:
    data = digits(val_fraction=0.0, select_on_test=True)
    data.setup("fit")
    assert everything(data, "val")[1].unique().tolist() == [5, 6, 7, 8, 9]
    assert data.evaluation("val").labels.equal(everything(data, "val")[1])
    assert data.selection == data.fingerprint["selection"] == "test"
    assert data.num_classes == 5
    assert digits().selection == "validation"
    with pytest.raises(ValueError, match="set val_fraction=0 with it"):
        digits(select_on_test=True)


@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluation_tells_of_the_images_in_the_order_of_their_ids(tmp_path: Path, split: Any) -> None:
    make_cub(tmp_path, per_class=3)
    data = ready(birds(tmp_path, eval_batch_size=4))
    images, labels, ids = everything(data, split)
    found = data.evaluation(split)
    assert ids.equal(torch.arange(len(found.labels)))  # every image once
    assert labels.equal(found.labels)
    assert found.query.all() and found.gallery.all()
    assert found.paths is not None
    for path, label in zip(found.paths, found.labels.tolist(), strict=True):
        assert path.split("/")[1] == found.class_names[label]
    shown = data.thumbnails(split, torch.tensor([3, 0]))
    assert shown.shape == (2, 16, 16, 3)
    assert torch.allclose((shown / 255 - 0.3) / 0.4, images[[3, 0]].permute(0, 2, 3, 1), atol=1e-6)
    assert data.thumbnails(split, torch.tensor([], dtype=torch.int64)).shape == (0, 16, 16, 3)


def test_queries_and_gallery_come_from_the_source(tmp_path: Path) -> None:
    make_inshop(tmp_path, 8, 4)
    data = RetrievalDataModule(
        InShop(),
        root=tmp_path,
        batch_size=4,
        images_per_class=2,
        val_fraction=0.5,
        image_size=16,
        num_workers=0,
        **NUMBERS,
    )
    found = ready(data).evaluation("test")
    assert found.query.tolist() == [True, True, False, False] * 4
    assert found.gallery.equal(~found.query)
    assert found.super_names == ("MEN/Denim", "WOMEN/Dresses")
    assert found.super_labels is not None
    assert data.evaluation("val").query.all()


def test_a_source_with_validation_images_gives_those(tmp_path: Path) -> None:
    make_cub(tmp_path, per_class=2)
    paths = [p.relative_to(tmp_path).as_posix() for p in sorted(tmp_path.rglob("*.jpg"))]
    parts = ["train"] * 6 + ["val"] * 4 + ["test"] * 6
    rows = [f"{path},{path.split('/')[2]},{part}" for path, part in zip(paths, parts, strict=True)]
    (tmp_path / "images.csv").write_text("\n".join(["path,label,split", *rows]))
    options = {"root": tmp_path, "batch_size": 4, "images_per_class": 2, "image_size": 16, "num_workers": 0, **NUMBERS}
    data = ready(RetrievalDataModule(CSVRetrieval(), **options))
    assert data.num_classes == 3
    assert data.fingerprint["counts"] == {"train": 6, "val": 4, "test": 6}
    without = ready(RetrievalDataModule(CSVRetrieval(), **options, val_fraction=0.0))
    assert without.fingerprint["counts"] == {"train": 6, "val": 0, "test": 6}


def test_facts_come_from_the_index_and_not_from_images(tmp_path: Path) -> None:
    make_cub(tmp_path)
    for path in tmp_path.rglob("*.jpg"):
        path.write_bytes(b"unreadable")
    data = birds(tmp_path)
    assert (data.num_classes, data.in_channels, data.image_size) == (3, 3, 16)
    data.check_batches()
    full = birds(tmp_path / "nowhere", val_fraction=0.1)
    assert full.num_classes == 90


def test_class_batches_come_from_the_sampler() -> None:
    for sampler, batches in (("unique_class", 1), ("class_balanced", 542 // 12)):
        data = digits(sampler=sampler)
        data.setup("fit")
        found = list(data.batches("train"))
        assert len(found) == len(data.train_dataloader()) == batches
        for _, labels, ids in found:
            assert labels.reshape(3, 4)[:, 0].sort().values.tolist() == [0, 1, 2]
            assert len(ids.unique()) == 12


def test_a_position_in_an_epoch_is_found_again() -> None:
    data = digits(augmentation=Augmentation(crop_padding=1, rotation=10.0))
    data.setup("fit")
    whole, part = data.train_dataloader(), data.train_dataloader()
    for loader in (whole, part):
        loader.sampler.set_epoch(2)
    expected = list(whole)[5:]
    iterator = iter(whole)
    for _ in range(5):
        next(iterator)
    part.load_state_dict(whole.state_dict())
    for batch, again in zip(expected, part, strict=True):
        assert batch.images.equal(again.images)
        assert batch.draws is not None and again.draws is not None
        assert batch.draws.equal(again.draws)


def test_a_batch_that_cannot_be_formed_is_an_error_before_images_are_read(tmp_path: Path) -> None:
    make_cub(tmp_path)
    for path in tmp_path.rglob("*.jpg"):
        path.write_bytes(b"unreadable")
    data = birds(tmp_path, batch_size=8)
    message = "a batch of 8 with images_per_class=2 needs 4 classes, but 3 are trained on: set batch_size to 6"
    with pytest.raises(ValueError, match=message):
        data.check_batches()
    with pytest.raises(ValueError, match=message):
        data.setup("fit")
    with pytest.raises(ValueError, match="of the 4 processes"):
        birds(tmp_path).check_batches(processes=4)


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.8])
def test_too_few_classes_on_either_side_are_an_error_before_images_are_read(fraction: float) -> None:
    for _ in range(2):  # the second time as well
        data = digits(val_fraction=fraction)
        with pytest.raises(
            ValueError, match=rf"val_fraction={fraction} of 5 training classes .* set val_fraction=0\.4 or"
        ):
            data.facts()
        with pytest.raises(ValueError, match=r"set val_fraction=0\.4"):
            _ = data.num_classes


def test_a_limit_takes_images_of_every_class() -> None:
    data = ready(digits(limit_train=30))
    assert data.fingerprint["counts"]["train"] == 30
    assert data._images["train"].labels.bincount().tolist() == [10, 10, 10]


def test_statistics_of_a_backbone_have_to_be_filled_in(tmp_path: Path) -> None:
    make_cub(tmp_path)
    data = ready(birds(tmp_path, mean=None, std=None))
    assert data.num_classes == 3
    with pytest.raises(ValueError, match=r"dataset\.mean=null and dataset\.std=null stand for .* give numbers"):
        next(data.batches("train"))
    with pytest.raises(ValueError, match="mean and std are both numbers or both null"):
        birds(tmp_path, mean=None)


def break_tree(root: Path) -> list[str]:
    """One missing file and one broken file of each part; their paths."""
    broken = []
    for number in (1, 2, 3, 4, 5, 101):
        folder = root / "CUB_200_2011" / "images" / f"{number:03d}.Bird_{number}"
        missing, bad, *_ = sorted(folder.iterdir())
        missing.unlink()
        bad.write_bytes(b"unreadable")
        broken += [missing.name, bad.name]
    return broken


@pytest.mark.parametrize("cache", ["memory", "none"])
def test_missing_and_broken_files_of_all_parts_stop_before_training(tmp_path: Path, cache: Any) -> None:
    make_cub(tmp_path)
    names = break_tree(tmp_path)
    with pytest.raises(BadImagesError, match="12 of 32 images cannot be used") as caught:
        birds(tmp_path, cache=cache).setup("fit")
    for name in names:
        assert name in str(caught.value)
    assert "Bird_1_0000.jpg: No such file (named by" in str(caught.value)
    assert "images.txt, line 1)" in str(caught.value)


def test_missing_files_stop_even_where_files_are_not_decoded_beforehand(tmp_path: Path) -> None:
    make_cub(tmp_path)
    break_tree(tmp_path)
    with pytest.raises(BadImagesError, match="6 of 32 images cannot be used"):
        birds(tmp_path, cache="none", check_images=False).setup("fit")


@pytest.mark.parametrize("cache", ["memory", "none"])
def test_missing_and_broken_files_are_skipped_and_reported(tmp_path: Path, cache: Any) -> None:
    make_cub(tmp_path)
    names = break_tree(tmp_path)
    data = ready(birds(tmp_path, cache=cache, on_bad_image="skip"))
    skipped = [path.split("/")[-1] for paths in data.fingerprint["skipped"].values() for path in paths]
    assert sorted(skipped) == sorted(names)
    assert data.fingerprint["counts"] == {"train": 6, "val": 4, "test": 10}
    for split in ("val", "test"):
        found = data.evaluation(split)  # type: ignore[arg-type]
        assert found.paths is not None
        assert not set(names) & {path.split("/")[-1] for path in found.paths}
        assert len(found.paths) == len(found.query) == len(found.labels)
        assert everything(data, split)[1].equal(found.labels)


def test_a_class_that_loses_its_images_is_told_and_not_drawn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_cub(tmp_path)
    for path in (tmp_path / "CUB_200_2011" / "images" / "003.Bird_3").iterdir():
        path.unlink()
    with caplog.at_level(logging.WARNING):
        data = birds(tmp_path, on_bad_image="skip", val_fraction=0.0)
        data.setup("fit")
    assert "1 of 5 training classes have no image left" in caplog.text
    assert data.num_classes == 5
    assert set(everything(data, "train")[1].tolist()) <= {0, 1, 3, 4}


def test_files_that_were_checked_are_not_decoded_again_for_the_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_cub(tmp_path)
    data = birds(tmp_path, cache="none")
    data.setup("fit")
    monkeypatch.setattr("hyplearn.data.reading.files.decode", None)  # what checking calls
    monkeypatch.setattr("hyplearn.data.reading.files.ImageStream.check_transforms", lambda stream: None)
    data.setup("test")
    assert data.reading.check_images


def test_transforms_of_the_papers(tmp_path: Path) -> None:
    make_cub(tmp_path)
    data = birds(
        tmp_path,
        cache="none",
        train_transform=RandomCrop(size=16, scale=(0.2, 1.0), interpolation="bicubic"),
        eval_transform=CenterCrop(resize=20, size=16, interpolation="bicubic"),
    )
    data.setup("fit")
    first, second = (everything(data, "train", epoch=epoch) for epoch in (0, 1))
    assert first[0].shape[1:] == (3, 16, 16)
    assert not first[0].equal(second[0])
    assert all(map(torch.equal, everything(data, "val", epoch=0), everything(data, "val", epoch=1)))


def test_the_fingerprint_is_json_and_tells_splits_apart() -> None:
    prints = [json.loads(json.dumps(ready(digits(split_seed=seed)).fingerprint)) for seed in (0, 0, 2)]
    assert prints[0] == prints[1]
    assert prints[0]["sha256"]["test"] == prints[2]["sha256"]["test"]
    assert prints[0]["sha256"]["train"] != prints[2]["sha256"]["train"]
    assert prints[0]["classes"] == {"train": 3, "val": 2, "test": 5}


def test_two_processes_share_the_batch_of_one() -> None:
    data = digits()
    data.setup("fit")
    loader = data.train_dataloader()
    whole = list(loader)
    for batch in whole[:3]:
        assert math.isclose(len(batch.ids), 12)
    parts = []
    for rank in range(2):
        loader.rank, loader.world_size = rank, 2
        parts.append(list(loader))
    for batch, first, second in zip(whole, *parts, strict=True):
        assert torch.cat([first.ids, second.ids]).equal(batch.ids)
        assert len(first.ids) == len(second.ids) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"sampler": "random"},
            "sampler='random' must be one of 'unique_class', 'class_balanced', 'class_balanced_replacement', ",
        ),
        ({"sampler": "shuffled"}, "set images_per_class=null, got 4"),
        ({"images_per_class": None}, "sampler=class_balanced needs images_per_class"),
        ({"drop_last": True}, "makes full batches only: set drop_last=false"),
        ({"on_bad_image": "skip"}, "digits_retrieval is not made of image files"),
    ],
)
def test_impossible_options_are_named_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        digits(**options)


def test_a_tree_without_test_classes_stops_before_training(tmp_path: Path) -> None:
    make_cub(tmp_path, (1, 2, 3, 4))
    with pytest.raises(DatasetError, match="holds no test images"):
        birds(tmp_path, val_fraction=0.5, batch_size=4).setup("fit")


UNREAD = """path,label,split,query,gallery
a1.png,a,train,,
a2.png,a,train,,
b1.png,b,train,,
b2.png,b,train,,
c1.png,c,val,,
c2.png,c,val,,
d1.png,d,val,,
e1.png,e,test,1,1
e2.png,e,test,0,1
f1.png,f,test,0,1
"""


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            "d1.png,d,val,,\n",
            "",
            r"the gallery of the val images holds one class \(2 query images of 1 classes, 2 gallery",
        ),
        (
            "c2.png,c,val",
            "c2.png,x,val",
            r"no val query .* \(3 query images of 3 classes, 3 gallery .*val_fraction=0 to",
        ),
        (
            "e2.png,e,",
            "e2.png,x,",
            r"no test query has another image of its class in the gallery \(1 query images of 1",
        ),
        (
            "e1.png,e,test,1,1",
            "e1.png,e,test,0,1",
            r"no test query .* \(0 query images of 0 classes, 3 gallery images of 2",
        ),
        (
            "f1.png,f,test,0,1",
            "f1.png,f,test,1,0",
            r"test images holds one class .* at least 2 classes in the gallery$",
        ),
    ],
)
def test_a_part_in_which_nothing_is_measured_stops_before_images_are_read(
    tmp_path: Path, before: str, after: str, message: str
) -> None:
    assert before in UNREAD
    options = {"root": tmp_path, "batch_size": 4, "images_per_class": 2, "image_size": 16, "num_workers": 0, **NUMBERS}
    (tmp_path / "images.csv").write_text(UNREAD)
    with pytest.raises(BadImagesError):  # nothing else is wrong
        RetrievalDataModule(CSVRetrieval(), **options).setup("fit")
    (tmp_path / "images.csv").write_text(UNREAD.replace(before, after))
    with pytest.raises(DatasetError, match=f"csv_retrieval: .*{message}"):
        RetrievalDataModule(CSVRetrieval(), **options).setup("fit")
    problems = [str(problem) for problem in verify(CSVRetrieval(), tmp_path).problems]
    assert any(re.search(message, problem) for problem in problems)


def test_validation_without_a_pair_is_no_matter_without_validation(tmp_path: Path) -> None:
    (tmp_path / "images.csv").write_text(UNREAD.replace("d1.png,d,val,,\n", ""))
    data = RetrievalDataModule(
        CSVRetrieval(), root=tmp_path, batch_size=4, images_per_class=2, val_fraction=0.0, image_size=16, **NUMBERS
    )
    with pytest.raises(BadImagesError):
        data.setup("fit")


def test_skipped_images_may_leave_nothing_to_measure(tmp_path: Path) -> None:
    make_cub(tmp_path, (1, 2, 3, 4, 101, 102), 2)
    for path in tmp_path.rglob("Bird_10*_0000.jpg"):
        path.unlink()
    data = birds(tmp_path, val_fraction=0.5, batch_size=4, on_bad_image="skip")
    with pytest.raises(DatasetError, match=r"no test query has another image .* \(2 query images of 2 classes"):
        data.setup("fit")


@pytest.mark.parametrize("cache", ["memory", "none"])
def test_test_files_are_looked_at_before_training_where_bad_ones_are_skipped(
    tmp_path: Path, cache: Any, caplog: pytest.LogCaptureFixture
) -> None:
    make_cub(tmp_path)
    break_tree(tmp_path)
    data = birds(tmp_path, cache=cache, on_bad_image="skip")
    with caplog.at_level(logging.WARNING):
        data.setup("fit")
    assert "Bird_101_0000.jpg: No such file" in caplog.text
    assert "test" not in data.fingerprint["counts"]
    caplog.clear()
    data.setup("test")
    assert "Bird_101" not in caplog.text
    alone = birds(tmp_path, cache=cache, on_bad_image="skip")
    alone.setup("test")
    assert data.fingerprint["skipped"]["test"] == alone.fingerprint["skipped"]["test"]
    assert data.fingerprint["sha256"]["test"] == alone.fingerprint["sha256"]["test"]
    assert data.evaluation("test").paths == alone.evaluation("test").paths

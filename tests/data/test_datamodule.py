from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torchvision.transforms import v2

from hyplearn.data.batches.transforms import Augmentation
from hyplearn.data.datamodule import ImageDataModule
from hyplearn.data.errors import BadImagesError, DatasetError
from hyplearn.data.sources.datasets import CIFAR10, Digits, FashionMNIST
from hyplearn.data.sources.folder import ImageFolder
from hyplearn.data.sources.synthetic import Synthetic


def synthetic(**options: Any) -> ImageDataModule:
    source = Synthetic(image_size=8, train_size=200, test_size=50)
    return ImageDataModule(source, **{"batch_size": 32, "mean": [0.5], "std": [0.25], **options})


def folder(root: Path, **options: Any) -> ImageDataModule:
    chosen = {"batch_size": 4, "mean": [0.5], "std": [0.25], "root": root, "image_size": 16, "num_workers": 0}
    return ImageDataModule(ImageFolder(), **{**chosen, **options})


def everything(data: ImageDataModule, split: Any, **options: Any) -> list[torch.Tensor]:
    return [torch.cat(parts) for parts in zip(*data.batches(split, **options), strict=True)]


def test_batches_are_normalised_and_channels_last() -> None:
    data = synthetic(augmentation=Augmentation(crop_padding=1, horizontal_flip=0.5))
    data.setup("fit")
    sizes = []
    for images, labels, ids in data.batches("train"):
        assert images.dtype == torch.float32
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert images.shape[1:] == (3, 8, 8)
        assert labels.dtype == ids.dtype == torch.int64
        sizes.append(len(images))
    assert sizes == [32] * 5 + [20]
    images, _, _ = everything(data, "train")
    assert images.min() >= -2
    assert images.max() <= 2


def test_training_is_augmented_and_validation_is_not() -> None:
    plain, augmented = synthetic(), synthetic(augmentation=Augmentation(crop_padding=1, horizontal_flip=0.5))
    for data in (plain, augmented):
        data.setup("fit")
    assert not everything(plain, "train")[0].equal(everything(augmented, "train")[0])
    assert everything(plain, "train")[2].equal(everything(augmented, "train")[2])
    assert all(map(torch.equal, everything(plain, "val"), everything(augmented, "val")))


def test_splits_do_not_overlap_and_do_not_depend_on_the_seed() -> None:
    ids = {}
    for seed in (0, 1):
        data = synthetic(seed=seed, val_fraction=0.2)
        data.setup("fit")
        ids[seed] = {split: everything(data, split)[2] for split in ("train", "val")}
        assert torch.cat(list(ids[seed].values())).sort().values.equal(torch.arange(200))
        _, labels, _ = everything(data, "val")
        assert torch.bincount(labels).tolist() == [4] * 10
    assert ids[0]["val"].equal(ids[1]["val"])
    assert not ids[0]["train"].equal(ids[1]["train"])  # the order does
    other = synthetic(split_seed=1, val_fraction=0.2)
    other.setup("fit")
    assert not everything(other, "val")[2].equal(ids[0]["val"])


def test_the_protocol_of_the_papers_has_no_validation() -> None:
    data = synthetic(val_fraction=0.0)
    data.setup("fit")
    assert data.val_dataloader() == []
    assert len(everything(data, "train")[2]) == 200


def test_a_limit_takes_training_images_only() -> None:
    full, limited = synthetic(), synthetic(limit_train=30)
    for data in (full, limited):
        data.setup("fit")
    _, labels, ids = everything(limited, "train")
    assert torch.bincount(labels).tolist() == [3] * 10
    assert set(ids.tolist()) < set(everything(full, "train")[2].tolist())
    assert everything(limited, "val")[2].equal(everything(full, "val")[2])
    assert limited.fingerprint["limit_train"] == 30
    assert limited.fingerprint["counts"]["train"] == 30


def test_broken_images_of_all_parts_stop_a_run_before_its_first_epoch(folder_root: Path) -> None:
    shutil.rmtree(folder_root / "test" / "ant")
    for path in (folder_root / "test" / "bee").iterdir():
        path.write_bytes(b"unreadable")
    next((folder_root / "train" / "ant").iterdir()).write_bytes(b"")
    data = folder(folder_root)
    data.prepare_data()
    with pytest.raises(BadImagesError, match=r"5 of .* images"):
        data.setup("fit")


@pytest.mark.parametrize("tested", [True, False], ids=["tested", "not tested"])
def test_a_message_about_broken_images_counts_those_looked_at(
    folder_root: Path, monkeypatch: pytest.MonkeyPatch, tested: bool
) -> None:
    next((folder_root / "train" / "ant").iterdir()).write_bytes(b"")
    data = folder(folder_root)
    counts = {part: sum(path.is_file() for path in (folder_root / part).rglob("*")) for part in ("train", "test")}
    read, asked = data.source.test, []
    monkeypatch.setattr(data.source, "test", lambda root: asked.append(root) or read(root))
    if not tested:
        data.trainer = SimpleNamespace(limit_test_batches=0, num_devices=1)  # type: ignore[assignment]
    with pytest.raises(BadImagesError, match=f"1 of {counts['train'] + tested * counts['test']} images"):
        data.setup("fit")
    assert len(asked) == tested  # test images are found once, and not at all where none will be read


def test_broken_test_images_can_be_left_out(folder_root: Path) -> None:
    broken, *rest = sorted((folder_root / "test" / "bee").iterdir())
    broken.write_bytes(b"unreadable")
    data = folder(folder_root, on_bad_image="skip")
    data.setup("fit")
    assert "test" not in data.fingerprint["counts"]
    data.setup("test")
    assert data.fingerprint["skipped"] == {"test": [f"test/bee/{broken.name}"]}
    alone = folder(folder_root, on_bad_image="skip")
    alone.setup("test")  # as evaluation does, without a look beforehand
    assert alone.fingerprint["sha256"]["test"] == data.fingerprint["sha256"]["test"]
    assert everything(alone, "test")[0].equal(everything(data, "test")[0])
    for path in rest:
        path.write_bytes(b"unreadable")
    shutil.rmtree(folder_root / "test" / "ant")
    with pytest.raises(DatasetError, match="none of the 4 images"):
        folder(folder_root, on_bad_image="skip").setup("fit")


def test_a_broken_batch_of_test_images_stops_a_run_before_its_first_epoch(cifar10_root: Path) -> None:
    (cifar10_root / "cifar-10-batches-py" / "test_batch").write_bytes(b"unreadable")
    data = ImageDataModule(CIFAR10(), batch_size=8, mean=[0.5], std=[0.25], root=cifar10_root)
    with pytest.raises(DatasetError, match="test_batch"):
        data.setup("fit")


def test_evaluation_reads_no_training_images(cifar10_root: Path) -> None:
    data = ImageDataModule(CIFAR10(), batch_size=8, mean=[0.5], std=[0.25], root=cifar10_root)
    (cifar10_root / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"unreadable")
    data.setup("test")
    assert everything(data, "test")[2].equal(torch.arange(20))
    assert data.fingerprint["counts"] == {"test": 20}


def test_facts_are_known_before_data_are_read(tmp_path: Path) -> None:
    data = ImageDataModule(
        FashionMNIST(), batch_size=8, mean=[0.3], std=[0.3], root=tmp_path, channels=3, image_size=32
    )
    assert (data.in_channels, data.num_classes, data.image_size) == (3, 10, 32)
    assert data.class_names is not None
    assert data.class_names[9] == "Ankle boot"


def test_class_names_in_files_are_found_after_preparation(cifar10_root: Path) -> None:
    meta = cifar10_root / "cifar-10-batches-py" / "batches.meta"
    content = meta.read_bytes()
    meta.unlink()
    data = ImageDataModule(CIFAR10(), batch_size=8, mean=[0.5], std=[0.25], root=cifar10_root)
    assert data.class_names is None
    meta.write_bytes(content)
    data.setup("fit")
    assert data.class_names == tuple(f"name {i}" for i in range(10))


def test_digits_at_another_size_in_colour() -> None:
    data = ImageDataModule(Digits(), batch_size=64, mean=[0.305], std=[0.376], image_size=16, channels=3)
    data.setup("fit")
    images, _, _ = everything(data, "train")
    assert images.shape == (1294, 3, 16, 16)
    assert images[:, 0].equal(images[:, 2])
    assert abs(images.mean().item()) < 0.05
    assert images.std().item() == pytest.approx(1, abs=0.2)


def test_the_fingerprint_identifies_data_and_splits_and_is_json() -> None:
    prints = []
    for options in ({}, {}, {"split_seed": 1}, {"val_fraction": 0.2}, {"limit_train": 50}):
        data = synthetic(**options)
        data.setup("fit")
        data.setup("test")
        prints.append(json.loads(json.dumps(data.fingerprint)))
    assert prints[0] == prints[1]
    assert prints[0]["name"] == "synthetic"
    assert prints[0]["counts"] == {"train": 180, "val": 20, "test": 50}
    assert prints[0]["sha256"].keys() == {"train", "test"}
    for other in prints[2:]:
        assert other["sha256"] == prints[0]["sha256"]
        assert other["splits"]["train"] != prints[0]["splits"]["train"]


def test_image_files_in_memory_or_not_give_the_same_batches(folder_root: Path) -> None:
    augmentation = Augmentation(crop_padding=2, horizontal_flip=0.5)
    first, second = (folder(folder_root, cache=cache, augmentation=augmentation) for cache in ("memory", "none"))
    for data in (first, second):
        data.setup("fit")
    for split in ("train", "val"):
        assert all(map(torch.equal, everything(first, split, epoch=3), everything(second, split, epoch=3)))
    assert first.fingerprint == second.fingerprint


def test_a_random_transform_is_for_training_alone(folder_root: Path) -> None:
    data = folder(folder_root, train_transform=v2.RandomResizedCrop(16))
    data.setup("fit")
    epochs = [everything(data, "train", epoch=epoch) for epoch in (0, 0, 1)]
    by_id = [images[ids.argsort()] for images, _, ids in epochs]
    assert by_id[0].equal(by_id[1])
    assert not by_id[0].equal(by_id[2])
    assert everything(data, "val", epoch=0)[0].equal(everything(data, "val", epoch=1)[0])


def test_a_validation_folder_is_used_instead_of_a_split(folder_root: Path) -> None:
    shutil.copytree(folder_root / "test", folder_root / "val")
    data = folder(folder_root)
    data.setup("fit")
    assert data.fingerprint["counts"] == {"train": 20, "val": 8}
    without = folder(folder_root, val_fraction=0.0)
    without.setup("fit")
    assert without.fingerprint["counts"] == {"train": 20, "val": 0}


def test_skipped_files_are_in_the_fingerprint(folder_root: Path) -> None:
    (folder_root / "train" / "ant" / "3.png").write_bytes(b"")
    data = folder(folder_root, on_bad_image="skip", image_size=16)
    data.setup("fit")
    assert data.fingerprint["skipped"] == {"train": ["train/ant/3.png"]}
    assert data.fingerprint["counts"] == {"train": 17, "val": 2}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 1}, "batch_size must be at least 2, got 1"),
        ({"eval_batch_size": 0}, "eval_batch_size must be at least 1, got 0"),
        ({"val_fraction": 1.0}, r"val_fraction must be in \[0, 1\), got 1.0"),
        ({"limit_train": 0}, "limit_train must be at least 1, got 0"),
        ({"image_size": 7}, "image_size must be at least 8, got 7"),
        ({"channels": 2}, "channels must be 1, 3 or null"),
        ({"on_bad_image": "skip"}, "synthetic is not made of image files: leave out .*on_bad_image"),
    ],
)
def test_impossible_options_are_named_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        synthetic(**options)


def test_statistics_for_other_channels_are_named_before_data_are_read() -> None:
    with pytest.raises(ValueError, match="2 values for images of 3 channels"):
        synthetic(mean=[0.5, 0.5], std=[0.2, 0.2]).facts()


def test_files_of_any_size_need_an_image_size(folder_root: Path) -> None:
    with pytest.raises(ValueError, match=r"image_folder has images of any size: set dataset\.image_size"):
        folder(folder_root, image_size=None).facts()

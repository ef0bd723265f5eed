from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets as official

from hyplearn.data.errors import DatasetError
from hyplearn.data.reading import download
from hyplearn.data.reading.decoding import decode
from hyplearn.data.sources.datasets import CIFAR10, CIFAR100, Digits, FashionMNIST, TinyImageNet
from hyplearn.data.sources.source import Source


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(url: str, *args: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(download, "download_url", no_network)


def test_digits_are_a_fixed_stratified_split() -> None:
    train, test = Digits().train(None), Digits().test(None)
    assert (len(train), len(test)) == (1438, 359)
    assert train.pixels.shape[1:] == (8, 8, 1)
    assert (train.pixels.min(), train.pixels.max()) == (0, 255)
    for images in (train, test):
        counts = torch.bincount(images.labels)
        assert counts.max() - counts.min() <= 8
    assert not {row.numpy().tobytes() for row in test.pixels} & {row.numpy().tobytes() for row in train.pixels}
    # The split behind every reported number: a change of it is a change of the data set.
    assert train.sha256()[:16] == "e34c3384c6d08e52"
    assert test.sha256()[:16] == "69b53cf05200c41d"


def test_fashion_mnist_as_debian_installs_it(fashion_root: Path) -> None:
    source = FashionMNIST()
    source.prepare(fashion_root)
    train, test = source.train(fashion_root), source.test(fashion_root)
    assert (train.pixels.shape, test.pixels.shape) == ((40, 28, 28, 1), (20, 28, 28, 1))
    assert train.labels.tolist() == [i % 10 for i in range(40)]
    raw = gzip.decompress((fashion_root / "t10k-images-idx3-ubyte.gz").read_bytes())
    assert test.pixels.numpy().tobytes() == raw[16:]


DEBIAN = Path("/usr/share/datasets/fashion-mnist")


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_the_real_fashion_mnist_of_debian() -> None:
    source = FashionMNIST()
    source.prepare(DEBIAN)
    train, test = source.train(DEBIAN), source.test(DEBIAN)
    assert torch.bincount(train.labels).tolist() == [6000] * 10
    assert torch.bincount(test.labels).tolist() == [1000] * 10
    assert (train.pixels.double().mean() / 255).item() == pytest.approx(0.2860, abs=1e-4)  # the published value


def test_fashion_mnist_as_torchvision_unpacks_it(fashion_root: Path, tmp_path: Path) -> None:
    raw = tmp_path / "other" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for path in fashion_root.glob("*.gz"):
        (raw / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    FashionMNIST().prepare(tmp_path / "other")
    ours = FashionMNIST().train(tmp_path / "other")
    theirs = official.FashionMNIST(tmp_path / "other", train=True)
    assert torch.equal(ours.pixels[..., 0], theirs.data)
    assert torch.equal(ours.labels, theirs.targets)


@pytest.mark.usefixtures("offline")
def test_missing_fashion_mnist_says_what_to_place_where(tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        FashionMNIST().prepare(tmp_path)
    message = str(caught.value)
    for filename, _ in official.FashionMNIST.resources:
        assert filename in message
    assert "train-images-idx3-ubyte.gz cannot be downloaded" in message
    assert f"in {tmp_path}" in message
    assert "dataset.root=/usr/share/datasets/fashion-mnist" in message


@pytest.mark.parametrize("inside", [False, True], ids=["above", "inside"])
def test_cifar10(inside: bool, cifar10_root: Path) -> None:
    root = cifar10_root / "cifar-10-batches-py" if inside else cifar10_root
    source = CIFAR10()
    source.prepare(root)
    train, test = source.train(root), source.test(root)
    assert (train.pixels.shape, test.pixels.shape) == ((100, 32, 32, 3), (20, 32, 32, 3))
    assert train.labels.tolist() == [i % 10 for i in range(20)] * 5
    assert source.facts(root).class_names == tuple(f"name {i}" for i in range(10))


def test_cifar_pixels_are_those_of_torchvision(cifar10_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(official.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(official.CIFAR10, "_load_meta", lambda self: None)
    theirs = official.CIFAR10(cifar10_root, train=True)
    ours = CIFAR10().train(cifar10_root)
    assert np.array_equal(ours.pixels.numpy(), theirs.data)
    assert ours.labels.tolist() == theirs.targets


def test_cifar100_takes_the_fine_labels(cifar100_root: Path) -> None:
    source = CIFAR100()
    source.prepare(cifar100_root)
    assert torch.bincount(source.train(cifar100_root).labels).tolist() == [2] * 100
    assert torch.bincount(source.test(cifar100_root).labels).tolist() == [1] * 100
    names = source.facts(cifar100_root).class_names
    assert names is not None
    assert names[99] == "name 99"


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("source", "archive", "folder"),
    [
        (CIFAR10(), "cifar-10-python.tar.gz", "cifar-10-batches-py/"),
        (CIFAR100(), "cifar-100-python.tar.gz", "cifar-100-python/"),
        (TinyImageNet(), "tiny-imagenet-200.zip", "tiny-imagenet-200/"),
    ],
)
def test_missing_archives_say_what_to_place_where(source: Source, archive: str, folder: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        source.prepare(tmp_path)
    message = str(caught.value)
    assert f"{archive} cannot be downloaded to {tmp_path} (Network is unreachable)" in message
    assert f"Place {archive} in {tmp_path}, or the folder {folder}" in message
    assert "dataset.root" in message


def test_an_incomplete_cifar_folder_names_what_is_missing(cifar10_root: Path) -> None:
    (cifar10_root / "cifar-10-batches-py" / "data_batch_3").unlink()
    with pytest.raises(DatasetError, match=f"data_batch_3 not found below {cifar10_root}"):
        CIFAR10().prepare(cifar10_root)


def test_tiny_imagenet(tiny_imagenet_root: Path) -> None:
    source = TinyImageNet()
    source.prepare(tiny_imagenet_root)
    train, test = source.train(tiny_imagenet_root), source.test(tiny_imagenet_root)
    assert torch.bincount(train.labels).tolist() == [10] * 3
    assert torch.bincount(test.labels).tolist() == [2] * 3
    for path, label in zip(train.paths, train.labels.tolist(), strict=True):
        assert path.startswith(f"train/{['n01', 'n02', 'n03'][label]}/images/")  # in alphabetical order
    annotated = dict(zip(test.paths, test.labels.tolist(), strict=True))
    assert [annotated[f"val/images/val_{i}.JPEG"] for i in range(6)] == [2, 2, 0, 0, 1, 1]
    assert decode(test.absolute()[0], channels=3).size == (64, 64)
    assert source.facts(tiny_imagenet_root).class_names == ("goldfish, Carassius auratus", "toad", "n03")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("val_0.JPEG\tn07\t0\t0\t63\t63", "line 7: .* n07 is no class of wnids.txt"),
        ("val_0.JPEG", "line 7: 'val_0.JPEG': an empty name is no class"),
    ],
)
def test_bad_annotations_are_named_with_their_line(line: str, message: str, tiny_imagenet_root: Path) -> None:
    with (tiny_imagenet_root / "tiny-imagenet-200" / "val" / "val_annotations.txt").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DatasetError, match=message):
        TinyImageNet().test(tiny_imagenet_root)


def test_incomplete_tiny_imagenet_names_what_is_missing(tiny_imagenet_root: Path) -> None:
    (tiny_imagenet_root / "tiny-imagenet-200" / "val" / "val_annotations.txt").unlink()
    with pytest.raises(DatasetError, match=f"val/val_annotations.txt not found below {tiny_imagenet_root}"):
        TinyImageNet().prepare(tiny_imagenet_root)
    shutil.rmtree(tiny_imagenet_root / "tiny-imagenet-200" / "train")
    (tiny_imagenet_root / "tiny-imagenet-200" / "train").mkdir()
    with pytest.raises(DatasetError, match=r"no images found in .*/train/<class>/images"):
        TinyImageNet().train(tiny_imagenet_root)


@pytest.mark.parametrize(
    ("source", "channels", "classes", "size"),
    [
        (Digits(), 1, 10, 8),
        (FashionMNIST(), 1, 10, 28),
        (CIFAR10(), 3, 10, 32),
        (CIFAR100(), 3, 100, 32),
        (TinyImageNet(), 3, 200, 64),
    ],
)
def test_facts_need_no_files(source: Source, channels: int, classes: int, size: int, tmp_path: Path) -> None:
    facts = source.facts(tmp_path if source.name != "digits" else None)
    assert (facts.in_channels, facts.num_classes, facts.image_size) == (channels, classes, size)
    assert facts.class_names is None or len(facts.class_names) == classes


@pytest.mark.parametrize("source", [FashionMNIST(), CIFAR10(), TinyImageNet()])
def test_sets_in_files_need_a_root(source: Source) -> None:
    with pytest.raises(ValueError, match=f"{source.name} is read from files: set dataset.root"):
        source.prepare(None)


def test_digits_need_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"set dataset\.root=null"):
        Digits().facts(tmp_path)

"""Small data sets in the official on-disk formats."""

from __future__ import annotations

import gzip
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def write_idx(path: Path, array: np.ndarray) -> None:
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    content = header + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture
def fashion_root(tmp_path: Path, rng: np.random.Generator) -> Path:
    """40 training and 20 test images as Debian's package installs them."""
    for part, count in (("train", 40), ("t10k", 20)):
        write_idx(tmp_path / f"{part}-images-idx3-ubyte.gz", rng.integers(0, 256, (count, 28, 28)))
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte.gz", np.arange(count) % 10)
    return tmp_path


def _write_pickle(path: Path, content: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=2))  # that of the archive


@pytest.fixture
def cifar10_root(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Five batches of 20 images and a test batch of 20."""
    folder = tmp_path / "cifar-10-batches-py"
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        data = rng.integers(0, 256, (20, 3072), dtype=np.uint8)
        labels = [i % 10 for i in range(20)]
        _write_pickle(folder / name, {"batch_label": name, "labels": labels, "data": data, "filenames": ["x.png"] * 20})
    _write_pickle(folder / "batches.meta", {"label_names": [f"name {i}" for i in range(10)]})
    return tmp_path


@pytest.fixture
def cifar100_root(tmp_path: Path, rng: np.random.Generator) -> Path:
    folder = tmp_path / "cifar-100-python"
    for name, count in (("train", 200), ("test", 100)):
        data = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
        fine = [i % 100 for i in range(count)]
        _write_pickle(folder / name, {"fine_labels": fine, "coarse_labels": [i // 5 for i in fine], "data": data})
    _write_pickle(folder / "meta", {"fine_label_names": [f"name {i}" for i in range(100)]})
    return tmp_path


WriteImage = Callable[..., Path]


@pytest.fixture
def write_image(rng: np.random.Generator) -> WriteImage:
    """Write a random colour image of `size` (width, height); returns its path."""

    def write(path: Path, size: tuple[int, int] = (20, 16)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        width, height = size
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
        return path

    return write


@pytest.fixture
def tiny_imagenet_root(tmp_path: Path, write_image: WriteImage) -> Path:
    """Three of the 200 classes, ten training and two validation images each."""
    folder = tmp_path / "tiny-imagenet-200"
    wnids = ["n03", "n01", "n02"]
    lines = []
    for index, wnid in enumerate(wnids):
        for i in range(10):
            write_image(folder / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", (64, 64))
        for i in range(2):
            name = f"val_{index * 2 + i}.JPEG"
            write_image(folder / "val" / "images" / name, (64, 64))
            lines.append(f"{name}\t{wnid}\t0\t0\t63\t63\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    (folder / "wnids.txt").write_text("\n".join(wnids) + "\n")
    (folder / "words.txt").write_text("n01\tgoldfish, Carassius auratus\nn02\ttoad\nn99\tunused\n")
    return tmp_path


@pytest.fixture
def folder_root(tmp_path: Path, write_image: WriteImage) -> Path:
    """Classes ant and bee: 10 training images each of various sizes, 4 test images each."""
    root = tmp_path / "images"
    for part, count in (("train", 10), ("test", 4)):
        for name in ("ant", "bee"):
            for i in range(count):
                write_image(root / part / name / f"{i}.png", (12 + i, 20 - i))
    return root

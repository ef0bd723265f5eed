from __future__ import annotations

import gzip
import pickle
from pathlib import Path

import numpy as np
import pytest

from hyplearn.data.errors import DatasetError
from hyplearn.data.reading.formats import read_cifar_batch, read_idx, read_idx_pair, read_pickle


def idx(*shape: int, kind: int = 8) -> bytes:
    header = bytes([0, 0, kind, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
    return header + bytes(range(int(np.prod(shape))))


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_arrays(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"array{suffix}"
    path.write_bytes(gzip.compress(idx(2, 3, 4), mtime=0) if suffix else idx(2, 3, 4))
    assert np.array_equal(read_idx(path), np.arange(24).reshape(2, 3, 4))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("short", idx(2, 3, 4)[:-1]),
        ("long", idx(2, 3, 4) + b"0"),
        ("float", idx(2, 3, kind=13)),
        ("header", b"\0\0\x08"),
        ("empty", b""),
        ("cut.gz", gzip.compress(idx(2, 3, 4), mtime=0)[:-9]),
        ("plain.gz", idx(2, 3, 4)),
        ("damaged.gz", gzip.compress(idx(200), mtime=0)[:12] + b"\xff" * 200),
    ],
)
def test_broken_idx_files_are_named(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=rf"{name}: .*remove it and place or download it again"):
        read_idx(tmp_path / name)


def test_images_and_labels_of_other_lengths_do_not_fit(tmp_path: Path) -> None:
    (tmp_path / "images").write_bytes(idx(2, 3, 4))
    (tmp_path / "labels").write_bytes(idx(3))
    with pytest.raises(DatasetError, match="are not images and their labels"):
        read_idx_pair(tmp_path / "images", tmp_path / "labels", num_classes=10)


def test_labels_outside_the_classes_are_named(tmp_path: Path) -> None:
    (tmp_path / "images").write_bytes(idx(3, 2, 2))
    (tmp_path / "labels").write_bytes(idx(3))
    with pytest.raises(DatasetError, match="labels from 0 to 2, needed are 0 to 1"):
        read_idx_pair(tmp_path / "images", tmp_path / "labels", num_classes=2)


def test_cifar_rows_are_planes_of_red_green_and_blue(tmp_path: Path) -> None:
    rows = np.arange(2 * 3072).astype(np.uint8).reshape(2, 3072)
    (tmp_path / "batch").write_bytes(pickle.dumps({"data": rows, "labels": [3, 4]}, protocol=2))
    images = read_cifar_batch(tmp_path / "batch", label_key="labels", num_classes=10)
    assert images.labels.tolist() == [3, 4]
    assert np.array_equal(images.pixels[1, :, :, 2].numpy(), rows[1].reshape(3, 32, 32)[2])


def test_a_pickle_of_python_2_is_read(tmp_path: Path) -> None:
    """The layout of the published archives: byte strings as keys, and NumPy's module of those days."""
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntU\x01btR"
    array += b"(I1\n(I3\ntcnumpy\ndtype\n(U\x02u1I0\nI1\ntR(I3\nU\x01|NNNI-1\nI-1\nI0\ntbI00\nU\x03abctb."
    (tmp_path / "old").write_bytes(b"\x80\x02}U\x04data" + array[:-1] + b"s.")
    assert read_pickle(tmp_path / "old")["data"].tolist() == [97, 98, 99]


def test_a_pickle_cannot_run_code(tmp_path: Path) -> None:
    (tmp_path / "batch").write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path).encode() + b"/ran'\ntR.")
    with pytest.raises(DatasetError, match=r"batch: it wants to load os\.system"):
        read_pickle(tmp_path / "batch")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Ran out of input"),
        (b"\x80\x02}q\x00(X\x04\x00", "truncated"),
        (b"garbage", "batch: "),
        (pickle.dumps([1]), "holds a list"),
        (pickle.dumps({"data": [1]}), "has no entry 'labels'"),
        (
            pickle.dumps({"data": np.zeros((2, 5), np.uint8), "labels": [0, 1]}, protocol=2),
            r"data uint8 \(2, 5\) and 2 labels",
        ),
        (pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [10]}, protocol=2), "labels from 10 to 10"),
    ],
)
def test_broken_cifar_files_are_named(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "batch").write_bytes(content)
    with pytest.raises(DatasetError, match=message) as caught:
        read_cifar_batch(tmp_path / "batch", label_key="labels", num_classes=10)
    assert str(tmp_path / "batch") in str(caught.value)

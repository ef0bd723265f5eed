"""Files that announce more than they hold, or hold more than they may: told before memory is taken."""

from __future__ import annotations

import gzip
import pickle
import struct
import threading
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hyplearn.data.errors import BadImageError, DatasetError
from hyplearn.data.reading import decoding
from hyplearn.data.reading.decoding import PixelBudget, decode, for_each_file
from hyplearn.data.reading.formats import read_idx, read_pickle
from hyplearn.data.sources import cars
from hyplearn.errors import ConfigError
from hyplearn.evaluation import store
from hyplearn.models.weights import load_weights
from hyplearn.runs import archives
from hyplearn.runs.archives import check_stored
from hyplearn.training.callbacks.history import recorded_rows
from hyplearn.training.checkpoint import WholeCheckpointIO, read_checkpoint


def png_header(path: Path, width: int, height: int) -> Path:
    """A picture of which nothing but its size is there."""
    Image.new("L", (1, 1)).save(path)
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", width, height)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(bytes(content))
    return path


def test_a_picture_beyond_the_limit_is_bad_in_every_thread(tmp_path: Path) -> None:
    paths = [png_header(tmp_path / f"{number}.png", 13_000, 13_000) for number in range(16)]
    bad = for_each_file(paths, lambda _, path: decode(path, channels=3), threads=8)
    assert len(bad) == 16
    assert all("13,000 x 13,000 pixels, more than" in str(error) or "pixels" in str(error) for error in bad.values())
    with pytest.raises(BadImageError, match="pixels"):
        decode(png_header(tmp_path / "huge.png", 2**31 - 1, 2**31 - 1), channels=1)


def test_threads_share_the_pixels_that_are_decoded_at_once() -> None:
    budget, lock = PixelBudget(10), threading.Lock()
    now, most = 0, 0

    def work(pixels: int) -> None:
        nonlocal now, most
        with budget.room_for(pixels):
            with lock:
                now += pixels
                most = max(most, now)
            time.sleep(0.01)
            with lock:
                now -= pixels

    threads = [threading.Thread(target=work, args=(4,)) for _ in range(8)]
    threads += [threading.Thread(target=work, args=(10,))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert most <= 10 and now == 0
    assert decoding.MAX_PIXELS == Image.MAX_IMAGE_PIXELS


def test_an_idx_file_is_read_as_far_as_it_announces(tmp_path: Path) -> None:
    path = tmp_path / "bomb.gz"
    with gzip.open(path, "wb") as file:
        file.write(struct.pack(">HBBI", 0, 8, 1, 5) + bytes(10**7))
    with pytest.raises(DatasetError, match="more bytes do not hold"):
        read_idx(path)
    path = tmp_path / "empty.idx"
    path.write_bytes(struct.pack(">HBBII", 0, 8, 2, 2**32 - 1, 2**32 - 1) + b"x")
    with pytest.raises(DatasetError, match="1 bytes do not hold"):
        read_idx(path)
    path.write_bytes(struct.pack(">HBBI", 0, 8, 1, 3) + b"abc")
    assert read_idx(path).tolist() == list(b"abc")


class Large:
    def __init__(self, call: object, *arguments: object) -> None:
        self.made = (call, arguments)

    def __reduce__(self) -> object:
        return self.made


def test_a_pickle_makes_no_array_of_a_size_it_announces(tmp_path: Path) -> None:
    path = tmp_path / "data_batch_1"
    reconstruct = np.zeros(0).__reduce__()[0]
    path.write_bytes(pickle.dumps({"data": Large(reconstruct, np.ndarray, (10**12,), b"b")}, protocol=2))
    assert read_pickle(path)["data"].size == 0
    path.write_bytes(pickle.dumps({"data": Large(np.ndarray, (10**12,))}, protocol=2))
    with pytest.raises(DatasetError, match="not callable"):
        read_pickle(path)
    whole = {"data": np.arange(12, dtype=np.uint8).reshape(3, 4), "labels": [1, 2, 3]}
    for protocol in (2, 4):
        path.write_bytes(pickle.dumps(whole, protocol=protocol))
        assert (read_pickle(path)["data"] == whole["data"]).all()


def npz(path: Path, header: dict[str, object], content: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("embeddings.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.write(content)
    return path


def test_an_archive_of_embeddings_holds_what_it_announces(tmp_path: Path) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": (10**12, 2)}
    with pytest.raises(ValueError, match=r"announces 8,000,000,000,000 bytes"):
        store.load(npz(tmp_path / "large.npz", header, bytes(80)))


def test_an_archive_that_unpacks_to_far_more_than_it_is_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "UNPACKED", 10**6)
    header = {"descr": "<f4", "fortran_order": False, "shape": (10**6, 2)}
    with pytest.raises(ValueError, match="would come to 8,000,128 bytes"):
        store.load(npz(tmp_path / "bomb.npz", header, bytes(8 * 10**6)))


def test_annotations_that_unpack_to_far_more_than_they_are_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scipy.io import savemat

    monkeypatch.setattr(cars, "LARGEST", 10**6)
    savemat(tmp_path / "bomb.mat", {"annotations": np.zeros(10**6)}, do_compression=True)
    assert (tmp_path / "bomb.mat").stat().st_size < 10**5
    with pytest.raises(DatasetError, match=r"bomb\.mat: unpacked it comes to more than 1,000,000 bytes"):
        cars._load(tmp_path / "bomb.mat")
    for packed in (True, False):
        savemat(tmp_path / "sound.mat", {"annotations": np.arange(100.0)}, do_compression=packed)
        assert cars._load(tmp_path / "sound.mat")["annotations"].tolist() == list(range(100))


def repacked(path: Path, larger: bytes = b"") -> None:
    """Pack what torch has stored, and add to it."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content + (larger if name.endswith("data/0") else b""))


def test_tensors_that_unpack_to_far_more_than_they_are_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {"w": torch.arange(9.0)}}, path)
    check_stored(path)
    assert read_checkpoint(path)["state_dict"]["w"].tolist() == list(range(9))
    repacked(path, bytes(10**7))
    with pytest.raises(ConfigError, match=r"last\.ckpt is no checkpoint of a run: it would come to 10,"):
        read_checkpoint(path)
    with pytest.raises(ConfigError, match=r"last\.ckpt is no checkpoint"):
        WholeCheckpointIO().load_checkpoint(path)
    with pytest.raises(ConfigError, match=r"last\.ckpt is no checkpoint"):
        recorded_rows(path)
    weights = path.rename(tmp_path / "given.pth")
    with pytest.raises(ValueError, match=r"given\.pth cannot be read as weights: it would come to 10,"):
        load_weights(torch.nn.Linear(3, 3), str(weights))


def test_a_typed_npz_holds_what_it_announces(tmp_path: Path) -> None:
    class Loads(torch.nn.Linear):
        def load_pretrained(self, path: str) -> None:
            pytest.fail("it was read")

    header = {"descr": "<f4", "fortran_order": False, "shape": (10**12, 2)}
    with pytest.raises(ValueError, match=r"large\.npz is no .npz of this architecture: .* announces 8,000,000,000,000"):
        load_weights(Loads(3, 3), str(npz(tmp_path / "large.npz", header, bytes(80))))

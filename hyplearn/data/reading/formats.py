"""Readers of the on-disk formats of MNIST (IDX) and CIFAR (pickles). A broken file is named with what is wrong."""

from __future__ import annotations

import gzip
import math
import pickle
import struct
import zlib
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hyplearn.data.errors import DatasetError, read_all
from hyplearn.data.reading.images import ImageArrays
from hyplearn.runs.regular import open_regular

LARGEST = 2**31  # bytes of an array; the images of MNIST have 47 MB
_AGAIN = "the file is truncated or not what its name says: remove it and place or download it again"


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """An IDX file of bytes, gzipped if its name ends in .gz."""
    try:
        with open_regular(path) as raw, gzip.open(raw) if path.suffix == ".gz" else raw as file:
            zeros, kind, dimensions = struct.unpack(">HBB", file.read(4))
            shape = struct.unpack(f">{dimensions}I", file.read(4 * dimensions))
            expected = math.prod(shape)
            content = file.read(min(expected, LARGEST) + 1)  # an archive may hold more, without end
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise DatasetError(f"{path}: {error}; {_AGAIN}") from error
    if (zeros, kind) != (0, 8) or len(content) != expected:
        read = f"{len(content)} bytes" if len(content) <= expected else "more bytes"
        raise DatasetError(f"{path}: {read} do not hold an IDX array of bytes {shape}; {_AGAIN}")
    return np.frombuffer(content, np.uint8).reshape(shape).copy()


def read_idx_pair(images: Path, labels: Path, *, num_classes: int) -> ImageArrays:
    """Grey images (N, H, W) and their labels (N,) from two IDX files."""
    pixels, targets = read_all([partial(read_idx, images), partial(read_idx, labels)])
    if pixels.ndim != 3 or targets.shape != pixels.shape[:1]:
        raise DatasetError(f"{images} {pixels.shape} and {labels} {targets.shape} are not images and their labels")
    return ImageArrays(torch.from_numpy(pixels)[..., None], checked_labels(targets, labels, num_classes=num_classes))


def _empty_array(kind: Any, shape: Any, code: Any) -> npt.NDArray[np.int8]:
    """The array that a pickle fills afterwards with as many bytes as it holds."""
    return np.empty(0, np.int8)


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    """The bytes that older pickles hold as a text."""
    return text.encode("latin1")


class _ArrayUnpickler(pickle.Unpickler):
    """Loads lists, strings and NumPy arrays only: a data file has no business running code."""

    allowed: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy", "_reconstruct"): _empty_array,  # its module has moved between versions of NumPy
        ("numpy", "ndarray"): "ndarray",  # only named there; made, it would take memory of any size
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): _latin1,
    }

    def find_class(self, module: str, name: str) -> Any:
        key = (module.partition(".")[0], name)
        if key in self.allowed:
            return self.allowed[key]
        raise pickle.UnpicklingError(f"it wants to load {module}.{name}")


_WRONG = (ValueError, LookupError, TypeError, AttributeError)


def read_pickle(path: Path) -> dict[str, Any]:
    """A dictionary of a CIFAR archive."""
    try:
        with open_regular(path) as file:
            content = _ArrayUnpickler(file, encoding="latin1").load()
    except (OSError, EOFError, pickle.UnpicklingError, MemoryError, ArithmeticError, *_WRONG) as error:
        raise DatasetError(f"{path}: {error}; {_AGAIN}") from error
    if not isinstance(content, dict):
        raise DatasetError(f"{path}: holds a {type(content).__name__}, not a dictionary; {_AGAIN}")
    return content


def read_cifar_batch(path: Path, *, label_key: str, num_classes: int) -> ImageArrays:
    """One batch file of CIFAR-10 or CIFAR-100: rows of 3 x 32 x 32 bytes and a list of labels."""
    content = read_pickle(path)
    try:
        rows, targets = np.asarray(content["data"]), np.asarray(content[label_key])
    except KeyError as error:
        raise DatasetError(f"{path}: has no entry {error}; {_AGAIN}") from error
    if rows.dtype != np.uint8 or rows.shape != (len(targets), 3072):
        raise DatasetError(f"{path}: data {rows.dtype} {rows.shape} and {len(targets)} labels; {_AGAIN}")
    pixels = torch.from_numpy(rows).reshape(-1, 3, 32, 32).permute(0, 2, 3, 1).contiguous()
    return ImageArrays(pixels, checked_labels(targets, path, num_classes=num_classes))


def checked_labels(targets: npt.NDArray[Any], path: Path, *, num_classes: int) -> Tensor:
    """Labels as int64. Raises DatasetError if one is outside [0, num_classes)."""
    labels = torch.from_numpy(targets.astype(np.int64))
    if len(labels) and (labels.min() < 0 or labels.max() >= num_classes):
        raise DatasetError(
            f"{path}: labels from {int(labels.min())} to {int(labels.max())}, needed are 0 to {num_classes - 1}"
        )
    return labels

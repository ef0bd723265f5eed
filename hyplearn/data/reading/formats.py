"""Readers of the on-disk formats of MNIST (IDX) and CIFAR (pickles). A broken file is named with what is wrong."""

from __future__ import annotations

import codecs
import gzip
import pickle
import struct
import zlib
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hyplearn.data.errors import DatasetError
from hyplearn.data.reading.images import ImageArrays

_AGAIN = "the file is truncated or not what its name says: remove it and place or download it again"


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """An IDX file of bytes, gzipped if its name ends in .gz."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read()
        zeros, kind, dimensions = struct.unpack_from(">HBB", content)
        shape = struct.unpack_from(f">{dimensions}I", content, 4)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise DatasetError(f"{path}: {error}; {_AGAIN}") from error
    start = 4 + 4 * dimensions
    if (zeros, kind) != (0, 8) or len(content) - start != np.prod(shape, dtype=np.int64):
        raise DatasetError(f"{path}: {len(content)} bytes do not hold an IDX array of bytes {shape}; {_AGAIN}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()


def read_idx_pair(images: Path, labels: Path, *, num_classes: int) -> ImageArrays:
    """Grey images (N, H, W) and their labels (N,) from two IDX files."""
    pixels, targets = read_idx(images), read_idx(labels)
    if pixels.ndim != 3 or targets.shape != pixels.shape[:1]:
        raise DatasetError(f"{images} {pixels.shape} and {labels} {targets.shape} are not images and their labels")
    return ImageArrays(torch.from_numpy(pixels)[..., None], checked_labels(targets, labels, num_classes=num_classes))


class _ArrayUnpickler(pickle.Unpickler):
    """Loads lists, strings and NumPy arrays only: a data file has no business running code."""

    allowed: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy", "_reconstruct"): np.zeros(0).__reduce__()[0],  # its module has moved between versions of NumPy
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): codecs.encode,
    }

    def find_class(self, module: str, name: str) -> Any:
        key = (module.partition(".")[0], name)
        if key in self.allowed:
            return self.allowed[key]
        raise pickle.UnpicklingError(f"it wants to load {module}.{name}")


def read_pickle(path: Path) -> dict[str, Any]:
    """A dictionary of a CIFAR archive."""
    try:
        with path.open("rb") as file:
            content = _ArrayUnpickler(file, encoding="latin1").load()
    except (OSError, EOFError, pickle.UnpicklingError, ValueError, LookupError, TypeError, AttributeError) as error:
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

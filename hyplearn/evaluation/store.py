"""Embeddings on the disk, with all that their evaluation needs: one .npz, and the same tensors as .safetensors.

Arrays: `embeddings` (N, n), or `embeddings_0`, `embeddings_1`, ... of several spaces; `labels` (N,); optional: `ids`
(N,), `query` and `gallery` (N,) boolean, `super_labels` (N,), `backbone` (N, D), the features before the head.
Texts (in .safetensors: in the metadata): `metrics`, JSON such as [{"kind": "poincare", "c": 0.1, "weight": 1.0}], one
entry for each space; JSON lists `class_names` by label, `super_names` by super-label and `paths`, the file of each
image; `selection`, how the weights were chosen; and `weights`, their digest (`models.digest`).
Files of other programs need `embeddings` and `labels` alone; their labels may be texts, their lists arrays of texts.
"""

from __future__ import annotations

import itertools
import json
import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hyplearn.evaluation.metric import Embeddings, Metric
from hyplearn.runs.archives import check_arrays
from hyplearn.runs.regular import NoRegularFile, check_regular

Arrays = Mapping[str, Any]

SUFFIXES = (".npz", ".safetensors")
NAMES = {"class_names": "labels", "super_names": "super_labels"}  # names of what
TEXTS = ("metrics", *NAMES, "paths", "selection", "weights")


@dataclass(frozen=True, eq=False)
class Stored:
    """N images as stored. metrics: None if the file names none. class_names: by label, super_names: by super-label,
    paths: of the N files, each if known. weights: the digest of the network that made them, if known."""

    points: tuple[Tensor, ...]
    labels: Tensor
    ids: Tensor
    query: Tensor
    gallery: Tensor
    metrics: tuple[Metric, ...] | None = None
    super_labels: Tensor | None = None
    backbone: Tensor | None = None
    class_names: tuple[str, ...] | None = None
    super_names: tuple[str, ...] | None = None
    paths: tuple[str, ...] | None = None
    selection: str | None = None
    weights: str | None = None

    @property
    def embeddings(self) -> Embeddings:
        """Embeddings under the metric they were stored with."""
        if self.metrics is None:
            raise ValueError("the file names no metric: say by which geometry the embeddings are to be compared")
        return Embeddings(self.points, self.metrics)


def save(
    path: Path,
    embeddings: Embeddings,
    labels: Tensor,
    *,
    ids: Tensor | None = None,
    query: Tensor | None = None,
    gallery: Tensor | None = None,
    super_labels: Tensor | None = None,
    backbone: Tensor | None = None,
    class_names: Sequence[str] | None = None,
    super_names: Sequence[str] | None = None,
    paths: Sequence[str] | None = None,
    selection: str | None = None,
    weights: str | None = None,
) -> tuple[Path, Path]:
    """Write <path>.npz and <path>.safetensors (a suffix of either kind is replaced), each as a whole; return both.

    Defaults of ids, query and gallery: positions, and every image. class_names, super_names: by label and super-label.
    paths: the file of each image. selection: how the weights were chosen that made the embeddings, weights:
    their digest.
    """
    count = len(embeddings)
    everything = torch.ones(count, dtype=torch.bool)
    names = (
        ["embeddings"] if len(embeddings.points) == 1 else [f"embeddings_{i}" for i in range(len(embeddings.points))]
    )
    tensors = {
        **dict(zip(names, embeddings.points, strict=True)),
        "labels": labels,
        "ids": torch.arange(count) if ids is None else ids,
        "query": everything if query is None else query,
        "gallery": everything if gallery is None else gallery,
        "super_labels": super_labels,
        "backbone": backbone,
    }
    kept = {name: x.detach().cpu().contiguous() for name, x in tensors.items() if x is not None}
    for name, x in kept.items():
        if len(x) != count:
            raise ValueError(f"{name} of shape {tuple(x.shape)} must have {count} rows, one per embedding")
    # save_file refuses tensors that share memory, as the two default masks do
    kept = {name: x.clone() for name, x in kept.items()}
    texts = {"metrics": json.dumps([asdict(metric) for metric in embeddings.metrics])}
    lists = {"class_names": class_names, "super_names": super_names, "paths": paths}
    given = {name: tuple(entries) for name, entries in lists.items() if entries is not None}
    _check_lists(kept, given)
    texts |= {name: json.dumps(entries) for name, entries in given.items()}
    texts |= {k: text for k, text in (("selection", selection), ("weights", weights)) if text is not None}
    stem = path.with_suffix("") if path.suffix in SUFFIXES else path
    stem.parent.mkdir(parents=True, exist_ok=True)
    npz, safetensors = (stem.with_name(stem.name + suffix) for suffix in SUFFIXES)
    part = stem.with_name(f"{stem.name}.part")
    arrays: dict[str, Any] = {name: _array(x) for name, x in kept.items()}
    arrays |= {name: np.array(text) for name, text in texts.items()}
    with part.open("wb") as file:
        np.savez(file, **arrays)
    os.replace(part, npz)
    save_file(kept, part, metadata=texts)
    os.replace(part, safetensors)
    return npz, safetensors


def _array(x: Tensor) -> np.ndarray[Any, Any]:
    return (x.float() if x.dtype == torch.bfloat16 else x).numpy()  # numpy has no bfloat16


def save_stored(path: Path, stored: Stored) -> tuple[Path, Path]:
    """Write what was read from another file, see `save`."""
    kept = {field.name: getattr(stored, field.name) for field in fields(stored)}
    labels = kept.pop("labels")
    return save(path, stored.embeddings, labels, **{k: x for k, x in kept.items() if k not in ("points", "metrics")})


def load(path: Path) -> Stored:
    """Read a file of `save`, or a user's own .npz or .safetensors; ValueError says what is missing or does not fit."""
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: embeddings are read from {' or '.join(SUFFIXES)} files")
    if not path.exists():
        raise ValueError(f"{path} does not exist")
    read = _read_npz if path.suffix == ".npz" else _read_safetensors
    try:
        check_regular(path)
        return _stored(read(path))
    except NoRegularFile as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _read_npz(path: Path) -> Arrays:
    with path.open("rb") as file:
        if file.read(6) == b"\x93NUMPY":
            raise ValueError("is a single array: store several by np.savez(path, embeddings=..., labels=...)")
        if not zipfile.is_zipfile(file):
            raise ValueError("is no .npz file, or a damaged one")
        file.seek(0)
        try:
            check_arrays(file)
            with np.load(file, allow_pickle=False) as arrays:
                return {name: _from_npz(arrays, name) for name in arrays.files}
        except (zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"is damaged ({error})") from error


def _from_npz(file: Any, name: str) -> np.ndarray[Any, Any]:
    try:
        array: np.ndarray[Any, Any] = file[name]
    except ValueError as error:  # an array of objects
        raise ValueError(
            f"array {name!r} cannot be read without unpickling: store numbers or texts ({error})"
        ) from error
    return array


def _read_safetensors(path: Path) -> Arrays:
    try:
        with safe_open(path, framework="pt") as file:
            arrays: dict[str, Any] = {name: _array(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"is no .safetensors file, or a damaged one ({error})") from error
    return {**arrays, **{name: np.array(metadata[name]) for name in TEXTS if name in metadata}}


def _stored(arrays: Arrays) -> Stored:
    points = _points(arrays)
    count = len(points[0])
    lists = {name: _texts(arrays, name) for name in (*NAMES, "paths") if name in arrays}
    labels = _column(arrays, "labels", count, "an integer or a text for each row of embeddings", kinds="iuUS")
    assert labels is not None
    if labels.dtype.kind in "US":
        names, labels = np.unique(_decoded(labels), return_inverse=True)
        lists["class_names"] = tuple(map(str, names))
    ids = _column(arrays, "ids", count, "distinct integers", kinds="iu", required=False)
    query, gallery = (
        _column(arrays, name, count, "booleans", kinds="b", required=False) for name in ("query", "gallery")
    )
    super_labels = _column(arrays, "super_labels", count, "integers", kinds="iu", required=False)
    kept = {"labels": _integers(labels)}
    if super_labels is not None:
        kept["super_labels"] = _integers(super_labels)
    _check_lists(kept, lists)
    return Stored(
        points=points,
        labels=kept["labels"],
        ids=torch.arange(count) if ids is None else _integers(ids),
        query=torch.ones(count, dtype=torch.bool) if query is None else torch.from_numpy(query),
        gallery=torch.ones(count, dtype=torch.bool) if gallery is None else torch.from_numpy(gallery),
        metrics=_metrics(arrays, len(points)),
        super_labels=kept.get("super_labels"),
        backbone=_matrix(arrays, "backbone", count) if "backbone" in arrays else None,
        class_names=lists.get("class_names"),
        super_names=lists.get("super_names"),
        paths=lists.get("paths"),
        selection=str(arrays["selection"]) if "selection" in arrays else None,
        weights=str(arrays["weights"]) if "weights" in arrays else None,
    )


def _points(arrays: Arrays) -> tuple[Tensor, ...]:
    numbered = itertools.takewhile(arrays.__contains__, (f"embeddings_{i}" for i in itertools.count()))
    names = ["embeddings"] if "embeddings" in arrays else list(numbered)
    if not names:
        raise ValueError(f"holds {_listed(arrays)}, but no array 'embeddings': a float array (N, n), one row per image")
    count = len(arrays[names[0]]) if arrays[names[0]].ndim else 0
    return tuple(_matrix(arrays, name, count) for name in names)


def _matrix(arrays: Arrays, name: str, count: int) -> Tensor:
    array = arrays[name]
    if array.ndim != 2 or len(array) != count or not array.size or array.dtype.kind != "f" or array.dtype.itemsize > 8:
        raise ValueError(f"array {name!r} has {_shape(array)}: needed are floats of shape ({count or 'N'}, n), n >= 1")
    tensor = torch.from_numpy(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False)))
    return tensor.float() if tensor.dtype == torch.float16 else tensor


def _column(
    arrays: Arrays, name: str, count: int, what: str, *, kinds: str, required: bool = True
) -> np.ndarray[Any, Any] | None:
    """The array `name` of one entry per image, its dtype one of `kinds`."""
    if name not in arrays:
        if not required:
            return None
        raise ValueError(f"holds {_listed(arrays)}, but no array {name!r}: {what}, shape ({count},)")
    array: np.ndarray[Any, Any] = arrays[name]
    if array.shape != (count,) or array.dtype.kind not in kinds:
        raise ValueError(f"array {name!r} has {_shape(array)}: needed are {what}, shape ({count},)")
    return array


def _integers(array: np.ndarray[Any, Any]) -> Tensor:
    return torch.from_numpy(array.astype(np.int64))


def _metrics(arrays: Arrays, spaces: int) -> tuple[Metric, ...] | None:
    if "metrics" not in arrays:
        return None
    text = str(arrays["metrics"])
    try:
        metrics = tuple(Metric(**entry) for entry in json.loads(text))
    except (TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"'metrics' is {text!r}: needed is a JSON list of kind, c and weight ({error})") from error
    if len(metrics) != spaces:
        raise ValueError(f"'metrics' is {text!r}: needed is one entry for each of {spaces} arrays of embeddings")
    return metrics


def _texts(arrays: Arrays, name: str) -> tuple[str, ...]:
    """A JSON list, or an array of texts."""
    array = _decoded(arrays[name])
    if array.ndim == 1 and array.dtype.kind == "U":
        return tuple(map(str, array))
    text = str(array)
    try:
        entries = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{name!r} is {text[:200]!r}: needed is a JSON list of texts ({error})") from error
    if not isinstance(entries, list):
        raise ValueError(f"{name!r} is {text[:200]!r}: needed is a JSON list of texts, or an array of them")
    return tuple(map(str, entries))


def _decoded(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Texts; those of C programs and of HDF5 are bytes."""
    return np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array


def _check_lists(tensors: Mapping[str, Tensor], lists: Mapping[str, Sequence[str]]) -> None:
    """Labels are positions in the list of their names, and there is a path for each of them."""
    for names, name in NAMES.items():
        if names not in lists or name not in tensors or not len(tensors[name]):
            continue
        count, lowest, highest = len(lists[names]), int(tensors[name].min()), int(tensors[name].max())
        if lowest < 0 or highest >= count:
            raise ValueError(
                f"{name!r} holds {lowest if lowest < 0 else highest}, but {names!r} has names for 0 to {count - 1}: "
                f"give every number a name, or leave {names} out"
            )
    count = len(tensors["labels"])
    if "paths" in lists and len(lists["paths"]) != count:
        raise ValueError(f"'paths' has {len(lists['paths'])} entries: needed are {count}, one for each image")


def _shape(array: np.ndarray[Any, Any]) -> str:
    return f"shape {array.shape} and type {array.dtype}"


def _listed(arrays: Arrays) -> str:
    return ", ".join(sorted(arrays)) or "nothing"

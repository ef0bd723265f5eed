"""The nearest pictures of pictures, under the metric that a model was trained with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from hyplearn.errors import ConfigError
from hyplearn.evaluation.metric import Embeddings
from hyplearn.evaluation.neighbours import neighbours
from hyplearn.evaluation.store import Stored


class Offered(NamedTuple):
    """What is searched: embeddings, and of each image a name, a class if one is known, and a file if there is one."""

    embeddings: Embeddings
    names: tuple[str, ...]
    classes: tuple[str | None, ...]
    files: tuple[Path | None, ...]


class Hit(NamedTuple):
    """A picture that was found. row: among those offered."""

    row: int
    distance: float


class Found(NamedTuple):
    """The nearest pictures of one, the nearest first. known: whether the first is near enough; None if nobody asked."""

    hits: tuple[Hit, ...]
    known: bool | None


def offered_by_file(stored: Stored, file: Path) -> Offered:
    """The gallery of a file of embeddings. Its pictures are looked for beside the file and where they were embedded."""
    rows = stored.gallery.nonzero().squeeze(1)
    names = [f"id {int(stored.ids[row])}" if stored.paths is None else stored.paths[row] for row in rows.tolist()]
    labels = stored.labels[rows].tolist()
    classes = [str(label) if stored.class_names is None else stored.class_names[label] for label in labels]
    files = [None if stored.paths is None else _picture(name, file.parent) for name in names]
    return Offered(stored.embeddings.select(rows), tuple(names), tuple(classes), tuple(files))


def _picture(name: str, folder: Path) -> Path | None:
    return next((path for path in (folder / name, Path(name)) if path.is_file()), None)


def offered_by_folder(embeddings: Embeddings, names: Sequence[str], files: Sequence[Path]) -> Offered:
    """Pictures of a folder. The first folder of a name is its class; a picture in none has none."""
    classes = [name.partition("/")[0] if "/" in name else None for name in names]
    return Offered(embeddings, tuple(names), tuple(classes), tuple(files))


def search(query: Embeddings, offered: Offered, *, k: int, open_set: float | None) -> list[Found]:
    """The k nearest pictures of each query. open_set: a query whose nearest is farther is not known.

    Raises ConfigError for embeddings of other sizes.
    """
    if [x.shape[1] for x in query.points] != [x.shape[1] for x in offered.embeddings.points]:
        raise ConfigError("the gallery has embeddings of another size than the model makes.")
    near = neighbours(query, offered.embeddings, min(k, len(offered.names)))
    return [_found(rows, distances, open_set) for rows, distances in zip(near.indices, near.distances, strict=True)]


def _found(rows: Tensor, distances: Tensor, open_set: float | None) -> Found:
    hits = tuple(map(Hit, rows.tolist(), distances.tolist()))
    return Found(hits, None if open_set is None else bool(distances[0] <= torch.tensor(open_set)))

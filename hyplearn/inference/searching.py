"""Neighbours of pictures among others, under the metric that a model was trained with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from hyplearn.data.outside_images import Found, class_folders
from hyplearn.errors import ConfigError
from hyplearn.evaluation.metric import Embeddings
from hyplearn.evaluation.neighbours import Neighbours, neighbours
from hyplearn.evaluation.store import Stored
from hyplearn.inference.embedding_cache import Embedded

KNOWN_SHARE = 0.95  # of the gallery's own pictures that --open-set auto calls known


class Hit(NamedTuple):
    """One neighbour. row: its position in the gallery. label: its class, empty where none is known."""

    row: int
    name: str
    label: str
    distance: float
    known: bool


class Answer(NamedTuple):
    """Of one query. position: of its file among those that were named."""

    position: int
    hits: tuple[Hit, ...]

    @property
    def known(self) -> bool:
        """Whether any neighbour is near enough."""
        return any(hit.known for hit in self.hits)


class Gallery(NamedTuple):
    """What is searched in. names, labels: of each row. files: of the rows whose pictures are here."""

    embeddings: Embeddings
    names: tuple[str, ...]
    labels: tuple[str, ...]
    files: Mapping[int, Path]


def of_files(found: Found, embedded: Embedded) -> Gallery:
    """Return the gallery of pictures in a folder; the first folder of a name is its class."""
    rows = embedded.positions.tolist()
    names = tuple(found.names[row] for row in rows)
    labels = tuple(name.partition("/")[0] if "/" in name else "" for name in names)
    return Gallery(embedded.embeddings, names, labels, {i: found.paths[row] for i, row in enumerate(rows)})


def of_stored(stored: Stored, *, pictures: Path | None) -> Gallery:
    """Return the gallery of a file. pictures: the folder that its paths are relative to, where it is here."""
    offered = stored.gallery.nonzero().squeeze(1)
    rows = offered.tolist()
    names = tuple(f"id {int(stored.ids[row])}" if stored.paths is None else stored.paths[row] for row in rows)
    labels = tuple(
        str(int(stored.labels[row])) if stored.class_names is None else stored.class_names[int(stored.labels[row])]
        for row in rows
    )
    files: dict[int, Path] = {}
    if stored.paths is not None:
        places = ((pictures or Path()) / name for name in names)
        files = {index: place for index, place in enumerate(places) if place.is_file()}
    return Gallery(stored.embeddings.select(offered), names, labels, files)


def stored_of_files(found: Found, embedded: Embedded, *, selection: str, weights: str) -> Stored:
    """Return a gallery of pictures as `hyplearn embed` would have stored it."""
    names = tuple(found.names[row] for row in embedded.positions.tolist())
    classes = class_folders(names)
    everything = torch.ones(len(names), dtype=torch.bool)
    return Stored(
        points=embedded.embeddings.points,
        labels=classes.labels,
        ids=torch.arange(len(names)),
        query=everything,
        gallery=everything,
        metrics=embedded.embeddings.metrics,
        class_names=classes.names,
        paths=names,
        selection=selection,
        weights=weights,
    )


def search(
    query: Embeddings, positions: Sequence[int], gallery: Gallery, *, k: int, threshold: float | None
) -> list[Answer]:
    """Return the k nearest of each query. positions: what the queries are called. Raises ConfigError."""
    sizes = [[x.shape[1] for x in part.points] for part in (query, gallery.embeddings)]
    if sizes[0] != sizes[1]:
        raise ConfigError(f"the gallery has embeddings of sizes {sizes[1]}, the model makes {sizes[0]}: make it anew.")
    near: Neighbours = neighbours(query, gallery.embeddings, min(k, len(gallery.embeddings)))
    return [
        Answer(
            position, tuple(_hit(gallery, row, distance, threshold) for row, distance in zip(rows, values, strict=True))
        )
        for position, rows, values in zip(positions, near.indices.tolist(), near.distances.tolist(), strict=True)
    ]


def _hit(gallery: Gallery, row: int, distance: float, threshold: float | None) -> Hit:
    return Hit(row, gallery.names[row], gallery.labels[row], distance, threshold is None or distance <= threshold)


def own_threshold(gallery: Gallery) -> float:
    """Return the distance within which 95 % of the gallery's pictures have another one of their class.

    Raises ConfigError where no class has two.
    """
    classes: dict[str, list[int]] = defaultdict(list)
    for row, label in enumerate(gallery.labels):
        classes[label].append(row)
    groups = [torch.tensor(rows) for label, rows in classes.items() if label and len(rows) > 1]
    if not groups:
        raise ConfigError("--open-set auto: no class of the gallery has two pictures to measure by: give a distance.")
    return float(torch.cat([_nearest_within(gallery.embeddings.select(rows)) for rows in groups]).quantile(KNOWN_SHARE))


def _nearest_within(members: Embeddings) -> Tensor:
    """The distance of each to the nearest other."""
    own = torch.arange(len(members))
    return neighbours(members, members, 1, query_ids=own, gallery_ids=own).distances[:, 0]

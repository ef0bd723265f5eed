"""A trained model and its gallery at the service of others: embed, search and add pictures that come as bytes."""

from __future__ import annotations

import io
import tempfile
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from hyplearn.data.errors import BadImageError
from hyplearn.data.outside_images import class_folders
from hyplearn.evaluation import store
from hyplearn.evaluation.metric import Embeddings, concatenate
from hyplearn.evaluation.neighbours import Search
from hyplearn.inference.open import Opened
from hyplearn.inference.prediction import metrics_to_json
from hyplearn.inference.searching import Gallery
from hyplearn.inference.thumbnails import thumbnail
from hyplearn.models.digest import weights_digest

BAD_REQUEST, TOO_LARGE, FULL = 400, 413, 409
LONGEST_NAME = 200


class Refused(Exception):  # noqa: N818 - says what happened, like StopIteration
    """What a client sent cannot be used. status: of HTTP, from 400 to 499."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


class Limits(NamedTuple):
    """What one client may ask for. size: bytes of an upload. rows: pictures of the gallery. k: neighbours."""

    size: int
    pixels: int
    rows: int
    k: int = 100


@dataclass(frozen=True, eq=False)
class _Snapshot:
    """A gallery that does not change, made ready to be searched. pictures: JPEG of each row, None where it has none."""

    gallery: Gallery
    search: Search
    pictures: tuple[Callable[[], bytes] | None, ...]


class Service:
    """Answers requests from any number of threads. The model computes for one at a time."""

    def __init__(
        self, opened: Opened, gallery: Gallery, thumbnails: Sequence[bytes], *, limits: Limits, threshold: float | None
    ) -> None:
        self.opened, self.limits, self.threshold = opened, limits, threshold
        pictures = tuple(_picture(gallery, thumbnails, row) for row in range(len(gallery.names)))
        self._current = _snapshot(gallery, pictures)
        self._computing, self._adding = threading.Lock(), threading.Lock()
        self.added = 0

    @property
    def gallery(self) -> Gallery:
        """What is searched in now."""
        return self._current.gallery

    def facts(self) -> dict[str, Any]:
        """Return what a client may want to know before it asks."""
        return {
            "status": "ok",
            "gallery": len(self.gallery.names),
            "added": self.added,
            "metrics": metrics_to_json(self.gallery.embeddings.metrics),
            "weights": self.opened.selection,
            "open_set": self.threshold,
            "limits": self.limits._asdict(),
        }

    def embed(self, content: bytes) -> Embeddings:
        """Return the embedding of the picture in `content`. Raises Refused."""
        pixels = self._pixels(content)[None]
        with self._computing:
            return self.opened.model.embeddings(self.opened.model(pixels).points)

    def embed_json(self, content: bytes) -> dict[str, Any]:
        """Return the embedding as numbers, with what compares them."""
        made = self.embed(content)
        spaces = zip(made.metrics, made.points, strict=True)
        return {"spaces": [{"kind": m.kind, "c": m.c, "weight": m.weight, "point": x[0].tolist()} for m, x in spaces]}

    def search(self, content: bytes, *, k: int) -> dict[str, Any]:
        """Return the k nearest pictures of the gallery. Raises Refused."""
        if not 1 <= k <= self.limits.k:
            raise Refused(BAD_REQUEST, f"k={k} must be from 1 to {self.limits.k}")
        query, now = self.embed(content), self._current
        near = now.search.asked(query).nearest(torch.zeros(1, dtype=torch.int64), min(k, len(now.gallery.names)))
        pairs = zip(near.indices[0].tolist(), near.distances[0].tolist(), strict=True)
        found = [self._hit(now, rank, row, distance) for rank, (row, distance) in enumerate(pairs, 1)]
        return {"known": any(hit["known"] for hit in found), "neighbours": found}

    def _hit(self, now: _Snapshot, rank: int, row: int, distance: float) -> dict[str, Any]:
        return {
            "rank": rank,
            "row": row,
            "image": now.gallery.names[row],
            "class": now.gallery.labels[row],
            "distance": distance,
            "known": self.threshold is None or distance <= self.threshold,
            "thumbnail": None if now.pictures[row] is None else f"/thumbnail/{row}",
        }

    def add(self, content: bytes, *, name: str, label: str) -> dict[str, Any]:
        """Put a picture into the gallery, at its end. Raises Refused."""
        for key, value in (("name", name), ("class", label)):
            if len(value) > LONGEST_NAME or not value.isprintable():
                raise Refused(BAD_REQUEST, f"{key} must be a text of up to {LONGEST_NAME} printable characters")
        made = self.embed(content)
        small = _small(content)
        with self._adding:  # one at a time, so that none is lost; searches go on in what was there before
            old = self._current
            row = len(old.gallery.names)
            if row >= self.limits.rows:
                raise Refused(FULL, f"the gallery is full: it holds {row:,} pictures, --max-rows allows no more")
            gallery = Gallery(
                concatenate([old.gallery.embeddings, made]),
                (*old.gallery.names, name or f"added {row}"),
                (*old.gallery.labels, label),
                old.gallery.files,
            )
            self._current = _snapshot(gallery, (*old.pictures, lambda: small))
            self.added += 1
        return {"row": row, "gallery": row + 1}

    def thumbnail(self, row: int) -> bytes:
        """Return the picture of a row, as JPEG. Raises Refused where it has none."""
        pictures = self._current.pictures
        picture = pictures[row] if 0 <= row < len(pictures) else None
        if picture is None:
            raise Refused(404, f"row {row} of the gallery has no picture here")
        try:
            return picture()
        except BadImageError as error:
            raise Refused(404, f"the picture of row {row} cannot be read: {error.reason}") from error

    def save(self, path: Path) -> None:
        """Write the gallery with what was added, as `hyplearn embed` writes one."""
        gallery = self.gallery
        classes = class_folders([label or name for label, name in zip(gallery.labels, gallery.names, strict=True)])
        store.save(
            path,
            gallery.embeddings,
            classes.labels,
            class_names=classes.names,
            paths=gallery.names,
            selection=self.opened.selection,
            weights=weights_digest(self.opened.model.model),
        )

    def _pixels(self, content: bytes) -> Tensor:
        """What the model reads of a picture, decoded as a file is. Raises Refused."""
        _check_picture(content, self.limits)
        with tempfile.NamedTemporaryFile(prefix="hyplearn-") as file:
            file.write(content)
            file.flush()
            try:
                return self.opened.model.to_pixels(Path(file.name))
            except BadImageError as error:
                raise Refused(BAD_REQUEST, f"the picture cannot be read: {error.reason}") from error


def _check_picture(content: bytes, limits: Limits) -> None:
    """Raise Refused for what is no picture, or one of more pixels than are allowed; nothing is decoded for that."""
    if not content:
        raise Refused(BAD_REQUEST, "the body is empty: send the bytes of a picture")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content)) as picture:
                pixels = picture.width * picture.height
    except UnidentifiedImageError as error:
        raise Refused(BAD_REQUEST, "the body is no picture, or of an unknown format: send JPEG, PNG or WebP") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Refused(TOO_LARGE, f"the picture has more than {limits.pixels:,} pixels: make it smaller") from error
    except (OSError, ValueError, SyntaxError, EOFError, TypeError, LookupError, ArithmeticError) as error:
        raise Refused(BAD_REQUEST, f"the picture cannot be read: {error}") from error
    if pixels > limits.pixels:
        raise Refused(TOO_LARGE, f"the picture has {pixels:,} pixels, more than {limits.pixels:,}: make it smaller")


def _small(content: bytes) -> bytes:
    with tempfile.NamedTemporaryFile(prefix="hyplearn-") as file:
        file.write(content)
        file.flush()
        return thumbnail(Path(file.name))


def _picture(gallery: Gallery, thumbnails: Sequence[bytes], row: int) -> Callable[[], bytes] | None:
    if row < len(thumbnails):
        return lambda: thumbnails[row]
    path = gallery.files.get(row)
    return None if path is None else lambda: thumbnail(path)


def _snapshot(gallery: Gallery, pictures: tuple[Callable[[], bytes] | None, ...]) -> _Snapshot:
    return _Snapshot(gallery, Search(gallery.embeddings.select(slice(0, 1)), gallery.embeddings), pictures)

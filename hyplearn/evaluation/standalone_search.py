"""Search the gallery of this folder with onnxruntime, FAISS, Pillow and NumPy; hyplearn and torch are not needed.

    pip install onnxruntime faiss-cpu pillow numpy
    python search.py picture.jpg [more pictures] [--k 5]

Prints rows of picture, rank, image, class, distance. `Index` does the same in a program of your own.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

Array = np.ndarray[Any, Any]
MARGIN = 32  # candidates of the float32 index beyond k, ranked by the distance of the coordinates themselves
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


class Index:
    """The encoder and the gallery of an exported folder."""

    def __init__(self, folder: Path) -> None:
        self.preprocessing = json.loads((folder / "preprocessing.json").read_text())
        facts = json.loads((folder / "gallery.json").read_text())
        self.metrics, self.classes = facts["metrics"], facts["classes"]
        self.images = facts["paths"] or [f"id {number}" for number in facts["ids"]]
        self.rows = {number: row for row, number in enumerate(facts["ids"])}
        with np.load(folder / "gallery.npz", allow_pickle=False) as stored:
            names = sorted((name for name in stored.files if name.startswith("embeddings")), key=lambda n: (len(n), n))
            self.points = [stored[name].astype(np.float64) for name in names]
        self.index = _faiss(folder / "gallery.faiss")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        encoder = str(folder / "encoder.onnx")
        self.encoder = onnxruntime.InferenceSession(encoder, options, providers=["CPUExecutionProvider"])
        outputs = [output.name for output in self.encoder.get_outputs() if output.name.startswith("embedding")]
        self.outputs = [outputs[space] for space in facts["spaces"]]  # those that the metric compares

    def embed(self, picture: Image.Image) -> list[Array]:
        """Return the point of a picture in each space, (1, n)."""
        images = self.pixels(picture)[None]
        return [np.asarray(x, np.float64) for x in self.encoder.run(self.outputs, {"images": images})]

    def search(self, picture: Image.Image, k: int) -> list[tuple[int, float]]:
        """Return rows of the gallery and their distances, the nearest first."""
        query = self.embed(picture)
        rows = np.arange(len(self.images))
        if self.index is not None and k + MARGIN < len(rows):  # of one space: candidates first
            vector = np.ascontiguousarray(query_vector(query[0], self.metrics[0]), np.float32)
            rows = np.array([self.rows[number] for number in self.index.search(vector, k + MARGIN)[1][0]])
        total = sum(
            (m["weight"] * distance(x, y[rows], m) for x, y, m in zip(query, self.points, self.metrics, strict=True)),
            np.zeros(len(rows)),
        )
        order = np.lexsort((rows, total))[:k]
        return [(int(rows[i]), float(total[i])) for i in order]

    def pixels(self, picture: Image.Image) -> Array:
        """Return what the encoder reads of a picture, (C, H, W) float32: the steps of preprocessing.json."""
        values: Array = np.zeros(0)
        for step in self.preprocessing["steps"]:
            if step["step"] == "scale":
                array = np.asarray(picture, np.float32)
                values = (array[..., None] if array.ndim == 2 else array).transpose(2, 0, 1) * np.float32(step["by"])
            elif step["step"] == "normalize":
                mean, std = (np.array(step[name], np.float32)[:, None, None] for name in ("mean", "std"))
                values = (values - mean) / std
            else:
                picture = PICTURE_STEPS[step["step"]](picture, step)
        return np.ascontiguousarray(values, np.float32)


def _faiss(path: Path) -> Any:
    """The index; None where the metric is a sum of several, which no index of one vector holds."""
    if not path.is_file():
        return None
    import faiss

    return faiss.read_index(str(path))


# Distances


def query_vector(x: Array, metric: dict[str, Any]) -> Array:
    """Return what the FAISS index is asked with, as `recipe` of gallery.json says."""
    if metric["kind"] in ("lorentz", "poincare"):
        x, time = _hyperboloid(x, metric)
        return np.concatenate([-time, x], 1)
    if metric["kind"] == "sphere":
        unit: Array = x / np.linalg.norm(x, axis=1, keepdims=True)
        return unit
    return np.concatenate([np.ones((len(x), 1)), x], 1)


def distance(x: Array, y: Array, metric: dict[str, Any]) -> Array:
    """Return the distance of a query (1, n) from points (N, n), from their coordinates."""
    if metric["kind"] in ("lorentz", "poincare"):
        c = metric["c"]
        (x, x_t), (y, y_t) = _hyperboloid(x, metric), _hyperboloid(y, metric)
        gap = (np.square(x).sum(1, keepdims=True) - np.square(y).sum(1, keepdims=True)) / (x_t + y_t)  # x_t - y_t
        chord = np.square(x - y).sum(1) - np.square(gap[:, 0])
        curved: Array = 2 / np.sqrt(c) * np.arcsinh(np.sqrt(c) / 2 * np.sqrt(np.maximum(0, chord)))
        return curved
    if metric["kind"] == "sphere":
        x, y = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, y))
        squared: Array = np.square(x - y).sum(1)  # 2 - 2 cos
        return squared
    flat: Array = np.linalg.norm(x - y, axis=1)
    return flat


def _hyperboloid(x: Array, metric: dict[str, Any]) -> tuple[Array, Array]:
    """Space coordinates and time of points of the hyperboloid, or of ball points moved there."""
    c = metric["c"]
    if metric["kind"] == "poincare":
        x = 2 * x / (1 - c * np.square(x).sum(1, keepdims=True))
    return x, np.sqrt(1 / c + np.square(x).sum(1, keepdims=True))


# From a file to pixels


def open_picture(path: Path) -> Image.Image:
    """Return the picture of a file. Raises ValueError for what is none."""
    try:
        with Image.open(path) as file:
            file.load()
            return file.copy() if not file.getexif() else ImageOps.exif_transpose(file)
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _upright(picture: Image.Image, step: dict[str, Any]) -> Image.Image:
    return ImageOps.exif_transpose(picture)


def _channels(picture: Image.Image, step: dict[str, Any]) -> Image.Image:
    """Transparent pixels are laid over white, 16-bit grey becomes 8-bit."""
    if picture.mode.startswith("I"):
        values = np.asarray(picture).astype(np.int64)
        picture = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture.convert(step["mode"])


def _resize(picture: Image.Image, step: dict[str, Any]) -> Image.Image:
    """One number is of the shorter side."""
    size = step["size"]
    if len(size) == 1:
        short, long = sorted(picture.size)
        other = int(size[0] * long / short)
        width, height = (size[0], other) if picture.width <= picture.height else (other, size[0])
    else:
        height, width = size
    return (
        picture if (width, height) == picture.size else picture.resize((width, height), FILTERS[step["interpolation"]])
    )


def _center_crop(picture: Image.Image, step: dict[str, Any]) -> Image.Image:
    side = min(picture.size) if step["size"] == "shorter side" else step["size"]
    left, top = (round((length - side) / 2) for length in picture.size)
    return picture.crop((left, top, left + side, top + side))


def _custom(picture: Image.Image, step: dict[str, Any]) -> Image.Image:
    raise ValueError(f"the pictures are transformed by {step['by']}, which is no step of this script: write it here")


PICTURE_STEPS = {
    "upright": _upright,
    "channels": _channels,
    "resize": _resize,
    "center_crop": _center_crop,
    "custom": _custom,
}


# As a program


def answers(index: Index, paths: Sequence[Path], k: int) -> Iterator[tuple[str, int, str, str, str]]:
    """Yield picture, rank, image, class, distance."""
    for path in paths:
        for rank, (row, far) in enumerate(index.search(open_picture(path), k), 1):
            label = "" if index.classes is None else index.classes[row]
            yield str(path), rank, index.images[row], label, f"{far:.6g}"


def main() -> int:
    """Print the neighbours of the pictures that are named."""
    parser = argparse.ArgumentParser(description="Search the gallery of this folder.")
    parser.add_argument("pictures", nargs="+", type=Path)
    parser.add_argument("--k", type=int, default=5, help="neighbours for each picture; 5")
    options = parser.parse_args()
    if options.k < 1:
        parser.error(f"--k {options.k} must be at least 1")
    table = csv.writer(sys.stdout)
    try:
        index = Index(Path(__file__).resolve().parent)
        table.writerow(("picture", "rank", "image", "class", "distance"))
        table.writerows(answers(index, options.pictures, options.k))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""In-Shop Clothes Retrieval of DeepFashion: pictures of clothes, a class for each of 7,982 items."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from hyplearn.data.errors import Problem
from hyplearn.data.sources.indexed import OfficialSet, numbered_lines, whole_number
from hyplearn.data.sources.retrieval_source import Entry, Index, Part, Place, make_index

_PARTS: dict[str, Part] = {"train": "train", "query": "test", "gallery": "test"}
_COLUMNS = "image_name item_id evaluation_status"


class InShop(OfficialSet):
    """52,712 images that list_eval_partition.txt names. Queries are searched among the gallery images only.

    Coarser classes are the folders above the items, such as WOMEN/Dresses.
    """

    name = "inshop"
    official: ClassVar[Mapping[str, int]] = {
        "training classes": 3997,
        "training images": 25882,
        "test classes": 3985,
        "test images": 26830,
        "query images": 14218,
        "gallery images": 12612,
    }
    places = ("Inshop_Clothes", "In-shop Clothes Retrieval Benchmark", ".")

    def placement(self, root: Path) -> str:
        return (
            "The set is given out on request (mmlab.ie.cuhk.edu.hk/projects/DeepFashion.html, In-shop Clothes "
            f"Retrieval Benchmark): place in {root / 'Inshop_Clothes'} Eval/list_eval_partition.txt and, unpacked, "
            "Img/img.zip as Img/img/ (not img_highres); or set dataset.root to where they are"
        )

    def holds(self, folder: Path) -> bool:
        return _list(folder) is not None

    def read(self, base: Path) -> Index:
        path = _list(base)
        assert path is not None
        folder = "Img/" if (base / "Img").is_dir() else ""
        problems: list[Problem] = []
        lines = numbered_lines(path)
        expected = whole_number(lines[0][1]) if lines else None
        if expected is None:
            problems.append(Problem(path, 1, "the first line is not the number of images"))
        rows = [(line, text) for line, text in lines if line > 1 and not text.startswith("image_name")]
        if expected is not None and len(rows) != expected:
            problems.append(Problem(path, 1, f"{expected} images are announced, {len(rows)} are named"))
        return make_index(base, _listed(path, folder, rows, problems), problems)


def _list(base: Path) -> Path | None:
    names = ("Eval/list_eval_partition.txt", "list_eval_partition.txt")
    return next((base / name for name in names if (base / name).is_file()), None)


def _listed(path: Path, folder: str, rows: list[tuple[int, str]], problems: list[Problem]) -> list[Entry]:
    entries = []
    for line, text in rows:
        fields = text.split()
        if len(fields) != 3 or fields[2] not in _PARTS:
            problems.append(Problem(path, line, f"{text!r} is not {_COLUMNS} with train, query or gallery"))
            continue
        image, item, status = fields
        entry = Entry(
            folder + image,
            item,
            _PARTS[status],
            item,
            Place(path, line),
            super_name="/".join(image.split("/")[1:3]),
            query=status != "gallery",
            gallery=status != "query",
        )
        entries.append(entry)
    return entries

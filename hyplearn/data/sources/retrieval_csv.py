"""The user's own images named by a table, for retrieval."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from hyplearn.data.errors import DatasetError, Problem
from hyplearn.data.reading.texts import text_of
from hyplearn.data.sources.indexed import ClassSplit, IndexedSource
from hyplearn.data.sources.retrieval_source import Entry, Index, Part, Place, make_index
from hyplearn.data.sources.source import needed

# split: the part, query, gallery
_ROLES: dict[str, tuple[Part, bool, bool]] = {
    "train": ("train", True, True),
    "val": ("val", True, True),
    "test": ("test", True, True),
    "query": ("test", True, False),
    "gallery": ("test", False, True),
}
_TRUTHS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
_COLUMNS = ("path", "label", "split", "query", "gallery", "super_label")


class CSVRetrieval(IndexedSource):
    """A CSV file with the columns path and label, and any of split, query, gallery and super_label.

    file: its name, below the root or absolute. Paths in it are absolute or relative to the root.
    split: train, val, test, query or gallery; the last two are test images that are only the one or the other. Without
    this column `test_fraction` of the classes, always the same, or `test_classes` (names, or a file below the root with
    one a line) are for the test. query, gallery: 1 or 0 (true or false, yes or no), what a test or validation image is
    for; both where it does not say. super_label: a coarser class. Other columns are left alone.
    allow_outside: images may lie outside of the root, by an absolute path, by .. or through a link.
    """

    name = "csv_retrieval"

    def __init__(
        self,
        *,
        file: str = "images.csv",
        test_fraction: float | None = None,
        test_classes: Sequence[str | int] | str | None = None,
        allow_outside: bool = False,
    ) -> None:
        self.file, self.split = file, ClassSplit(test_fraction, test_classes)
        self.allow_outside = allow_outside

    def prepare(self, root: Path | None) -> None:
        self._path(needed(root, self.name))

    def _path(self, root: Path) -> Path:
        path = root / self.file
        if path.is_dir() or not path.exists():
            raise DatasetError(
                f"{path} is no file: set dataset.root to the folder that the images are relative to and "
                "dataset.source.file to a CSV file in it (or an absolute path) with the columns path and label"
            )
        return path

    def read_index(self, root: Path) -> Index:
        path = self._path(root)
        problems: list[Problem] = []
        rows = _read(path, problems, split_needed=not self.split.given)
        entries = [entry for line, row in rows if (entry := _entry(row, Place(path, line), problems)) is not None]
        if self.split.given:
            test = self.split.choose(sorted({entry.class_name for entry in entries}), root)
            entries = [entry._replace(part="test" if entry.class_name in test else "train") for entry in entries]
        return make_index(root, entries, problems, outside=not self.allow_outside)


def _read(path: Path, problems: list[Problem], *, split_needed: bool) -> list[tuple[int, dict[str, str]]]:
    """The rows that are not empty, with the numbers of their lines; those with more fields than columns are problems.

    Raises DatasetError for a table without columns.
    """
    reader = csv.DictReader(io.StringIO(text_of(path), newline=""), restval="", strict=True)
    try:
        names = [name.strip() for name in reader.fieldnames or ()]
        _check_columns(path, names, split_needed=split_needed)
        reader.fieldnames = names
        rows = []
        for row in reader:
            beyond: Sequence[str] = row.pop(None, [])
            if beyond:
                count = f"{len(names) + len(beyond)} fields, but {len(names)} columns"
                message = f'{count}: put a text with a comma in double quotes, as "a, b.jpg"'
                problems.append(Problem(path, reader.line_num, message))
            else:
                rows.append((reader.line_num, row))
        return rows
    except csv.Error as error:
        raise DatasetError(f"{path}, line {reader.reader.line_num}: {error}") from error


def _check_columns(path: Path, names: Sequence[str], *, split_needed: bool) -> None:
    missing = [name for name in ("path", "label") if name not in names]
    if missing:
        raise DatasetError(
            f"{path}, line 1: no column {' and '.join(missing)} among {', '.join(names) or 'none'}; the first line "
            f"names the columns, separated by commas: path, label and any of {', '.join(_COLUMNS[2:])}"
        )
    repeated = [name for name in _COLUMNS if names.count(name) > 1]
    if repeated:
        raise DatasetError(f"{path}, line 1: several columns are named {' and '.join(repeated)}: keep one of each")
    if split_needed and "split" not in names:
        raise DatasetError(
            f"{path} has no column split: add one (train, val, test, query or gallery), or set "
            "dataset.source.test_fraction=0.5 (any fraction of the classes) or dataset.source.test_classes"
        )
    if not split_needed and "split" in names:
        raise DatasetError(f"{path} has a column split: leave out test_fraction and test_classes, or the column")


def _entry(row: Mapping[str, str], place: Place, problems: list[Problem]) -> Entry | None:
    """A row as an image; None, and a problem, where it is none."""
    values = {name: row.get(name, "").strip() for name in _COLUMNS}
    empty = [name for name in ("path", "label", "super_label") if name in row and not values[name]]
    split = values["split"] if "split" in row else "test"
    truths = {name: _TRUTHS.get(values[name].lower()) for name in ("query", "gallery")}
    wrong = [name for name, truth in truths.items() if values[name] and truth is None]
    if empty:
        message = f"no {' and no '.join(empty)}"
    elif split not in _ROLES:
        message = f"split {split!r} is none of {', '.join(_ROLES)}"
    elif wrong:
        message = f"{wrong[0]} {values[wrong[0]]!r} is neither 1 nor 0"
    else:
        part, query, gallery = _ROLES[split]
        return Entry(
            values["path"],
            values["label"],
            part,
            values["label"],
            place,
            super_name=values["super_label"] or None,
            query=query if truths["query"] is None else truths["query"],
            gallery=gallery if truths["gallery"] is None else truths["gallery"],
        )
    problems.append(Problem(*place, message))
    return None

"""Cars-196: photographs of cars. Classes 1 to 98 train, classes 99 to 196 test."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np

from hyplearn.data.errors import DatasetError, Problem
from hyplearn.data.sources.folder import visible_folders
from hyplearn.data.sources.indexed import NumberedClasses, OfficialSet
from hyplearn.data.sources.retrieval_source import Entry, Index, Place, make_index
from hyplearn.runs.regular import open_regular

# The annotations of the two halves of the newer archives, and the folder of their images.
_HALVES = {"cars_train_annos.mat": "cars_train", "cars_test_annos_withlabels.mat": "cars_test"}

# What the reader of MATLAB files raises, beside its own error, for a file that is another or was cut.
_UNREADABLE = (OSError, EOFError, ValueError, TypeError, LookupError, NotImplementedError, zlib.error)


LARGEST = 2**28  # bytes of a MATLAB file, unpacked; the largest of this set has 7 MB
HEADER, COMPRESSED = 128, 15  # bytes before the first element, and the kind of one that is packed


class Cars(OfficialSet):
    """16,185 images, in one of three layouts. The flags that part them for classification are of no meaning here.

    cars_annos.mat and car_ims/; or cars_train/, cars_test/ and, in devkit/ or beside them, cars_train_annos.mat and
    cars_test_annos_withlabels.mat; or train/ and test/ with one folder per class, named by the class number
    (017.Name), or all 196 of them by the class names, whose alphabetical order is that of the numbers.
    """

    name = "cars"
    official: ClassVar[Mapping[str, int]] = {
        "training classes": 98,
        "training images": 8054,
        "test classes": 98,
        "test images": 8131,
    }
    places = ("cars196", "Cars196", "stanford_cars", "cars", ".")
    classes = NumberedClasses(last_training=98, last=196)

    def placement(self, root: Path) -> str:
        return (
            "The official host (ai.stanford.edu) no longer offers the archives: get a copy of them, and place in "
            f"{root / 'cars196'} either cars_annos.mat and car_ims/ (from car_ims.tgz), or cars_train/, cars_test/, "
            "devkit/cars_train_annos.mat and devkit/cars_test_annos_withlabels.mat; or set dataset.root to where they "
            "are"
        )

    def holds(self, folder: Path) -> bool:
        one_file = (folder / "cars_annos.mat").is_file()
        return one_file or any(_annotations(folder, name) for name in _HALVES) or self._in_class_folders(folder)

    def _in_class_folders(self, folder: Path) -> bool:
        names = visible_folders(folder / "train")
        return len(names) == self.classes.last or any(map(self.classes.number, names))

    def read(self, base: Path) -> Index:
        problems: list[Problem] = []
        if (base / "cars_annos.mat").is_file():
            entries = self._records(base, base / "cars_annos.mat", "", problems)
        elif any(_annotations(base, name) for name in _HALVES):
            entries = self._halves(base, problems)
        else:
            entries = [entry for part in ("train", "test") for entry in self.classes.scan(base, part, problems)]
        return make_index(base, entries, problems)

    def _halves(self, base: Path, problems: list[Problem]) -> list[Entry]:
        entries = []
        for name, folder in _HALVES.items():
            path = _annotations(base, name)
            if path is None:
                message = f"the file is missing; both halves, {' and '.join(_HALVES)}, hold images of all classes"
                problems.append(Problem(base / "devkit" / name, None, message))
            else:
                entries += self._records(base, path, f"{folder}/", problems)
        return entries

    def _records(self, base: Path, path: Path, folder: str, problems: list[Problem]) -> list[Entry]:
        """The images of a file of annotations, whose names are below `folder`."""
        content = _load(path)
        names = _class_names(base, content)
        entries = []
        for line, record in enumerate(_structs(content, "annotations", path), 1):
            image = getattr(record, "relative_im_path", getattr(record, "fname", None))
            number = _whole(given := getattr(record, "class", None))
            if not isinstance(image, str) or not image:
                problems.append(Problem(path, line, "the record has no file name (relative_im_path or fname)"))
            elif number is None or not 1 <= number <= self.classes.last:
                problems.append(Problem(path, line, f"class {given} is not a number from 1 to {self.classes.last}"))
            else:
                name = names[number - 1] if number <= len(names) else str(number)
                entries.append(Entry(folder + image, number, self.classes.part(number), name, Place(path, line)))
        return entries


def _annotations(base: Path, name: str) -> Path | None:
    return next((path for path in (base / "devkit" / name, base / name) if path.is_file()), None)


def _load(path: Path) -> dict[str, Any]:
    from scipy.io import loadmat  # here: it takes a while to load, and no other data set needs it
    from scipy.io.matlab import MatReadError

    try:
        with open_regular(path) as file:
            _check_size(file)
            content: dict[str, Any] = loadmat(file, squeeze_me=True, struct_as_record=False)
    except (MatReadError, *_UNREADABLE) as error:
        raise DatasetError(
            f"{path}: {error}; the file is no MATLAB file of version 5, or damaged: place it again"
        ) from error
    return content


def _check_size(file: BinaryIO) -> None:
    """Raise ValueError where the file, unpacked, comes to more than any list of pictures. Keeps nothing of it."""
    size = file.seek(0, os.SEEK_END)
    file.seek(HEADER)
    whole = size
    while whole <= LARGEST and len(tag := file.read(8)) == 8:
        kind, count = struct.unpack("<II", tag)
        if kind == COMPRESSED:
            whole += _unpacked(file.read(min(count, size)), LARGEST)
        else:
            file.seek(count, os.SEEK_CUR)
    if whole > LARGEST:
        raise ValueError(f"unpacked it comes to more than {LARGEST:,} bytes")
    file.seek(0)


def _unpacked(packed: bytes, most: int) -> int:
    """How many bytes a stream of zlib comes to, counted until they are more than `most`."""
    stream, count = zlib.decompressobj(), 0
    while packed and count <= most and not stream.eof:
        part = stream.decompress(packed, 2**20)
        count, packed = count + len(part), stream.unconsumed_tail
        if not part and not packed:
            break
    return count


def _whole(number: object) -> int | None:
    """A whole number, which MATLAB stores as a double unless told otherwise; None for anything else."""
    return int(number) if isinstance(number, (int, float)) and number == number // 1 else None


def _structs(content: Mapping[str, Any], name: str, path: Path) -> list[Any]:
    if name not in content:
        raise DatasetError(f"{path}: has no {name!r}; the file is not the one of the archive: place it again")
    return list(np.atleast_1d(content[name]))


def _class_names(base: Path, content: Mapping[str, Any]) -> list[str]:
    """The names of the 196 classes, where the annotations or devkit/cars_meta.mat have them."""
    meta = _annotations(base, "cars_meta.mat")
    found = content
    if "class_names" not in content:
        found = {} if meta is None else _load(meta)
    return [str(name) for name in found["class_names"]] if "class_names" in found else []

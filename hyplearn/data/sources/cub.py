"""CUB-200-2011: photographs of birds. Classes 1 to 100 train, classes 101 to 200 test."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple

from hyplearn.data.errors import Problem
from hyplearn.data.reading.download import Archive
from hyplearn.data.sources.folder import visible_folders
from hyplearn.data.sources.indexed import NumberedClasses, OfficialSet, missing_index, numbered_lines, whole_number
from hyplearn.data.sources.retrieval_source import Entry, Index, Place, make_index


class CUB(OfficialSet):
    """11,788 images. The flags of train_test_split.txt, made for classification, are of no meaning here.

    images.txt and image_class_labels.txt name the images; where both are missing, the class folders of images/ do.
    """

    name = "cub"
    official: ClassVar[Mapping[str, int]] = {
        "training classes": 100,
        "training images": 5864,
        "test classes": 100,
        "test images": 5924,
    }
    places = ("CUB_200_2011", ".")
    classes = NumberedClasses(last_training=100, last=200)
    archive = Archive(
        "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
        "CUB_200_2011.tgz",
        "97eceeb196236b17998738112f37df78",
    )

    def fetch(self, root: Path) -> None:
        self.archive.fetch_and_unpack(root, "CUB_200_2011", placement=self.placement(root))

    def placement(self, root: Path) -> str:
        return (
            f"Get {self.archive.url} and place it in {root}, or the folder CUB_200_2011/ that it holds, with images/, "
            "images.txt, image_class_labels.txt and classes.txt; or set dataset.root to where it is"
        )

    def holds(self, folder: Path) -> bool:
        images = folder / "images"
        return (folder / "images.txt").is_file() or any(map(self.classes.number, visible_folders(images)))

    def read(self, base: Path) -> Index:
        problems: list[Problem] = []
        texts = (base / "images.txt", base / "image_class_labels.txt")
        missing = [path for path in texts if not path.is_file()]
        if len(missing) == 2:
            entries = self.classes.scan(base, "images", problems)
        elif missing:
            entries, problems = [], [missing_index(missing[0])]
        else:
            entries = self._listed(base, problems)
        return make_index(base, entries, problems)

    def _listed(self, base: Path, problems: list[Problem]) -> list[Entry]:
        paths, labels = (_by_id(base / name, problems) for name in ("images.txt", "image_class_labels.txt"))
        names = _by_id(base / "classes.txt", problems) if (base / "classes.txt").is_file() else {}
        problems += [
            Problem(*labels[key].place, f"image {key} is not in images.txt") for key in labels.keys() - paths.keys()
        ]
        entries = []
        for key, (path, place) in paths.items():
            if key not in labels:
                problems.append(Problem(*place, f"image {key} is not in image_class_labels.txt"))
                continue
            label, where = labels[key]
            number = whole_number(label)
            if number is None or not 1 <= number <= self.classes.last:
                problems.append(Problem(*where, f"class {label!r} is not a number from 1 to {self.classes.last}"))
                continue
            name = names[number].text if number in names else str(number)
            entries.append(Entry(f"images/{path}", number, self.classes.part(number), name, place))
        return entries


class _Row(NamedTuple):
    text: str
    place: Place


def _by_id(path: Path, problems: list[Problem]) -> dict[int, _Row]:
    """Read lines "<id> <text>" into texts by id."""
    found: dict[int, _Row] = {}
    for line, content in numbered_lines(path):
        key, _, text = content.partition(" ")
        number = whole_number(key)
        if number is None or not text.strip():
            problems.append(Problem(path, line, f"{content!r} is not a number and a text"))
        elif number in found:
            problems.append(Problem(path, line, f"number {number} stands in line {found[number].place.line} already"))
        else:
            found[number] = _Row(text.strip(), Place(path, line))
    return found

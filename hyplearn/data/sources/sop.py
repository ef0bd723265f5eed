"""Stanford Online Products: pictures of goods from offers on the web, a class for each of 22,634 offers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from hyplearn.data.errors import Problem
from hyplearn.data.reading.download import Archive
from hyplearn.data.sources.indexed import OfficialSet, missing_index, numbered_lines, whole_number
from hyplearn.data.sources.retrieval_source import Entry, Index, Part, Place, make_index

_LISTS: dict[str, Part] = {"Ebay_train.txt": "train", "Ebay_test.txt": "test"}
_COLUMNS = "image_id class_id super_class_id path"


class SOP(OfficialSet):
    """120,053 images; Ebay_train.txt and Ebay_test.txt name them, with the kind of goods (12) as the coarser class."""

    name = "sop"
    official: ClassVar[Mapping[str, int]] = {
        "training classes": 11318,
        "training images": 59551,
        "test classes": 11316,
        "test images": 60502,
    }
    places = ("Stanford_Online_Products", ".")
    archive = Archive(
        "http://ftp.cs.stanford.edu/cs/cvgl/Stanford_Online_Products.zip",
        "Stanford_Online_Products.zip",
        "7f73d41a2f44250d4779881525aea32e",
    )

    def fetch(self, root: Path) -> None:
        self.archive.fetch_and_unpack(root, "Stanford_Online_Products", placement=self.placement(root))

    def placement(self, root: Path) -> str:
        return (
            f"Get {self.archive.url} and place it in {root}, or the folder Stanford_Online_Products/ that it holds, "
            "with Ebay_train.txt, Ebay_test.txt and the folders of images; or set dataset.root to where it is"
        )

    def holds(self, folder: Path) -> bool:
        return any((folder / name).is_file() for name in _LISTS)

    def read(self, base: Path) -> Index:
        problems: list[Problem] = []
        entries = []
        for name, part in _LISTS.items():
            if (base / name).is_file():
                entries += _listed(base / name, part, problems)
            else:
                problems.append(missing_index(base / name))
        return make_index(base, entries, problems)


def _listed(path: Path, part: Part, problems: list[Problem]) -> list[Entry]:
    entries = []
    for line, text in numbered_lines(path):
        if line == 1 and text.startswith("image_id"):
            continue
        fields = text.split(None, 3)
        numbers = [whole_number(field) for field in fields[:3]]
        if len(fields) < 4 or numbers[1] is None or None in numbers:
            problems.append(Problem(path, line, f"{text!r} is not {_COLUMNS}"))
            continue
        kind = fields[3].partition("/")[0].removesuffix("_final")
        entries.append(Entry(fields[3], numbers[1], part, f"{kind} {numbers[1]}", Place(path, line), super_name=kind))
    return entries

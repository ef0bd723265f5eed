"""Lists of images that leave the folder of their set."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hyplearn.data.sources.retrieval_csv import CSVRetrieval
from hyplearn.data.sources.retrieval_source import Entry, Place, make_index


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    (root / "in").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    for path in (root / "in" / "a.png", tmp_path / "other" / "b.png"):
        path.write_bytes(b"x")
    (root / "folder").symlink_to(tmp_path / "other")
    (root / "file.png").symlink_to(tmp_path / "other" / "b.png")
    (root / "inside.png").symlink_to(root / "in" / "a.png")
    return root


def names(root: Path, path: str, **settings: bool) -> tuple[int, list[str]]:
    lines = ["path,label,split", "in/a.png,one,train", f"{path},two,train"]
    (root / "images.csv").write_text("\n".join(lines) + "\n")
    index = CSVRetrieval(**settings).index(root)
    return len(index.parts["train"]), [problem.message for problem in index.problems]


@pytest.mark.parametrize(
    "path", ["../other/b.png", "in/../../other/b.png", "{0}/other/b.png", "folder/b.png", "file.png"]
)
def test_an_image_outside_of_the_root_needs_leave(root: Path, path: str) -> None:
    path = path.format(root.parent)
    count, messages = names(root, path)
    assert count == 1
    assert messages == [f"{path} lies outside of {root}: set dataset.source.allow_outside=true if that is meant"]
    assert names(root, path, allow_outside=True) == (2, [])


@pytest.mark.parametrize("path", ["in/../in/../inside.png", "{0}/inside.png", "inside.png"])
def test_ways_that_end_below_the_root_are_inside(root: Path, path: str) -> None:
    assert names(root, path.format(root)) == (2, [])


def test_a_root_that_is_a_link_itself_is_the_root(root: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(root)
    assert names(tmp_path / "linked", "inside.png") == (2, [])


def test_lists_of_published_sets_name_no_place_elsewhere_but_their_folders_may_be_links(root: Path) -> None:
    places = ["in/a.png", "folder/b.png", "../other/b.png", "/etc/passwd"]
    entries = [
        Entry(path, number, "train", str(number), Place(root / "list.txt", number))
        for number, path in enumerate(places)
    ]
    index = make_index(root, entries, [])
    assert index.parts["train"].images.labels.equal(torch.tensor([0, 1]))
    assert [problem.message.partition(" lies")[0] for problem in index.problems] == ["../other/b.png", "/etc/passwd"]

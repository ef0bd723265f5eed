"""What a data set has to tell and to give. One class per data set implements it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

from hyplearn.data.reading.files import ImageFiles
from hyplearn.data.reading.images import ImageArrays


class Facts(NamedTuple):
    """What a model needs to know of a data set, known before any image is read.

    image_size: side in pixels, None where the files have any size. class_names: None where they stand in files that are
    not there yet.
    """

    in_channels: int
    num_classes: int
    image_size: int | None
    class_names: tuple[str, ...] | None


class Source(Protocol):
    """A data set. `root` is the folder that holds its files, None for a set that needs none."""

    name: str
    in_files: bool  # one file for each image

    def facts(self, root: Path | None) -> Facts:
        """Tell the facts at once, at most from a listing of folders or a file of names."""
        ...

    def prepare(self, root: Path | None) -> None:
        """Download what is missing. Raises DatasetError saying what to place where if that is not possible."""
        ...

    def train(self, root: Path | None) -> ImageArrays | ImageFiles: ...

    def validation(self, root: Path | None) -> ImageArrays | ImageFiles | None:
        """Images that the data set itself sets apart for validation, None if it does not."""
        ...

    def test(self, root: Path | None) -> ImageArrays | ImageFiles: ...


def needed(root: Path | None, name: str) -> Path:
    """`root`, which the data set `name` cannot do without."""
    if root is None:
        raise ValueError(f"{name} is read from files: set dataset.root to the folder that holds them, got none")
    return root


def unneeded(root: Path | None, name: str) -> None:
    """Raises ValueError if a folder is given for a data set that is in none."""
    if root is not None:
        raise ValueError(f"{name} is read from no folder: set dataset.root=null, got {root}")

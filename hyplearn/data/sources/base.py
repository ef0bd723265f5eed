"""Base class of a data set of one's own: what most have in common is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from hyplearn.data.reading.files import ImageFiles
from hyplearn.data.reading.images import ImageArrays
from hyplearn.data.sources.source import Facts


class ImageSource(ABC):
    """A data set for `ImageDataModule`; subclasses give `facts`, `train` and `test`, see `Source` for each.

    name: the name of the class, unless it sets another. in_files: False for arrays; True for one file per image.
    """

    in_files = False

    @property
    def name(self) -> str:
        """What reports call the data set."""
        return type(self).__name__

    @abstractmethod
    def facts(self, root: Path | None) -> Facts:
        """Channels, classes, image size and class names, before any image is read."""

    def prepare(self, root: Path | None) -> None:  # noqa: B027 - most have nothing to download
        """Download what is missing: nothing, unless a subclass does."""

    @abstractmethod
    def train(self, root: Path | None) -> ImageArrays | ImageFiles:
        """The training images."""

    def validation(self, root: Path | None) -> ImageArrays | ImageFiles | None:
        """Images that are set apart for validation; none, so that a part of the training images is."""
        return None

    @abstractmethod
    def test(self, root: Path | None) -> ImageArrays | ImageFiles:
        """The test images."""

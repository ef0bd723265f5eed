"""The standard sets. Their files may be of any number of images, as long as they are in the official layout."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torchvision import datasets as official

from hyplearn.data.batches.splits import stratified_split
from hyplearn.data.errors import DatasetError, Problem, ProblemsError, read_all
from hyplearn.data.reading.download import Archive
from hyplearn.data.reading.files import ImageFiles
from hyplearn.data.reading.formats import read_cifar_batch, read_idx, read_idx_pair, read_pickle
from hyplearn.data.reading.images import ImageArrays
from hyplearn.data.reading.texts import lines_of, text_of
from hyplearn.data.sources.source import Facts, needed, unneeded


class Digits:
    """1,797 handwritten digits of 8 x 8 pixels that come with scikit-learn; 20 % of them, always the same, are test.

    The set has no official split. Ours is stratified by class and fixed, whatever the seeds of the run are.
    """

    name = "digits"
    in_files = False

    def facts(self, root: Path | None) -> Facts:
        unneeded(root, self.name)
        return Facts(1, 10, 8, tuple("0123456789"))

    def prepare(self, root: Path | None) -> None:
        unneeded(root, self.name)

    def train(self, root: Path | None) -> ImageArrays:
        return _digits()[0]

    def validation(self, root: Path | None) -> None:
        return None

    def test(self, root: Path | None) -> ImageArrays:
        return _digits()[1]


@cache
def _digits() -> tuple[ImageArrays, ImageArrays]:
    from sklearn.datasets import load_digits  # here, because it takes a second and no other set needs it

    digits = load_digits()
    pixels = torch.from_numpy(digits.images * (255 / 16)).round().to(torch.uint8)[..., None]
    images = ImageArrays(pixels, torch.from_numpy(digits.target).to(torch.int64))
    train, test = stratified_split(images.labels, 0.2, seed=0, purpose="digits test")
    return images.select(train), images.select(test)


class FashionMNIST:
    """70,000 grey images of clothes, 28 x 28 pixels, from its four IDX files, gzipped or not."""

    name = "fashion_mnist"
    in_files = False
    num_classes = 10

    def facts(self, root: Path | None) -> Facts:
        return Facts(1, self.num_classes, 28, tuple(official.FashionMNIST.classes))

    def present(self, root: Path) -> bool:
        """Whether the files are there."""
        return all(_find(root, self._places(name)) is not None for name in self._filenames())

    def prepare(self, root: Path | None) -> None:
        root = needed(root, self.name)
        placement = (
            f"Place {', '.join(self._filenames())} in {root}; or, on Debian and Ubuntu, "
            "`apt install dataset-fashion-mnist` and set dataset.root=/usr/share/datasets/fashion-mnist"
        )
        for filename, md5 in official.FashionMNIST.resources:
            if _find(root, self._places(filename)) is None:
                url = official.FashionMNIST.mirrors[0] + filename
                Archive(url, filename, md5).fetch(root / "FashionMNIST" / "raw", placement=placement)

    def train(self, root: Path | None) -> ImageArrays:
        return self._read(needed(root, self.name), "train")

    def validation(self, root: Path | None) -> None:
        return None

    def test(self, root: Path | None) -> ImageArrays:
        return self._read(needed(root, self.name), "t10k")

    def _filenames(self) -> list[str]:
        return [filename for filename, _ in official.FashionMNIST.resources]

    def _places(self, filename: str) -> list[str]:
        """Files beside each other in the root (as Debian installs them), or where torchvision puts them."""
        names = (filename, filename.removesuffix(".gz"))
        return [folder + name for folder in ("", "FashionMNIST/raw/") for name in names]

    def _read(self, root: Path, part: str) -> ImageArrays:
        names = [f"{part}-images-idx3-ubyte.gz", f"{part}-labels-idx1-ubyte.gz"]
        if any(_find(root, self._places(name)) is None for name in names):
            read_all([partial(self._array, root, name) for name in names])  # what is there may be broken, too
        images, labels = (_found(root, self._places(name), self.name) for name in names)
        return read_idx_pair(images, labels, num_classes=self.num_classes)

    def _array(self, root: Path, name: str) -> npt.NDArray[np.uint8]:
        return read_idx(_found(root, self._places(name), self.name))


class CIFAR10:
    """60,000 colour images of 32 x 32 pixels in 10 classes, from the Python version of the archive."""

    name = "cifar10"
    in_files = False
    num_classes = 10
    layout = official.CIFAR10
    label_key = "labels"

    def facts(self, root: Path | None) -> Facts:
        meta = self.layout.meta
        found = None if root is None else _find(root, self._places(meta["filename"]))
        names = None if found is None else read_pickle(found).get(meta["key"])
        return Facts(3, self.num_classes, 32, None if names is None else tuple(names))

    def present(self, root: Path) -> bool:
        """Whether the files are there."""
        return not self._missing(root)

    def prepare(self, root: Path | None) -> None:
        root = needed(root, self.name)
        if self._missing(root):
            archive = Archive(self.layout.url, self.layout.filename, self.layout.tgz_md5)
            placement = (
                f"Place {archive.filename} in {root}, or the folder {self.layout.base_folder}/ that it holds "
                f"(with {', '.join(self._filenames())}), or set dataset.root to where they are"
            )
            if (root / self.layout.base_folder).exists():
                raise DatasetError(f"{', '.join(self._missing(root))} not found below {root}. {placement}")
            archive.fetch_and_unpack(root, self.layout.base_folder, placement=placement)

    def remarks(self, root: Path | None) -> list[str]:
        """Return what a user may want to know of the files, though all images can be read."""
        name = self.layout.meta["filename"]
        there = root is not None and _find(root, self._places(name)) is not None
        return [] if there else [f"{name} is missing: classes have numbers in place of names"]

    def train(self, root: Path | None) -> ImageArrays:
        return self._read(needed(root, self.name), self.layout.train_list)

    def validation(self, root: Path | None) -> None:
        return None

    def test(self, root: Path | None) -> ImageArrays:
        return self._read(needed(root, self.name), self.layout.test_list)

    def _filenames(self) -> list[str]:
        return [filename for filename, _ in (*self.layout.train_list, *self.layout.test_list)]

    def _places(self, filename: str) -> list[str]:
        return [f"{self.layout.base_folder}/{filename}", filename]

    def _missing(self, root: Path) -> list[str]:
        return [name for name in self._filenames() if _find(root, self._places(name)) is None]

    def _read(self, root: Path, parts: Sequence[Sequence[str]]) -> ImageArrays:
        read = partial(read_cifar_batch, label_key=self.label_key, num_classes=self.num_classes)
        batches = read_all([partial(self._batch, root, filename, read) for filename, _ in parts])
        return ImageArrays(torch.cat([b.pixels for b in batches]), torch.cat([b.labels for b in batches]))

    def _batch(self, root: Path, filename: str, read: Callable[[Path], ImageArrays]) -> ImageArrays:
        return read(_found(root, self._places(filename), self.name))


class CIFAR100(CIFAR10):
    """60,000 colour images of 32 x 32 pixels in 100 classes (the fine labels)."""

    name = "cifar100"
    num_classes = 100
    layout = official.CIFAR100
    label_key = "fine_labels"


class TinyImageNet:
    """110,000 colour images of 64 x 64 pixels in 200 classes. Its labelled validation images serve as test images.

    The official test images have no labels; papers report accuracy on the validation images.
    """

    name = "tiny_imagenet"
    in_files = True
    num_classes = 200
    folder = "tiny-imagenet-200"
    archive = Archive(
        "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        "tiny-imagenet-200.zip",
        "90528d7ca1a48142e341f4ef8d21d0de",
    )

    def facts(self, root: Path | None) -> Facts:
        found = None if root is None else _find(root, self._places("wnids.txt"))
        return Facts(3, self.num_classes, 64, None if found is None else tuple(self._class_names(found.parent)))

    def present(self, root: Path) -> bool:
        """Whether the files are there."""
        return not self._missing(root)

    def _missing(self, root: Path) -> list[str]:
        names = ("wnids.txt", "train", "val/images", "val/val_annotations.txt")
        return [name for name in names if _find(root, self._places(name)) is None]

    def prepare(self, root: Path | None) -> None:
        root = needed(root, self.name)
        missing = self._missing(root)
        placement = (
            f"Place {self.archive.filename} in {root}, or the folder {self.folder}/ that it holds, with wnids.txt, "
            "train/<class>/images/, val/images/ and val/val_annotations.txt; or set dataset.root to where it is"
        )
        if missing and (root / self.folder).exists():
            raise DatasetError(f"{', '.join(missing)} not found below {root}. {placement}")
        if missing:
            self.archive.fetch_and_unpack(root, self.folder, placement=placement)

    def train(self, root: Path | None) -> ImageFiles:
        base = self._base(root)
        paths, labels = [], []
        for label, wnid in enumerate(self._wnids(base)):
            images = sorted((base / "train" / wnid / "images").glob("*.JPEG"))
            paths += [path.relative_to(base).as_posix() for path in images]
            labels += [label] * len(images)
        if not paths:
            raise DatasetError(f"no images found in {base}/train/<class>/images/*.JPEG")
        return ImageFiles(base, tuple(paths), torch.tensor(labels))

    def validation(self, root: Path | None) -> None:
        return None

    def test(self, root: Path | None) -> ImageFiles:
        base = self._base(root)
        annotations = base / "val" / "val_annotations.txt"
        index = {wnid: label for label, wnid in enumerate(self._wnids(base))}
        paths, labels, problems = [], [], []
        for number, line in enumerate(lines_of(annotations), 1):
            filename, wnid, *_ = [*line.split("\t"), "", ""]
            if not filename or wnid not in index:
                problem = f"{line!r}: {wnid or 'an empty name'} is no class of wnids.txt"
                problems.append(Problem(annotations, number, problem))
                continue
            paths.append(f"val/images/{filename}")  # a file that is not there is told, or skipped, as any other
            labels.append(index[wnid])
        if problems:
            raise ProblemsError(problems, self.name)
        return ImageFiles(base, tuple(paths), torch.tensor(labels))

    def remarks(self, root: Path | None) -> list[str]:
        """Return what a user may want to know of the files, though all images can be read."""
        base = self._base(root)
        named = set(self.test(root).paths)
        folder = base / "val" / "images"
        unnamed = sorted(name for name in os.listdir(folder) if f"val/images/{name}" not in named)
        found = [f"{len(unnamed)} files of {folder} that no list names, the first {unnamed[0]}"] if unnamed else []
        words = [] if (base / "words.txt").exists() else ["words.txt is missing: classes are called by their ids"]
        return found + words

    def _places(self, name: str) -> list[str]:
        return [f"{self.folder}/{name}", name]

    def _base(self, root: Path | None) -> Path:
        return _found(needed(root, self.name), self._places("wnids.txt"), self.name).parent

    def _wnids(self, base: Path) -> list[str]:
        """Labels number the WordNet ids in alphabetical order, as torchvision's ImageFolder does."""
        wnids = sorted(text_of(base / "wnids.txt").split())
        if not 0 < len(wnids) <= self.num_classes:
            raise DatasetError(f"{base / 'wnids.txt'} lists {len(wnids)} classes, needed are 1 to {self.num_classes}")
        return wnids

    def _class_names(self, base: Path) -> list[str]:
        words = base / "words.txt"
        lines = lines_of(words) if words.exists() else []
        names = dict(line.split("\t", 1) for line in lines if "\t" in line)
        return [names.get(wnid, wnid) for wnid in self._wnids(base)]


def _find(root: Path, places: Sequence[str]) -> Path | None:
    """The first of the places below `root` that exists."""
    return next((root / place for place in places if (root / place).exists()), None)


def _found(root: Path, places: Sequence[str], name: str) -> Path:
    path = _find(root, places)
    if path is None:
        raise DatasetError(f"{name}: {places[0]} not found below {root}; set dataset.root to the folder that holds it")
    return path

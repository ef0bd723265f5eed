from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hyplearn.data.datamodule import ImageDataModule
from hyplearn.data.errors import BadImagesError, DatasetError
from hyplearn.data.reading.places import bytes_of
from hyplearn.data.retrieval_datamodule import RetrievalDataModule
from hyplearn.data.sources.cub import CUB
from hyplearn.data.sources.folder import ImageFolder
from hyplearn.data.sources.shard_writing import write_shards
from hyplearn.data.sources.shards import INDEX, RetrievalShards, Shards
from hyplearn.data.sources.synthetic import Synthetic
from hyplearn.data.verify import verify
from tests.support.retrieval_trees import make_cub

OPTIONS: dict[str, Any] = {"mean": [0.5], "std": [0.25], "image_size": 16, "num_workers": 0, "cache": "none"}


@pytest.fixture
def shards(folder_root: Path, tmp_path: Path) -> Path:
    write_shards(ImageFolder(), folder_root, tmp_path / "shards")
    return tmp_path / "shards"


def batches(data: ImageDataModule, split: Any) -> list[tuple[torch.Tensor, ...]]:
    data.prepare_data()
    data.setup("test" if split == "test" else "fit")
    return list(data.batches(split, epoch=1))


def same(first: list[tuple[torch.Tensor, ...]], second: list[tuple[torch.Tensor, ...]]) -> bool:
    pairs = [(a, b) for one, other in zip(first, second, strict=True) for a, b in zip(one, other, strict=True)]
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_batches_are_those_of_the_single_files(split: str, folder_root: Path, shards: Path) -> None:
    def data(source: Any, root: Path) -> ImageDataModule:
        return ImageDataModule(source, root=root, batch_size=6, val_fraction=0.2, seed=4, **OPTIONS)

    single, packed = data(ImageFolder(), folder_root), data(Shards(), shards)
    assert same(batches(single, split), batches(packed, split))
    assert packed.class_names == ("ant", "bee")
    part = "test" if split == "test" else "train"
    assert packed.fingerprint["sha256"][part] == single.fingerprint["sha256"][part]


@pytest.mark.parametrize("sampler", ["unique_class", "class_balanced"])
def test_class_balanced_batches_are_those_of_the_single_files(sampler: Any, tmp_path: Path) -> None:
    make_cub(tmp_path)
    write_shards(CUB(), tmp_path, tmp_path / "shards")

    def data(source: Any, root: Path) -> RetrievalDataModule:
        return RetrievalDataModule(
            source, root=root, batch_size=6, images_per_class=2, val_fraction=0.4, sampler=sampler, **OPTIONS
        )

    single, packed = data(CUB(), tmp_path), data(RetrievalShards(), tmp_path / "shards")
    for split in ("train", "val", "test"):
        assert same(batches(single, split), batches(packed, split))
    for part in ("val", "test"):
        a, b = single.evaluation(part), packed.evaluation(part)
        assert torch.equal(a.query, b.query) and torch.equal(a.gallery, b.gallery)
        assert (a.paths, a.class_names) == (b.paths, b.class_names)
    assert packed.facts().num_classes == single.facts().num_classes


def test_shards_are_small_tar_files_as_webdataset_has_them(folder_root: Path, tmp_path: Path) -> None:
    counts = write_shards(ImageFolder(), folder_root, tmp_path / "shards", shard_mib=0)
    assert counts == {"train": 20, "test": 8}
    files = ImageFolder().train(folder_root)
    assert len(list((tmp_path / "shards").glob("train-*.tar"))) == 20  # each image alone is more than none
    with tarfile.open(tmp_path / "shards" / "train-000013.tar") as tar:
        assert tar.getnames() == ["00000013.png", "00000013.cls"]
        image, label = (tar.extractfile(name) for name in tar.getnames())
        assert image is not None and image.read() == files.absolute()[13].read_bytes()
        assert label is not None and label.read() == b"1"


def test_the_same_images_make_the_same_bytes(folder_root: Path, shards: Path, tmp_path: Path) -> None:
    write_shards(ImageFolder(), folder_root, tmp_path / "again")
    for path in shards.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_shards_of_shards_are_the_same(shards: Path, tmp_path: Path) -> None:
    write_shards(Shards(), shards, tmp_path / "again")
    assert (tmp_path / "again" / "train-000000.tar").read_bytes() == (shards / "train-000000.tar").read_bytes()


def test_a_folder_that_is_there_stays_as_it_is(folder_root: Path, shards: Path) -> None:
    before = {path: path.read_bytes() for path in shards.iterdir()}
    with pytest.raises(DatasetError, match="is there already: name a new folder"):
        write_shards(ImageFolder(), folder_root, shards)
    assert {path: path.read_bytes() for path in shards.iterdir()} == before


def test_nothing_is_left_of_shards_that_could_not_be_made(folder_root: Path, tmp_path: Path) -> None:
    (folder_root / "test" / "bee" / "2.png").unlink()
    source = ImageFolder()
    files = source.test(folder_root)
    (folder_root / "test" / "bee" / "3.png").unlink()
    source.test = lambda root: files  # type: ignore[method-assign]
    with pytest.raises(DatasetError, match=r"3\.png: No such file or directory; `hyplearn data verify`"):
        write_shards(source, folder_root, tmp_path / "shards")
    assert not list(tmp_path.glob("*shards*"))


def test_sets_in_no_files_need_no_shards(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="synthetic is not made of image files"):
        write_shards(Synthetic(), None, tmp_path / "shards")


# Damage


def test_a_missing_and_a_cut_shard_are_named_together(folder_root: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    write_shards(ImageFolder(), folder_root, shards, shard_mib=0)
    (shards / "train-000003.tar").unlink()
    content = (shards / "train-000005.tar").read_bytes()
    (shards / "train-000005.tar").write_bytes(content[:600])
    with pytest.raises(DatasetError, match=r"000003\.tar is missing\n.*000005\.tar was cut: it has 600 bytes"):
        Shards().train(shards)


def test_a_damaged_image_is_named_by_shard_and_path(shards: Path) -> None:
    member = Shards().train(shards).places()[12]
    with (shards / "train-000000.tar").open("r+b") as file:
        file.seek(member.offset)
        file.write(bytes(member.size))
    data = ImageDataModule(Shards(), root=shards, batch_size=6, **OPTIONS)
    with pytest.raises(BadImagesError, match=r"train-000000\.tar/train/bee/2\.png: not an image"):
        data.setup("fit")
    report = verify(Shards(), shards)
    assert ["train-000000.tar/train/bee/2.png" in str(problem.file) for problem in report.problems] == [True]


def test_a_shard_of_another_making_is_noticed(shards: Path) -> None:
    member = Shards().train(shards).places()[3]
    with (shards / "train-000000.tar").open("r+b") as file:
        header = tarfile.TarInfo("other.png")
        header.size = member.size
        file.seek(member.offset - 512)
        file.write(header.tobuf(tarfile.USTAR_FORMAT))
    with pytest.raises(ValueError, match=r"holds 'other\.png' .* its index names '00000003\.png'"):
        bytes_of(member)
    with (shards / "train-000000.tar").open("r+b") as file:
        file.seek(member.offset - 512)
        file.write(b"\1" * 512)
    with pytest.raises(ValueError, match=r"no file begins there in the shard"):
        bytes_of(member)


def change(folder: Path, **columns: Any) -> None:
    """Write the index anew, with the first values of these columns of the training part changed."""
    content = json.loads((folder / INDEX).read_text())
    for name, value in columns.items():
        content["parts"]["train"][name][0] = value
    (folder / INDEX).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("shards", "../../etc/passwd", "is no name below the folder"),
        ("shards", "/etc/passwd", "is no name below the folder"),
        ("key", "../x.png", "is no name below the folder"),
        ("key", "/x.png", "is no name below the folder"),
        ("shard", 1, "shard 1 is not from 0 to 0"),
        ("shard", -1, "shard -1 is not from 0 to 0"),
        ("offset", 0, "offset 0 is not from 512"),
        ("offset", 2**70, "offset .* is not from 512"),
        ("size", 2**40, "size 1099511627776 is not from 0 to 536870912"),
        ("size", -1, "size -1 is not from 0"),
        ("size", "many", "size is no list of whole numbers"),
        ("label", 2, "label 2 is not from 0 to 1"),
        ("label", 0.5, "label is no list of whole numbers"),
        ("label", True, "label is no list of whole numbers"),
        ("name", 3, "name is no list of texts"),
    ],
)
def test_hostile_indices_are_refused(shards: Path, column: str, value: Any, message: str) -> None:
    change(shards, **{column: value})
    with pytest.raises(DatasetError, match=rf"index\.json, part train, cannot be used \(.*{message}"):
        Shards().train(shards)


def test_an_offset_beyond_the_shard_is_told_before_training(shards: Path) -> None:
    change(shards, offset=2**40)
    with pytest.raises(DatasetError, match="was cut"):
        Shards().train(shards)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"format": 2}', b"[" * 100_000, b"\xff"])
def test_an_index_that_is_none_is_told(shards: Path, content: bytes) -> None:
    (shards / INDEX).write_bytes(content)
    with pytest.raises(DatasetError, match=r"index\.json cannot be used"):
        Shards().facts(shards)


def test_the_kind_of_shards_is_told(shards: Path, tmp_path: Path) -> None:
    make_cub(tmp_path / "birds")
    write_shards(CUB(), tmp_path / "birds", tmp_path / "cub")
    with pytest.raises(DatasetError, match="choose dataset=shards_retrieval"):
        Shards().train(tmp_path / "cub")
    with pytest.raises(DatasetError, match=r"choose dataset=shards$"):
        RetrievalShards().train(shards)
    with pytest.raises(DatasetError, match=r"index\.json is not there"):
        Shards().facts(tmp_path)


def test_a_cache_of_shards_gives_their_pixels(shards: Path) -> None:
    def data(cache: Any) -> ImageDataModule:
        return ImageDataModule(Shards(), root=shards, batch_size=6, **{**OPTIONS, "cache": cache})

    assert same(batches(data("disk"), "train"), batches(data("none"), "train"))


def test_shards_are_checked_once(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hyplearn.data.reading import files

    def setup() -> None:
        ImageDataModule(Shards(), root=shards, batch_size=6, **OPTIONS).setup("fit")

    setup()
    monkeypatch.setattr(files, "decode", never)
    setup()


def never(*_: object, **__: object) -> Callable[..., None]:
    raise AssertionError("decoded again")

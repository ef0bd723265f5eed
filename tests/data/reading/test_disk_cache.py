from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torchvision.transforms import v2

from hyplearn.data.errors import BadImagesError, DatasetError
from hyplearn.data.reading import disk_cache
from hyplearn.data.reading.disk_cache import DiskCache
from hyplearn.data.reading.files import ImageFiles, Reading, read_files
from hyplearn.data.reading.images import Images

WriteImage = Callable[..., Path]
CROP = v2.RandomResizedCrop(12, scale=(0.2, 1))


@pytest.fixture
def files(tmp_path: Path, write_image: WriteImage) -> ImageFiles:
    paths = [write_image(tmp_path / "photos" / f"{i}.png", (30 + i, 40 - i)) for i in range(6)]
    return ImageFiles(tmp_path / "photos", tuple(path.name for path in paths), torch.arange(6) % 2)


def read(files: ImageFiles, *, channels: int = 3, **options: object) -> Images:
    reading = Reading(num_workers=0, train_transform=CROP, **options)
    return read_files(files, reading, channels=channels, size=12, seed=3)[0]


def pixels(images: Images) -> torch.Tensor:
    return torch.cat(list(images.batches([torch.tensor([4, 0, 1]), torch.tensor([5, 2, 3])], epoch=2)))


def cached(files: ImageFiles) -> list[Path]:
    return sorted((files.root / ".hyplearn_cache").glob("*.pixels"))


@pytest.mark.parametrize("decoder", ["pillow", "torchvision"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_cache_gives_the_pixels_of_the_files(files: ImageFiles, decoder: str, channels: int) -> None:
    options = {"channels": channels, "decoder": decoder}
    kept, decoded = read(files, cache="disk", **options), read(files, cache="none", **options)
    assert torch.equal(pixels(kept), pixels(decoded))
    assert torch.equal(pixels(kept.for_evaluation()), pixels(decoded.for_evaluation()))
    assert len(cached(files)) == 1
    assert not list((files.root / ".hyplearn_cache").glob("*.unfinished"))


def test_a_cache_is_made_once(files: ImageFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    first = pixels(read(files, cache="disk"))
    monkeypatch.setattr(disk_cache, "for_each_file", no_decoding)
    assert torch.equal(pixels(read(files, cache="disk")), first)


def no_decoding(places: list[Path], work: object, *, threads: int) -> dict[int, Exception]:
    assert not places, "decoded again"
    return {}


def test_a_changed_file_makes_another_cache(files: ImageFiles, write_image: WriteImage) -> None:
    before = pixels(read(files, cache="disk"))
    write_image(files.absolute()[4], (34, 36))
    after = pixels(read(files, cache="disk"))
    assert not torch.equal(before[0], after[0])
    assert torch.equal(before[1:], after[1:])
    assert len(cached(files)) == 2


@pytest.mark.parametrize("options", [{"cache_side": 20}, {"decoder": "torchvision"}, {"channels": 1}])
def test_what_changes_pixels_makes_another_cache(files: ImageFiles, options: dict[str, object]) -> None:
    read(files, cache="disk")
    read(files, cache="disk", **options)
    assert len(cached(files)) == 2


def test_smaller_pictures_are_resized_before_they_are_kept(files: ImageFiles, tmp_path: Path) -> None:
    read(files, cache="disk", cache_side=20, cache_folder=tmp_path / "elsewhere")
    (path,) = (tmp_path / "elsewhere").glob("*.pixels")
    train, _ = Reading(cache="disk", cache_side=20).decoders(channels=3, size=12)
    cache = DiskCache(path, tuple(files.places()), train)
    assert [cache.picture(i).size for i in range(6)] == [train.picture(place).size for place in files.places()]
    assert all(min(cache.picture(i).size) == 20 for i in range(6))
    assert cached(files) == []


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 5)


def change_pixels(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\0\1\2\3" * 50)


def change_index(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size - 150)
        file.write(b"\xff" * 20)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, change_pixels, change_index, empty])
def test_a_damaged_cache_is_noticed_and_made_anew(
    files: ImageFiles, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    whole = pixels(read(files, cache="disk"))
    (path,) = cached(files)
    content = path.read_bytes()
    damage(path)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(pixels(read(files, cache="disk")), whole)
    assert f"{path} is damaged" in caplog.text and "made anew" in caplog.text
    assert len(path.read_bytes()) == len(content)


def test_bad_images_are_named_however_often_it_is_read(files: ImageFiles) -> None:
    (files.root / "2.png").write_bytes(b"no image")
    for _ in range(2):
        with pytest.raises(BadImagesError, match=r"1 of 6 images(.|\n)*2\.png: not an image"):
            read(files, cache="disk")
        images, skipped = read_files(
            files, Reading(num_workers=0, cache="disk", on_bad_image="skip"), channels=3, size=12, seed=0
        )
        assert skipped == ("2.png",)
        assert images.labels.tolist() == [0, 1, 1, 0, 1]
        good = files.select(torch.tensor([0, 1, 3, 4, 5]))
        plain, _ = read_files(good, Reading(num_workers=0, cache="none"), channels=3, size=12, seed=0)
        order = [torch.tensor([4, 2, 0])]
        assert torch.equal(next(images.batches(order, epoch=0)), next(plain.batches(order, epoch=0)))


def test_a_folder_that_cannot_be_written_is_told(files: ImageFiles, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match=r"cache=disk: .* cannot be made .* set dataset\.cache_folder"):
        read(files, cache="disk", cache_folder=tmp_path / "file" / "below")


def test_an_interrupted_making_leaves_nothing_behind(files: ImageFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(disk_cache, "_array", interrupted)
    with pytest.raises(KeyboardInterrupt):
        read(files, cache="disk")
    folder = files.root / ".hyplearn_cache"
    assert [path for path in folder.iterdir() if not path.name.endswith(".lock")] == []


def build(files: ImageFiles, results: multiprocessing.Queue[int]) -> None:
    torch.set_num_threads(1)
    results.put(int(pixels(read(files, cache="disk")).sum(dtype=torch.int64)))


def test_processes_that_start_together_share_one(files: ImageFiles) -> None:
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[int] = context.Queue()
    processes = [context.Process(target=build, args=(files, results)) for _ in range(2)]
    for process in processes:
        process.start()
    sums = {results.get(timeout=120) for _ in processes}
    for process in processes:
        process.join()
    assert sums == {int(pixels(read(files, cache="none")).sum(dtype=torch.int64))}
    assert len(cached(files)) == 1


def test_it_crosses_to_other_processes_without_the_pixels(files: ImageFiles) -> None:
    images = read(files, cache="disk")
    first = pixels(images)
    sent = pickle.dumps(images.pictures)
    assert len(sent) < 2500
    images.pictures = pickle.loads(sent)
    images._samples.pictures = images.pictures
    assert torch.equal(pixels(images), first)


def test_the_file_is_never_changed_by_who_uses_its_pixels(files: ImageFiles) -> None:
    images = read(files, cache="disk", decoder="torchvision")
    (path,) = cached(files)
    before = path.read_bytes()
    images.pictures.picture(0).fill_(7)
    assert path.read_bytes() == before


def test_a_whole_cache_is_used_where_nothing_can_be_written(files: ImageFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    first = pixels(read(files, cache="disk"))

    def refused(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(disk_cache, "alone_with", refused)
    assert torch.equal(pixels(read(files, cache="disk")), first)


def test_a_cache_larger_than_memory_can_be_mapped(tmp_path: Path) -> None:
    """Private pages for all of it would be refused at once."""
    size = 200 << 30
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(size)
    mapped = disk_cache._mapped(tmp_path / "sparse", size)
    mapped[-1] = 7
    assert mapped[-1] == 7
    assert mapped[0] == 0
    with (tmp_path / "sparse").open("rb") as file:
        file.seek(size - 1)
        assert file.read(1) == b"\0"


def test_a_name_that_is_no_text_is_a_bad_picture_of_the_cache(files: ImageFiles, write_image: WriteImage) -> None:
    named = os.fsdecode(b"\xff.png")
    write_image(files.root / "good.png", (20, 20)).rename(files.root / named)
    bad = ImageFiles(files.root, (*files.paths, named), torch.arange(7) % 2)
    with pytest.raises(BadImagesError, match="not in UTF-8"):
        read(bad, cache="disk")

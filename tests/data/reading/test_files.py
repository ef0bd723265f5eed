from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from hyplearn.data.errors import BadImageError, BadImagesError, DatasetError
from hyplearn.data.reading.files import ImageFiles, Reading, read_files
from hyplearn.data.reading.images import ImageArrays, Images
from hyplearn.data.reading.stream import ImageStream

WriteImage = Callable[..., Path]


@pytest.fixture
def files(tmp_path: Path, write_image: WriteImage) -> ImageFiles:
    paths = [write_image(tmp_path / f"{i}.png", (10 + i, 20 - i)) for i in range(8)]
    return ImageFiles(tmp_path, tuple(path.name for path in paths), torch.arange(8) % 2)


def read(files: ImageFiles, *, seed: int = 0, **options: object) -> Images:
    return read_files(files, Reading(num_workers=0, **options), channels=3, size=12, seed=seed)[0]


def batch(images: Images, ids: list[int], *, epoch: int = 0) -> Tensor:
    (pixels,) = images.batches([torch.tensor(ids)], epoch=epoch)
    return pixels


def test_memory_and_stream_give_the_same_pixels(files: ImageFiles) -> None:
    memory, stream = read(files, cache="memory"), read(files, cache="none")
    assert (type(memory), type(stream)) == (ImageArrays, ImageStream)
    assert torch.equal(memory.labels, stream.labels)
    for images in (memory, stream):
        assert batch(images, [5, 0]).is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch(memory, [5, 0, 3]), batch(stream, [5, 0, 3]))


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({}, ImageArrays),
        ({"memory_limit_gib": 8 * 12 * 12 * 3 / 2**30}, ImageArrays),
        ({"memory_limit_gib": 8 * 12 * 12 * 3 / 2**30 * 0.999}, ImageStream),
        ({"train_transform": v2.RandomResizedCrop(12)}, ImageStream),
    ],
)
def test_auto_is_memory_if_that_is_possible(files: ImageFiles, options: dict[str, object], kind: type) -> None:
    assert type(read(files, **options)) is kind


# Python 3.12 and later warn of every fork beside a thread, which PyTorch's pool always is.
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_random_transforms_depend_on_seed_epoch_and_sample_alone(files: ImageFiles) -> None:
    crop = v2.RandomResizedCrop(12, scale=(0.2, 1))
    alone = read(files, train_transform=crop)
    with_workers = read_files(files, Reading(num_workers=2, train_transform=crop), channels=3, size=12, seed=0)[0]
    order = [torch.tensor(ids) for ids in ([3, 1], [0, 2], [7])]
    epochs = {}
    for epoch in (0, 1):
        first = list(alone.batches(order, epoch=epoch))
        second = list(with_workers.batches(order, epoch=epoch))
        assert all(map(torch.equal, first, second))
        epochs[epoch] = torch.cat(first)
    assert not epochs[0].equal(epochs[1])
    assert torch.equal(batch(alone, [2, 0, 3], epoch=1)[2], epochs[1][0])  # whatever else is in the batch
    assert not batch(read(files, train_transform=crop, seed=1), [3]).equal(epochs[0][:1])


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_pass_that_was_left_early_does_not_leak_into_the_next(files: ImageFiles) -> None:
    stream = read_files(files, Reading(num_workers=1, cache="none"), channels=3, size=12, seed=0)[0]
    order = [torch.tensor([i]) for i in range(8)]
    next(stream.batches(order, epoch=0))
    again = torch.cat(list(stream.batches(order[::-1], epoch=1)))
    assert torch.equal(again, batch(read(files), list(range(8))[::-1]))


def test_decoding_leaves_the_global_random_stream_alone(files: ImageFiles) -> None:
    before = torch.get_rng_state()
    stream = read(files, train_transform=v2.RandomResizedCrop(12))
    batch(stream, [1, 2])
    assert torch.equal(torch.get_rng_state(), before)


def test_evaluation_takes_its_own_transform(files: ImageFiles) -> None:
    stream = read(files, train_transform=v2.RandomResizedCrop(12), eval_transform=v2.Resize((12, 12)))
    squashed = v2.functional.pil_to_tensor(Image.open(files.absolute()[4]).resize((12, 12), Image.Resampling.BILINEAR))
    for epoch in (0, 1):
        assert torch.equal(batch(stream.for_evaluation(), [4], epoch=epoch)[0], squashed)
    memory = read(files, eval_transform=v2.Resize((12, 12)))
    assert torch.equal(batch(memory, [4])[0], squashed)


@pytest.mark.parametrize("cache", ["memory", "none"])
def test_all_bad_files_are_named_before_training(files: ImageFiles, cache: str) -> None:
    for name, content in (("2.png", b""), ("6.png", b"no image")):
        (files.root / name).write_bytes(content)
    with pytest.raises(BadImagesError) as caught:
        read(files, cache=cache)
    message = str(caught.value)
    assert message.startswith("2 of 8 images cannot be used")
    assert f"{files.root / '2.png'}: the file is empty" in message
    assert f"{files.root / '6.png'}: not an image" in message


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_file_that_goes_bad_later_stops_with_its_path(files: ImageFiles, num_workers: int) -> None:
    reading = Reading(num_workers=num_workers, cache="none", check_images=False)
    (files.root / "5.png").write_bytes(b"no image")
    stream, _ = read_files(files, reading, channels=3, size=12, seed=0)
    passes = stream.batches([torch.tensor([0, 1]), torch.tensor([4, 5])], epoch=0)
    assert next(passes).shape == (2, 3, 12, 12)
    with pytest.raises(BadImageError, match=r"5\.png: not an image"):
        next(passes)


@pytest.mark.parametrize("cache", ["memory", "none"])
def test_skipping_leaves_out_the_bad_files_and_says_so(
    files: ImageFiles, cache: str, caplog: pytest.LogCaptureFixture
) -> None:
    good = batch(read(files), [0, 2, 3, 4, 5, 6, 7])
    (files.root / "1.png").write_bytes(b"no image")
    with caplog.at_level(logging.WARNING):
        images, skipped = read_files(
            files, Reading(num_workers=0, cache=cache, on_bad_image="skip"), channels=3, size=12, seed=0
        )
    assert skipped == ("1.png",)
    assert f"left out {files.root / '1.png'}" in caplog.text
    assert images.labels.tolist() == [0, 0, 1, 0, 1, 0, 1]
    assert torch.equal(batch(images, list(range(7))), good)


def test_skipping_everything_is_an_error(files: ImageFiles) -> None:
    for path in files.absolute():
        path.write_bytes(b"")
    with pytest.raises(DatasetError, match="none of the 8 images"):
        read(files, on_bad_image="skip")


@pytest.mark.parametrize("which", ["train_transform", "eval_transform"])
def test_transforms_of_another_size_are_found_before_training(files: ImageFiles, which: str) -> None:
    with pytest.raises(ValueError, match=r"\(3, 9, 9\), needed .* \(3, 12, 12\)"):
        read(files, cache="none", **{which: v2.Resize((9, 9))})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cache": "disc"}, "cache='disc' must be one of 'auto', 'memory', 'disk', 'none'. Did you mean disk?"),
        ({"decoder": "opencv"}, "decoder='opencv' must be one of 'pillow', 'torchvision'"),
        ({"cache": "disk", "cache_side": 0}, "cache_side=0 must be at least 1, or null"),
        ({"cache_side": 256}, "cache_side=256 and cache_folder=None belong to cache=disk, got cache=auto"),
        ({"cache": "none", "cache_folder": "/x"}, "cache_folder=/x belong to cache=disk"),
        ({"cache": "disk", "cache_folder": ""}, "cache_folder='' must be the path of a folder, or null"),
        ({"prefetch_factor": 0}, "prefetch_factor=0 must be at least 1"),
        ({"on_bad_image": "ignore"}, "on_bad_image='ignore' must be one of 'error', 'skip'"),
        ({"on_bad_image": "skip", "check_images": False}, "set check_images=true"),
        ({"num_workers": -1}, "num_workers must be at least 0"),
        ({"memory_limit_gib": -1.0}, "memory_limit_gib must be at least 0"),
        ({"cache": "memory", "train_transform": v2.Identity()}, "set cache=none"),
    ],
)
def test_impossible_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Reading(**options)


def test_the_hash_sees_names_sizes_and_labels(files: ImageFiles) -> None:
    before = files.sha256()
    assert ImageFiles(files.root, files.paths, files.labels).sha256() == before
    assert ImageFiles(files.root, files.paths, 1 - files.labels).sha256() != before
    with files.absolute()[0].open("ab") as file:
        file.write(b"\0")
    assert files.sha256() != before

"""Passes of a stream whose workers stay."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from hyplearn.data.errors import BadImageError
from hyplearn.data.reading.files import ImageFiles, Reading, read_files
from hyplearn.data.reading.stream import ImageStream
from tests.support.waiting import until

WriteImage = Callable[..., Path]

# Python 3.12 and later warn of every fork beside a thread, which PyTorch's pool always is.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


@pytest.fixture
def files(tmp_path: Path, write_image: WriteImage) -> ImageFiles:
    paths = [write_image(tmp_path / f"{i}.png", (16 + i, 20 - i)) for i in range(8)]
    return ImageFiles(tmp_path, tuple(path.name for path in paths), torch.arange(8) % 2)


def opened(files: ImageFiles, *, workers: int, **options: object) -> ImageStream:
    reading = Reading(
        num_workers=workers, cache="none", train_transform=v2.RandomResizedCrop(12, scale=(0.2, 1)), **options
    )
    stream = read_files(files, reading, channels=3, size=12, seed=0)[0]
    assert isinstance(stream, ImageStream)
    return stream


@pytest.fixture
def stream(files: ImageFiles) -> Iterator[ImageStream]:
    found = opened(files, workers=2)
    yield found
    found.close()


def order(epoch: int) -> list[Tensor]:
    ids = torch.randperm(8, generator=torch.Generator().manual_seed(epoch))
    return list(ids[: 8 - epoch].split(3))  # passes of different length


def pids() -> set[int | None]:
    return {child.pid for child in multiprocessing.active_children()}


def test_passes_are_those_of_a_stream_without_workers(files: ImageFiles, stream: ImageStream) -> None:
    alone = opened(files, workers=0)
    for epoch in range(4):
        kept = list(stream.batches_of_pass(order(epoch), epoch=epoch))
        plain = list(alone.batches(order(epoch), epoch=epoch))
        assert len(kept) == len(plain) and all(map(torch.equal, kept, plain))
        assert all(map(torch.equal, alone.batches_of_pass(order(epoch), epoch=epoch), plain))


def test_workers_stay_from_pass_to_pass_and_end_when_closed(stream: ImageStream) -> None:
    before = pids()
    list(stream.batches_of_pass(order(0), epoch=0))
    workers = pids() - before
    assert len(workers) == 2
    list(stream.batches_of_pass(order(1), epoch=1))
    assert pids() - before == workers
    stream.close()
    until(lambda: not pids() & workers, 30)
    list(stream.batches_of_pass(order(2), epoch=2))
    assert len(pids() - before) == 2


def test_a_pass_that_was_left_early_does_not_leak_into_the_next(files: ImageFiles, stream: ImageStream) -> None:
    left = stream.batches_of_pass([torch.tensor([i]) for i in range(8)], epoch=0)
    next(left)
    again = list(stream.batches_of_pass(order(1), epoch=1))
    assert all(map(torch.equal, again, opened(files, workers=0).batches(order(1), epoch=1)))


def test_workers_of_a_pass_that_was_left_end_when_closed(stream: ImageStream) -> None:
    before = pids()
    left = stream.batches_of_pass([torch.tensor([i]) for i in range(8)], epoch=0)
    next(left)
    workers = pids() - before
    stream.close()
    until(lambda: not pids() & workers, 30)
    del left


def test_a_bad_file_stops_the_pass_and_not_the_workers(files: ImageFiles) -> None:
    stream = opened(files, workers=1, check_images=False)
    content = files.absolute()[5].read_bytes()
    files.absolute()[5].write_bytes(b"no image")
    with pytest.raises(BadImageError, match=r"5\.png: not an image"):
        list(stream.batches_of_pass([torch.tensor([4, 5])], epoch=0))
    files.absolute()[5].write_bytes(content)
    assert len(list(stream.batches_of_pass([torch.tensor([4, 5])], epoch=0))) == 1
    stream.close()


def test_workers_are_shared_among_the_processes_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hyplearn.data.reading.files.usable_cpus", lambda: 12)
    assert [Reading().workers(processes) for processes in (1, 2, 5, 100)] == [12, 6, 2, 1]
    assert Reading(num_workers=3).workers(4) == 3
    monkeypatch.setattr("hyplearn.data.reading.files.usable_cpus", lambda: 256)
    assert Reading().workers(2) == 16

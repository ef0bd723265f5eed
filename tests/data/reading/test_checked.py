from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hyplearn.data.errors import BadImagesError
from hyplearn.data.reading import checked
from hyplearn.data.reading import files as reading_files
from hyplearn.data.reading.files import ImageFiles, Reading, check_files

WriteImage = Callable[..., Path]


@pytest.fixture
def files(tmp_path: Path, write_image: WriteImage, monkeypatch: pytest.MonkeyPatch) -> ImageFiles:
    monkeypatch.setenv("HYPLEARN_CACHE", str(tmp_path / "cache"))
    paths = [write_image(tmp_path / "photos" / f"{i}.png") for i in range(5)]
    return ImageFiles(tmp_path / "photos", tuple(path.name for path in paths), torch.arange(5) % 2)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were decoded."""
    names: list[str] = []
    real = reading_files.decode

    def spy(place: Path, *, channels: int) -> object:
        names.append(place.name)
        return real(place, channels=channels)

    monkeypatch.setattr(reading_files, "decode", spy)
    return names


def check(files: ImageFiles, **options: object) -> tuple[torch.Tensor, tuple[str, ...]]:
    return check_files(files, Reading(num_workers=1, **options), channels=3)


def test_good_files_are_decoded_once_for_all_runs(files: ImageFiles, decoded: list[str]) -> None:
    for _ in range(3):
        good, skipped = check(files)
        assert good.tolist() == [0, 1, 2, 3, 4] and skipped == ()
    assert sorted(decoded) == [f"{i}.png" for i in range(5)]


def test_files_that_changed_or_came_are_decoded_again(
    files: ImageFiles, decoded: list[str], write_image: WriteImage
) -> None:
    check(files.select(torch.tensor([0, 1, 2, 3])))
    decoded.clear()
    write_image(files.absolute()[1], (21, 16))
    state = files.absolute()[2].stat()
    os.utime(files.absolute()[2], ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    check(files)
    assert sorted(decoded) == ["1.png", "2.png", "4.png"]


def test_a_file_that_breaks_later_is_found(files: ImageFiles) -> None:
    check(files)
    files.absolute()[3].write_bytes(b"no image")
    with pytest.raises(BadImagesError, match=r"1 of 5 images(.|\n)*3\.png: not an image"):
        check(files)
    files.absolute()[3].unlink()
    with pytest.raises(BadImagesError, match=r"3\.png: No such file"):
        check(files)


def test_bad_files_are_looked_at_every_time(files: ImageFiles, decoded: list[str]) -> None:
    files.absolute()[0].write_bytes(b"no image")
    for _ in range(2):
        good, skipped = check(files, on_bad_image="skip")
        assert good.tolist() == [1, 2, 3, 4] and skipped == ("0.png",)
    assert sorted(decoded) == ["0.png", "0.png", *(f"{i}.png" for i in range(1, 5))]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b'{"format": 1}', b"\xff\xfe", b'{"format": 1, "pillow": "x", "good": 3}']
)
def test_a_damaged_memory_is_as_good_as_none(files: ImageFiles, decoded: list[str], content: bytes) -> None:
    check(files)
    (path,) = (files.root.parent / "cache" / "checked").glob("*.json")
    path.write_bytes(content)
    decoded.clear()
    check(files)
    assert len(decoded) == 5
    check(files)
    assert len(decoded) == 5


def test_another_version_of_pillow_checks_anew(
    files: ImageFiles, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    check(files)
    monkeypatch.setattr(checked, "version", lambda _: "0.0")
    check(files)
    assert len(decoded) == 10


def test_without_a_folder_to_write_to_every_run_checks(
    files: ImageFiles, decoded: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HYPLEARN_CACHE", str(tmp_path / "file"))
    for _ in range(2):
        assert len(check(files)[0]) == 5
    assert len(decoded) == 10

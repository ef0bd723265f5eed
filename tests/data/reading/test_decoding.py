from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hyplearn.data.errors import BadImageError, BadImagesError
from hyplearn.data.reading.decoding import decode, for_each_file, resize_and_center_crop, to_pixels


@pytest.fixture
def colours() -> Image.Image:
    """16 x 12: red left half, blue right half, and a green top row."""
    pixels = np.zeros((12, 16, 3), np.uint8)
    pixels[:, :8, 0] = 255
    pixels[:, 8:, 2] = 255
    pixels[0] = (0, 255, 0)
    return Image.fromarray(pixels)


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_palette_images_get_their_colours(colours: Image.Image, tmp_path: Path) -> None:
    path = saved(colours.convert("P", palette=Image.Palette.ADAPTIVE), tmp_path / "palette.png")
    assert np.array_equal(np.asarray(decode(path, channels=3)), np.asarray(colours))


def test_grey_becomes_colour_and_colour_grey(colours: Image.Image, tmp_path: Path) -> None:
    grey = colours.convert("L")
    path = saved(grey, tmp_path / "grey.png")
    assert np.array_equal(np.asarray(decode(path, channels=3)), np.repeat(np.asarray(grey)[..., None], 3, axis=2))
    path = saved(colours, tmp_path / "colour.png")
    assert np.array_equal(np.asarray(decode(path, channels=1)), np.asarray(grey))
    path = saved(colours.convert("1"), tmp_path / "bits.png")
    assert set(np.asarray(decode(path, channels=1)).flat) <= {0, 255}


def test_cmyk_jpegs_get_their_colours(colours: Image.Image, tmp_path: Path) -> None:
    path = saved(colours.convert("CMYK"), tmp_path / "cmyk.jpg", quality=100, subsampling=0)
    difference = np.asarray(decode(path, channels=3)).astype(int) - np.asarray(colours)
    assert np.abs(difference[2:, :7]).max() < 40
    assert np.abs(difference[2:, 9:]).max() < 40


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_to_eight(suffix: str, tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    path = saved(Image.fromarray(values), tmp_path / f"deep.{suffix}")
    for channels in (1, 3):
        pixels = np.asarray(decode(path, channels=channels)).reshape(16, 16, channels)
        assert np.array_equal(pixels[..., 0], np.arange(256).reshape(16, 16))


def test_thirty_two_bit_grey_is_taken_for_sixteen(tmp_path: Path) -> None:
    path = saved(Image.fromarray(np.array([[0, 65535]], np.int32)), tmp_path / "deep.tif")
    assert np.asarray(decode(path, channels=1)).tolist() == [[0, 255]]
    path = saved(Image.fromarray(np.array([[0, 65536]], np.int32)), tmp_path / "deeper.tif")
    with pytest.raises(BadImageError, match="grey values beyond 16 bits"):
        decode(path, channels=1)


def test_transparent_pixels_lie_on_white(tmp_path: Path) -> None:
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 0] = 200
    pixels[0, :, 3] = (0, 255, 51)  # a fifth of 51 / 255
    path = saved(Image.fromarray(pixels), tmp_path / "alpha.png")
    shown = np.asarray(decode(path, channels=3))[0].astype(int)
    assert shown[:2].tolist() == [[255, 255, 255], [200, 0, 0]]
    assert np.abs(shown[2] - [244, 204, 204]).max() <= 1
    grey = Image.fromarray(np.array([[[0, 0], [0, 255]]], np.uint8))
    assert np.asarray(decode(saved(grey, tmp_path / "la.png"), channels=1)).tolist() == [[255, 0]]


def test_transparent_palette_colours_lie_on_white(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    path = saved(image, tmp_path / "palette.png", transparency=0)
    assert np.asarray(decode(path, channels=3))[0].tolist() == [[255, 255, 255], [0, 0, 255]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int, colours: Image.Image, tmp_path: Path) -> None:
    stored_as = {  # what a camera stores so that this orientation shows the picture upright
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = colours if stored_as is None else colours.transpose(stored_as)
    path = saved(stored, tmp_path / "photo.png", exif=exif)
    assert np.array_equal(np.asarray(decode(path, channels=3)), np.asarray(colours))


def test_an_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    path = saved(frames[0], tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert np.asarray(decode(path, channels=3))[0, 0].tolist() == [255, 0, 0]


def test_files_that_are_no_images_are_named_with_the_reason(colours: Image.Image, tmp_path: Path) -> None:
    whole = saved(colours.resize((64, 64)), tmp_path / "whole.jpg").read_bytes()
    contents = {
        "empty.png": (b"", "the file is empty"),
        "text.jpg": (b"<html>404</html>", "not an image, or of an unknown format"),
        "truncated.jpg": (whole[: len(whole) // 2], "truncated"),
    }
    for name, (content, reason) in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadImageError, match=rf"(?i){name}: .*{reason}") as caught:
            decode(tmp_path / name, channels=3)
        assert caught.value.path == tmp_path / name
    with pytest.raises(BadImageError, match="No such file"):
        decode(tmp_path / "missing.png", channels=3)


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    path = saved(Image.fromarray(np.zeros((4, 4), np.float32)), tmp_path / "float.tif")
    with pytest.raises(BadImageError, match="floating point pixels have no defined range"):
        decode(path, channels=1)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # what Pillow has to say on broken metadata
@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "tif", "bmp", "webp"])
def test_damaged_files_decode_or_are_named_but_never_crash(suffix: str, colours: Image.Image, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = bytearray(saved(colours, tmp_path / f"whole.{suffix}", exif=exif).read_bytes())
    rng = np.random.default_rng(0)
    outcomes = set()
    for trial in range(150):
        damaged = whole.copy()
        for position in rng.integers(0, len(whole), 4):
            damaged[position] = rng.integers(256)
        path = tmp_path / f"damaged.{suffix}"
        path.write_bytes(damaged[: rng.integers(1, len(whole) + 1)] if trial % 3 == 0 else damaged)
        try:
            outcomes.add(decode(path, channels=3).mode)
        except BadImageError as error:
            outcomes.add("named" if str(path) in str(error) and error.reason else str(error))
    assert outcomes == {"RGB", "named"}


def test_errors_cross_processes_and_are_listed_completely() -> None:
    errors = [BadImageError(Path(f"{i}.png"), f"reason {i}") for i in range(3)]
    again = pickle.loads(pickle.dumps(errors[0]))
    assert (again.path, again.reason, str(again)) == (Path("0.png"), "reason 0", "0.png: reason 0")
    message = str(BadImagesError(errors, total=9))
    assert message.startswith(
        "3 of 9 images cannot be used:\n  0.png: reason 0\n  1.png: reason 1\n  2.png: reason 2\n"
    )
    assert "dataset.on_bad_image=skip" in message


@pytest.mark.parametrize("size", [(16, 12), (12, 16), (30, 8), (8, 8)])
def test_the_centre_is_kept_and_nothing_stretched(size: tuple[int, int]) -> None:
    width, height = size
    rows, columns = np.mgrid[:height, :width]
    image = Image.fromarray((np.hypot(rows - (height - 1) / 2, columns - (width - 1) / 2) < 2).astype(np.uint8) * 255)
    square = np.asarray(resize_and_center_crop(image, size=24)).astype(float)
    assert square.shape == (24, 24)
    rows, columns = np.mgrid[:24, :24]
    spread = [np.sqrt((square * (axis - 11.5) ** 2).sum() / square.sum()) for axis in (rows, columns)]
    assert spread[0] == pytest.approx(spread[1], rel=0.15)  # still a circle
    assert np.average(rows, weights=square) == pytest.approx(11.5, abs=0.6)


def test_a_transform_of_the_wrong_size_is_named() -> None:
    image = Image.new("RGB", (8, 9))
    with pytest.raises(ValueError, match=r"photo.png a torch.uint8 image \(3, 9, 8\), needed .* \(3, 8, 8\)"):
        to_pixels(image, Path("photo.png"), channels=3, size=8)
    with pytest.raises(ValueError, match="leave normalisation to mean and std"):
        to_pixels(torch.zeros(3, 8, 8), Path("photo.png"), channels=3, size=8)


def test_every_file_is_visited_and_the_bad_ones_come_back() -> None:
    visited = []

    def work(index: int, path: Path) -> None:
        visited.append((index, path))
        if index % 3 == 0:
            raise BadImageError(path, "third")

    paths = [Path(str(i)) for i in range(5000)]
    bad = for_each_file(paths, work, threads=3)
    assert sorted(visited) == list(enumerate(paths))
    assert {index: error.path for index, error in bad.items()} == {i: Path(str(i)) for i in range(0, 5000, 3)}

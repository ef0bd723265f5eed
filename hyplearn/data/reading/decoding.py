"""Image files to pixels: every kind of file that users have becomes 8-bit grey or RGB, or is named with the reason."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from hyplearn.data.errors import BadImageError
from hyplearn.runs.regular import NoRegularFile, check_regular

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".pbm", ".tif", ".tiff", ".webp", ".gif"})
MISSING = "No such file"
MAX_PIXELS = 89_478_485  # of a picture, and of all that are decoded at the same time: Pillow's own limit, 256 MiB
_MODES = {1: "L", 3: "RGB"}
# What Pillow's readers raise on broken files, beside the errors meant for it.
_PILLOW_ERRORS = (
    *(OSError, SyntaxError, EOFError, Image.DecompressionBombError, Image.DecompressionBombWarning, struct.error),
    *(ValueError, TypeError, LookupError, ArithmeticError, AttributeError),
)


class PixelBudget:
    """Lets threads decode pictures side by side as long as all of them together are not too large."""

    def __init__(self, pixels: int) -> None:
        self.pixels = pixels
        self._used = 0
        self._changed = threading.Condition()

    @contextmanager
    def room_for(self, pixels: int) -> Iterator[None]:
        """Wait until the picture has room beside those that are decoded now; one alone always has."""
        with self._changed:
            self._changed.wait_for(lambda: self._used == 0 or self._used + pixels <= self.pixels)
            self._used += pixels
        try:
            yield
        finally:
            with self._changed:
                self._used -= pixels
                self._changed.notify_all()


_decoding = PixelBudget(MAX_PIXELS)


def _opened(path: Path) -> Image.Image:
    """The picture with its size, not decoded. Raises ValueError for one beyond the limit.

    Pillow warns from there on and refuses twice as many; a warning is shown once, whichever thread meets it.
    """
    check_name(path)
    check_regular(path)
    file = Image.open(path)
    if file.width * file.height > MAX_PIXELS:
        file.close()
        raise ValueError(f"{file.width:,} x {file.height:,} pixels, more than {MAX_PIXELS:,}: make it smaller")
    return file


def check_there(path: Path) -> None:
    """Raise BadImageError where no file lies at `path`, or one whose name is no text."""
    try:
        check_name(path)
        check_regular(path)
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError)
        raise BadImageError(path, MISSING if missing else getattr(error, "strerror", None) or str(error)) from error


def check_name(path: Path) -> None:
    """Raise ValueError for a path that is no text: tables, records and pages could not say it."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise ValueError("its path is not in UTF-8: rename the file or its folder") from error


def decode(path: Path, *, channels: int) -> Image.Image:
    """The image upright (EXIF orientation applied) in mode L (channels 1) or RGB (channels 3).

    Palettes, CMYK and other colour spaces are converted, 16-bit grey is scaled to 8 bits, transparent pixels are laid
    over white, animations give their first frame. Raises BadImageError for what cannot be read to the end, or has no
    defined range (floating point pixels).
    """
    try:
        with _opened(path) as file, _decoding.room_for(file.width * file.height):
            file.load()
            image = ImageOps.exif_transpose(file)
            return _to_eight_bits(image).convert(_MODES[channels])
    except FileNotFoundError as error:
        raise BadImageError(path, MISSING) from error
    except NoRegularFile as error:
        raise BadImageError(path, str(error.strerror)) from error
    except UnidentifiedImageError as error:
        reason = "the file is empty" if path.stat().st_size == 0 else "not an image, or of an unknown format"
        raise BadImageError(path, reason) from error
    except _PILLOW_ERRORS as error:
        raise BadImageError(path, str(error) or type(error).__name__) from error


def _to_eight_bits(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("floating point pixels have no defined range; convert the file to 8 or 16 bits")
    if image.mode.startswith("I"):  # 16-bit grey; mode I holds it in 32 bits
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("grey values beyond 16 bits; convert the file to 8 or 16 bits")
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image


def resize_and_center_crop(image: Image.Image, *, size: int) -> Image.Image:
    """The shorter side to `size`, then the `size` x `size` centre. Nothing is stretched."""
    return tv.center_crop(tv.resize(image, [size], antialias=True), [size])  # type: ignore[no-any-return]


def to_pixels(image: Image.Image | Tensor, path: Path, *, channels: int, size: int) -> Tensor:
    """(H, W, C) uint8 of a transformed image. Raises ValueError if the transform did not make it `size` x `size`."""
    pixels = tv.pil_to_tensor(image) if isinstance(image, Image.Image) else image
    if pixels.shape != (channels, size, size) or pixels.dtype != torch.uint8:
        raise ValueError(
            f"the transform made {path} a {pixels.dtype} image {tuple(pixels.shape)}, needed is torch.uint8 "
            f"{(channels, size, size)}: let it end at dataset.image_size={size} and leave normalisation to mean and std"
        )
    return pixels.permute(1, 2, 0)


def usable_cpus() -> int:
    """CPUs this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def for_each_file(
    paths: Sequence[Path], work: Callable[[int, Path], object], *, threads: int
) -> dict[int, BadImageError]:
    """Call `work(index, path)` for all files; Pillow decodes outside the interpreter lock. Returns the bad ones."""

    def attempt(index: int) -> BadImageError | None:
        try:
            work(index, paths[index])
        except BadImageError as error:
            return error
        return None

    bad = {}
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(paths), 4096):  # the pool makes an object for each call it is given
            part = range(start, min(start + 4096, len(paths)))
            results = zip(part, pool.map(attempt, part), strict=True)
            bad.update({index: error for index, error in results if error is not None})
    return bad

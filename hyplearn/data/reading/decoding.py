"""Image files to pixels: every kind of file that users have becomes 8-bit grey or RGB, or is named with the reason."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from typing import BinaryIO, Literal, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2 import functional as tv

from hyplearn.data.errors import BadImageError
from hyplearn.data.reading.places import MISSING, Member, Place, bytes_of, file_of, shown, stream_of
from hyplearn.runs.regular import NoRegularFile

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".pbm", ".tif", ".tiff", ".webp", ".gif"})
MAX_PIXELS = 89_478_485  # of a picture, and of all that are decoded at the same time: Pillow's own limit, 256 MiB
Decoding = Literal["pillow", "torchvision"]
_MODES = {1: "L", 3: "RGB"}
_READ_AS = {"L": ImageReadMode.GRAY, "RGB": ImageReadMode.RGB}
_ORIENTATION = 0x0112  # the EXIF tag; 1 is upright
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


_P = TypeVar("_P", bound=Place)
_decoding = PixelBudget(MAX_PIXELS)


def _opened(stream: BinaryIO) -> Image.Image:
    """The picture with its size, not decoded. Raises ValueError for one beyond the limit.

    Pillow warns from there on and refuses twice as many; a warning is shown once, whichever thread meets it.
    """
    file = Image.open(stream)
    if file.width * file.height > MAX_PIXELS:
        raise ValueError(f"{file.width:,} x {file.height:,} pixels, more than {MAX_PIXELS:,}: make it smaller")
    return file


def check_there(place: Place) -> None:
    """Raise BadImageError where no file lies at a place, or one whose name is no text."""
    try:
        file_of(place)
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError)
        reason = MISSING if missing else getattr(error, "strerror", None) or str(error)
        raise BadImageError(shown(place), reason) from error


def decode(place: Place, *, channels: int) -> Image.Image:
    """The image upright (EXIF orientation applied) in mode L (channels 1) or RGB (channels 3).

    Palettes, CMYK and other colour spaces are converted, 16-bit grey is scaled to 8 bits, transparent pixels are laid
    over white, animations give their first frame. Raises BadImageError for what cannot be read to the end, or has no
    defined range (floating point pixels).
    """
    with _told_as_bad(place), stream_of(place) as stream, _opened(stream) as file:
        return _decoded(file, channels)


def _decoded(file: Image.Image, channels: int) -> Image.Image:
    with _decoding.room_for(file.width * file.height):
        file.load()
        # In place, and no conversion to what it is already: both would copy the picture.
        ImageOps.exif_transpose(file, in_place=True)
        image = _to_eight_bits(file)
        return image if image.mode == _MODES[channels] else image.convert(_MODES[channels])


def decode_to_tensor(place: Place, *, channels: int) -> Tensor:
    """The image of `decode` as a tensor (C, H, W) uint8.

    An upright JPEG that is grey or RGB already goes through torchvision's decoder, which is faster and uses the same
    library as Pillow: the pixels are equal where both were built with libjpeg-turbo. Raises as `decode` does.
    """
    with _told_as_bad(place):
        data = bytes_of(place)
        with _opened(BytesIO(data)) as file:
            plain = file.format == "JPEG" and file.mode == _MODES[channels]
            if plain and file.getexif().get(_ORIENTATION, 1) == 1:
                pixels = _decoded_jpeg(data, file)
                if pixels is not None:
                    return pixels
            return tv.pil_to_tensor(_decoded(file, channels))  # type: ignore[no-any-return]


def _decoded_jpeg(data: bytes, file: Image.Image) -> Tensor | None:
    """The pixels, None where torchvision cannot read it: Pillow then can, or says what is wrong."""
    buffer = torch.from_numpy(np.frombuffer(bytearray(data), dtype=np.uint8))
    with _decoding.room_for(file.width * file.height):
        try:
            return decode_jpeg(buffer, mode=_READ_AS[file.mode])  # type: ignore[no-any-return]
        except RuntimeError:
            return None


@contextmanager
def _told_as_bad(place: Place) -> Iterator[None]:
    """Raise a BadImageError that names the place for whatever readers raise on broken files."""
    try:
        yield
    except FileNotFoundError as error:
        raise BadImageError(shown(place), MISSING) from error
    except NoRegularFile as error:
        raise BadImageError(shown(place), str(error.strerror)) from error
    except UnidentifiedImageError as error:
        reason = "the file is empty" if _is_empty(place) else "not an image, or of an unknown format"
        raise BadImageError(shown(place), reason) from error
    except _PILLOW_ERRORS as error:
        raise BadImageError(shown(place), str(error) or type(error).__name__) from error


def _is_empty(place: Place) -> bool:
    return place.size == 0 if isinstance(place, Member) else place.stat().st_size == 0


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


def to_pixels(image: Image.Image | Tensor, place: Place, *, channels: int, size: int) -> Tensor:
    """(H, W, C) uint8 of a transformed image. Raises ValueError if the transform did not make it `size` x `size`."""
    pixels = tv.pil_to_tensor(image) if isinstance(image, Image.Image) else image
    if pixels.shape != (channels, size, size) or pixels.dtype != torch.uint8:
        raise ValueError(
            f"the transform made {shown(place)} a {pixels.dtype} image {tuple(pixels.shape)}, needed is torch.uint8 "
            f"{(channels, size, size)}: let it end at dataset.image_size={size} and leave normalisation to mean and std"
        )
    return pixels.permute(1, 2, 0)


def usable_cpus() -> int:
    """CPUs this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def for_each_file(paths: Sequence[_P], work: Callable[[int, _P], object], *, threads: int) -> dict[int, BadImageError]:
    """Call `work(index, place)` for all files; Pillow decodes outside the interpreter lock. Returns the bad ones."""

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

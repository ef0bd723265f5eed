"""The two decoders: the same pictures, crops that differ by a grey level."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from hyplearn.data.batches.crops import CenterCrop, RandomCrop
from hyplearn.data.errors import BadImageError
from hyplearn.data.reading.decoding import Decoding, decode, decode_to_tensor
from hyplearn.data.reading.pictures import Decoder, Transform


def photograph(size: tuple[int, int] = (93, 70), seed: int = 0) -> Image.Image:
    """Smooth colours with grain."""
    random = np.random.default_rng(seed)
    smooth = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(size)
    pixels = np.asarray(smooth) + random.normal(0, 10, (size[1], size[0], 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def as_tensor(image: Image.Image) -> Tensor:
    array = torch.from_numpy(np.asarray(image).copy())
    return array[None] if array.ndim == 2 else array.permute(2, 0, 1)


JPEGS: dict[str, dict[str, object]] = {
    "4:4:4": {"subsampling": 0},
    "4:2:0": {"subsampling": 2},
    "progressive": {"progressive": True},
    "poor": {"quality": 20},
}


@pytest.mark.parametrize("options", JPEGS.values(), ids=list(JPEGS))
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpegs_are_decoded_as_by_pillow(mode: str, options: dict[str, object], tmp_path: Path) -> None:
    photograph().convert(mode).save(tmp_path / "photo.jpg", **options)
    for channels in (1, 3):
        expected = as_tensor(decode(tmp_path / "photo.jpg", channels=channels))
        assert torch.equal(decode_to_tensor(tmp_path / "photo.jpg", channels=channels), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_jpegs_are_upright(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    photograph().save(tmp_path / "photo.jpg", exif=exif)
    upright = as_tensor(decode(tmp_path / "photo.jpg", channels=3))
    assert upright.shape == ((3, 93, 70) if orientation >= 5 else (3, 70, 93))
    assert torch.equal(decode_to_tensor(tmp_path / "photo.jpg", channels=3), upright)


@pytest.mark.parametrize(
    ("mode", "suffix"), [("CMYK", "jpg"), ("RGBA", "png"), ("P", "png"), ("LA", "png"), ("RGB", "webp"), ("P", "gif")]
)
def test_all_other_files_are_left_to_pillow(mode: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"photo.{suffix}"
    photograph().convert(mode).save(path)
    assert torch.equal(decode_to_tensor(path, channels=3), as_tensor(decode(path, channels=3)))


def test_broken_files_are_named_alike(tmp_path: Path) -> None:
    photograph().save(tmp_path / "cut.jpg")
    content = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "other.jpg").write_bytes(b"\xff\xd8\xff none")
    for name in ("cut.jpg", "empty.jpg", "other.jpg", "missing.jpg"):
        with pytest.raises(BadImageError) as by_pillow:
            decode(tmp_path / name, channels=3)
        with pytest.raises(BadImageError) as by_torchvision:
            decode_to_tensor(tmp_path / name, channels=3)
        assert str(by_torchvision.value) == str(by_pillow.value)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("kind", ["random", "centre"])
def test_crops_of_photographs_differ_by_a_grey_level_at_most(kind: str, interpolation: str, tmp_path: Path) -> None:
    transform: Transform = (
        RandomCrop(size=48, scale=(0.2, 1.0), interpolation=interpolation)
        if kind == "random"
        else CenterCrop(resize=55, size=48, interpolation=interpolation)
    )
    for seed in range(6):
        path = tmp_path / f"{seed}.jpg"
        photograph((250, 188), seed).save(path, quality=90)
        made: dict[Decoding, Tensor] = {}
        for by in ("pillow", "torchvision"):
            torch.manual_seed(seed)
            made[by] = Decoder(channels=3, size=48, transform=transform, by=by)(path).int()
        difference = (made["pillow"] - made["torchvision"]).abs()
        assert difference.max() <= 1
        assert difference.float().mean() < 0.05

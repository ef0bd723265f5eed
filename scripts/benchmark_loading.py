"""Images a second and core from JPEG files to normalised batches, for each way to read them.

    python scripts/benchmark_loading.py [--images 256] [--to FOLDER]

Makes photographs-like JPEGs of 500 x 375 pixels (some 70 kB), and reads them in one process with one thread: decode (or
take from the cache), RandomResizedCrop to 224 (area from 0.2 on), stack, flip and normalise. A core is a second of
processor time, so that other programs on the machine disturb little; the best of several passes counts.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from hyplearn.data.batches.crops import RandomCrop
from hyplearn.data.batches.transforms import Augmentation, Normalization
from hyplearn.data.randomness import generator
from hyplearn.data.reading.files import ImageFiles, Reading, read_files

SIZE, BATCH, PASSES = 224, 64, 3
WAYS: dict[str, dict[str, object]] = {
    "cache=none decoder=pillow": {"cache": "none"},
    "cache=none decoder=torchvision": {"cache": "none", "decoder": "torchvision"},
    "cache=disk decoder=pillow": {"cache": "disk"},
    "cache=disk decoder=torchvision": {"cache": "disk", "decoder": "torchvision"},
    "cache=disk decoder=torchvision cache_side=256": {"cache": "disk", "decoder": "torchvision", "cache_side": 256},
}


def make_images(folder: Path, count: int) -> ImageFiles:
    """Write smooth colours with grain, which compress as photographs do."""
    random = np.random.default_rng(0)
    names = [f"{number}.jpg" for number in range(count)]
    for name in names:
        smooth = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((500, 375))
        pixels = np.asarray(smooth) + random.normal(0, 13, (375, 500, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name, quality=88)
    return ImageFiles(folder, tuple(names), torch.zeros(count, dtype=torch.int64))


def per_second(work: Callable[[int], object], images: int) -> float:
    """Images of a pass by its processor seconds, of the best pass."""
    seconds = []
    for number in range(PASSES):
        start = time.process_time()
        work(number)
        seconds.append(time.process_time() - start)
    return images / min(seconds)


def measure(files: ImageFiles, options: dict[str, object]) -> tuple[float, float]:
    """Images a second to stacked uint8 batches, and to normalised ones."""
    crop = RandomCrop(size=SIZE, scale=(0.2, 1.0))
    reading = Reading(num_workers=0, train_transform=crop, check_images=False, **options)  # type: ignore[arg-type]
    images, _ = read_files(files, reading, channels=3, size=SIZE, seed=0)
    order = list(torch.arange(len(files)).split(BATCH))
    augmentation, normalization = Augmentation(horizontal_flip=0.5), Normalization([0.5] * 3, [0.25] * 3)

    def stack(epoch: int) -> None:
        for _ in images.batches(order, epoch=epoch):
            pass

    def finish(epoch: int) -> None:
        for number, batch in enumerate(images.batches(order, epoch=epoch)):
            draws = augmentation.draw(len(batch), generator(0, "augmentation", epoch, number))
            normalization(augmentation(batch, draws))

    return per_second(stack, len(files)), per_second(finish, len(files))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--to", type=Path, default=None, help="where to write the images; default: a temporary folder")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=options.to) as folder:
        files = make_images(Path(folder), options.images)
        kilobytes = np.mean([path.stat().st_size for path in files.absolute()]) / 1000
        print(f"{len(files)} JPEGs of 500 x 375, {kilobytes:.0f} kB each; images a second and core")
        print(f"{'':48s} {'to uint8 batches':>18s} {'flipped, normalised':>20s}")
        for name, way in WAYS.items():
            stacked, finished = measure(files, way)
            print(f"{name:48s} {stacked:18,.0f} {finished:20,.0f}", flush=True)


if __name__ == "__main__":
    main()

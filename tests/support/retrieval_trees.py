"""Small trees in the official layouts of the retrieval sets, whose classes can be learned by colour and pattern."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat


def write_picture(path: Path, number: int, index: int, *, size: tuple[int, int] = (40, 32)) -> None:
    """Picture `index` of class `number`: stripes in its colours, of its width and direction, moved and noisy."""
    path.parent.mkdir(parents=True, exist_ok=True)
    look, own = np.random.default_rng(number), np.random.default_rng((number, index))
    first, second = look.integers(0, 256, (2, 3))
    angle, width = look.uniform(0, np.pi), look.uniform(4, 12)
    columns, rows = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    wave = np.sin((columns * np.cos(angle) + rows * np.sin(angle)) * 2 * np.pi / width + own.uniform(0, 2 * np.pi))
    pixels = np.where(wave[..., None] > 0, first, second) + own.normal(0, 12, (size[1], size[0], 3))
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=95)


def make_cub(
    root: Path, classes: Iterable[int] = (1, 2, 3, 4, 5, 101, 102, 103), per_class: int = 4, *, texts: bool = True
) -> Path:
    """CUB_200_2011/ with the classes of these numbers, `per_class` images each; without text files if not `texts`."""
    base = root / "CUB_200_2011"
    images, labels, flags, names = [], [], [], []
    for number in classes:
        name = f"{number:03d}.Bird_{number}"
        names.append(f"{number} {name}\n")
        for index in range(per_class):
            path = f"{name}/Bird_{number}_{index:04d}.jpg"
            write_picture(base / "images" / path, number, index)
            images.append(f"{len(images) + 1} {path}\n")
            labels.append(f"{len(images)} {number}\n")
            flags.append(f"{len(images)} {index % 2}\n")
    if texts:
        contents = {"images": images, "image_class_labels": labels, "train_test_split": flags, "classes": names}
        for file, lines in contents.items():
            (base / f"{file}.txt").write_text("".join(lines))
    return base


def make_cars(
    root: Path, classes: Iterable[int] = (1, 2, 3, 4, 5, 99, 100, 101), per_class: int = 4, *, layout: str = "one"
) -> Path:
    """cars196/ in a layout: "one" (cars_annos.mat), "halves" (cars_train/, cars_test/, devkit/) or "folders"."""
    base = root / "cars196"
    items = [(number, index) for number in classes for index in range(per_class)]
    names = np.array([f"Car {number}" for number in range(1, 197)], dtype=object)
    if layout == "one":
        records = []
        for serial, (number, index) in enumerate(items, 1):
            path = f"car_ims/{serial:06d}.jpg"
            write_picture(base / path, number, index)
            records.append((path, 1, 1, 39, 31, number, index % 2))
        fields = ["relative_im_path", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "test"]
        savemat(base / "cars_annos.mat", {"annotations": _structs(records, fields), "class_names": names})
    elif layout == "halves":
        for half, name in enumerate(("cars_train_annos.mat", "cars_test_annos_withlabels.mat")):
            folder, records = ("cars_train", "cars_test")[half], []
            for serial, (number, index) in enumerate(items[half::2], 1):  # file names restart in each half
                write_picture(base / folder / f"{serial:05d}.jpg", number, index)
                records.append((1, 1, 39, 31, number, f"{serial:05d}.jpg"))
            (base / "devkit").mkdir(exist_ok=True)
            fields = ["bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname"]
            savemat(base / "devkit" / name, {"annotations": _structs(records, fields)})
        savemat(base / "devkit" / "cars_meta.mat", {"class_names": names})
    else:
        for serial, (number, index) in enumerate(items):
            part = ("train", "test")[index % 2]
            write_picture(base / part / f"{number:03d}.Car {number}" / f"{serial:05d}.jpg", number, index)
    return base


def _structs(records: Sequence[tuple[object, ...]], fields: Sequence[str]) -> np.ndarray:
    """A MATLAB struct array of 1 x N, as in the official files."""
    return np.array([records], dtype=[(field, object) for field in fields])


def make_sop(root: Path, classes: int = 10, per_class: int = 4, *, kinds: Sequence[str] = ("bicycle", "chair")) -> Path:
    """Stanford_Online_Products/ with this number of classes, the first half of them to train."""
    base = root / "Stanford_Online_Products"
    lists = {name: ["image_id class_id super_class_id path"] for name in ("Ebay_train.txt", "Ebay_test.txt")}
    serial = 0
    for number in range(1, classes + 1):
        kind = number % len(kinds)
        for index in range(per_class):
            serial += 1
            path = f"{kinds[kind]}_final/1110{number:05d}_{index}.JPG"
            write_picture(base / path, number, index)
            file = "Ebay_train.txt" if number <= classes // 2 else "Ebay_test.txt"
            lists[file].append(f"{serial} {number} {kind + 1} {path}")
    for name, lines in lists.items():
        (base / name).write_text("\n".join(lines) + "\n")
    return base


def make_inshop(root: Path, classes: int = 10, per_class: int = 4) -> Path:
    """Inshop_Clothes/ with this number of items, every second one to train; half the others' images are queries."""
    base = root / "Inshop_Clothes"
    rows = []
    for number in range(1, classes + 1):
        item = f"id_{number * 3:08d}"
        kind = ("WOMEN/Dresses", "MEN/Denim")[number // 2 % 2]
        for index in range(per_class):
            name = f"img/{kind}/{item}/{index + 1:02d}_1_front.jpg"
            status = "train" if number % 2 else ("query" if index < per_class // 2 else "gallery")
            write_picture(base / "Img" / name, number, index)
            rows.append(f"{name:<70} {item} {status}")
    (base / "Eval").mkdir()
    header = [str(len(rows)), "image_name item_id evaluation_status"]
    (base / "Eval" / "list_eval_partition.txt").write_text("\n".join([*header, *rows]) + "\n")
    return base

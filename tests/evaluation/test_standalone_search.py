"""What search.py computes for itself is what hyplearn computes: distances of every geometry, pixels of every file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hyplearn.evaluation import standalone_search as alone
from hyplearn.evaluation.metric import Embeddings, Metric
from hyplearn.geometry import poincare
from hyplearn.inference.export import preprocessing
from hyplearn.inference.open import Opened, open_trained
from tests.support.commands import SMALL
from tests.support.pictures import write_unseen_digits

METRICS = [
    *(Metric("lorentz", 0.3), Metric("lorentz", 2.0), Metric("poincare", 0.1), Metric("poincare", 1.5)),
    *(Metric("sphere"), Metric("euclidean")),
]


@pytest.mark.parametrize("metric", METRICS, ids=str)
def test_distances_and_vectors_of_the_index(metric: Metric) -> None:
    x = torch.randn(40, 5, dtype=torch.float64)
    if metric.kind == "poincare":
        x = poincare.expmap0(x, c=metric.c)
    facts = {"kind": metric.kind, "c": metric.c}
    embeddings = Embeddings(x, metric)
    rows = torch.zeros(40, dtype=torch.int64)
    expected = embeddings.direct(rows, embeddings, torch.arange(40))
    np.testing.assert_allclose(alone.distance(x[:1].numpy(), x.numpy(), facts), expected, rtol=1e-9, atol=1e-7)
    np.testing.assert_allclose(alone.query_vector(x.numpy(), facts), metric.form.query(x).vectors, rtol=1e-12)


@pytest.fixture(scope="module")
def folder_run(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    """A model of pictures in files, which are resized and cropped."""
    from hyplearn.cli.main import main

    folder = tmp_path_factory.mktemp("folder")
    pictures = write_unseen_digits(folder / "pictures", each=12)
    data = ("dataset=image_folder_retrieval", f"dataset.root={pictures}", "dataset.image_size=32")
    data += ("dataset.source.test_fraction=0.4", "dataset.val_fraction=0", "dataset.images_per_class=6")
    model = ("model=hyp_vit_s", "model.small.width=12", "dataset.batch_size=12", "trainer.max_epochs=1")
    assert main(["train", *model, *data, *SMALL, f"output_dir={folder / 'run'}"]) == 0
    return open_trained(folder / "run", device="cpu")


def photograph(width: int, height: int) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    waves = [127 + 120 * np.sin(x / (7 + 5 * channel) + y / (11 - channel)) for channel in range(3)]
    return Image.fromarray(np.stack(waves, -1).astype(np.uint8))


def files(folder: Path) -> list[Path]:
    """Pictures as users have them: wide, high, odd, turned, grey, of 16 bits, transparent, with a palette."""
    wide = photograph(301, 200)
    wide.save(folder / "wide.jpg", quality=95)
    photograph(97, 203).save(folder / "high.png")
    photograph(20, 11).save(folder / "small.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    wide.save(folder / "turned.jpg", quality=95, exif=exif)
    wide.convert("L").save(folder / "grey.png")
    Image.fromarray(np.asarray(wide.convert("L")).astype(np.uint16) * 257).save(folder / "deep.png")
    wide.convert("P").save(folder / "palette.png")
    transparent = wide.convert("RGBA")
    transparent.putalpha(wide.convert("L"))
    transparent.save(folder / "transparent.png")
    wide.convert("CMYK").save(folder / "print.jpg", quality=95)
    return sorted(folder.iterdir())


@pytest.mark.parametrize("kind", ["folder_run", "retrieval_run"])
def test_pixels_of_every_kind_of_file(tmp_path: Path, request: pytest.FixtureRequest, kind: str) -> None:
    given = request.getfixturevalue(kind)
    opened = given if isinstance(given, Opened) else open_trained(given, device="cpu")
    index = object.__new__(alone.Index)
    facts = opened.facts
    index.preprocessing = preprocessing(opened.data, channels=facts["in_channels"], size=facts["image_size"])
    for path in files(tmp_path):
        expected = opened.model.normalized(opened.model.read([path]))[0].numpy()
        found = index.pixels(alone.open_picture(path))
        assert found.shape == expected.shape, path.name
        step = 1 / 255 / min(np.ravel(index.preprocessing["steps"][-1]["std"]))
        # two steps of 256: sets in memory are resized as tensors, by the same filter
        assert np.abs(found - expected).max() <= 2.01 * step, path.name

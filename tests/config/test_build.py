"""What a data set leaves open follows from the weights of the backbone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from hyplearn.config import build
from hyplearn.config.compose import compose


@pytest.fixture
def photographs(tmp_path: Path) -> list[str]:
    for name in "abcd":
        (tmp_path / name).mkdir()
        Image.new("RGB", (70, 80)).save(tmp_path / name / "0.png")
    options = ["dataset=image_folder_retrieval_224", "dataset.source.test_fraction=0.5", "dataset.val_fraction=0"]
    return [*options, f"dataset.root={tmp_path}"]


@pytest.mark.parametrize(
    ("model", "mean", "resize", "interpolation"),
    [("hyp_vit_s", [0.5] * 3, 249, "bicubic"), ("hyp_r50", [0.485, 0.456, 0.406], 256, "bilinear")],
)
def test_images_look_as_the_weights_expect(
    model: str, mean: list[float], resize: int, interpolation: str, photographs: list[str]
) -> None:
    data = build.datamodule(compose([f"model={model}", *photographs]).config)
    assert_close(data.normalization.mean.flatten(), torch.tensor(mean))
    crop = data.reading.eval_transform
    assert (crop.resize, crop.size, crop.interpolation) == (resize, 224, interpolation)
    assert data.reading.train_transform.interpolation == interpolation


def test_what_is_set_stays(photographs: list[str]) -> None:
    typed = [
        "dataset.mean=[0.1,0.1,0.1]",
        "dataset.eval_transform.resize=230",
        "dataset.train_transform.interpolation=nearest",
    ]
    data = build.datamodule(compose(["model=hyp_vit_s", *photographs, *typed]).config)
    assert data.normalization.mean.flatten().tolist() == pytest.approx([0.1] * 3)
    assert data.normalization.std.flatten().tolist() == [0.5] * 3
    assert data.reading.eval_transform.resize == 230
    assert data.reading.train_transform.interpolation == "nearest"


def test_a_network_without_weights_sees_pixels_from_minus_1_to_1(photographs: list[str]) -> None:
    config = compose(["model=hyp_vit_s", "backbone=vit_small_images", *photographs]).config
    normalization = build.images(config).normalization
    assert normalization is not None
    pixels = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2).expand(1, 3, 1, 2)
    assert normalization(pixels).unique().tolist() == [-1.0, 1.0]


def test_weights_are_not_fetched_for_a_checkpoint() -> None:
    config = compose(["model=hyp_vit_s", "dataset.image_size=224", "dataset.channels=3"]).config
    model = build.specification(config, restores=True).build_model()  # without a network this would fail
    assert model.feature_size == 384
    assert config["model"]["pretrained"] is True


@pytest.mark.parametrize(("precision", "limit"), [("32", 2e3), ("fp16", 2e3), ("64", 1e8)])
def test_the_limit_of_a_model_is_that_of_the_precision_it_is_trained_in(precision: str, limit: float) -> None:
    for name, typed in (("hecnn_r18", limit), ("hecnn_r18 manifold.x_t_max=8", 8.0), ("hybrid_poincare_r18", limit)):
        model, *overrides = name.split()
        config = compose([f"model={model}", f"trainer.precision={precision}", *overrides]).config
        assert build.family(config).decoder().x_t_max == typed  # type: ignore[attr-defined]

"""Every file of configs/dataset composes, is complete, and makes batches."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from hyplearn.data.datamodule import ImageDataModule

WriteImage = Callable[..., Path]
CONFIGS = Path(__file__).parents[2] / "configs" / "dataset"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    monkeypatch.delenv("HYPLEARN_DATA", raising=False)

    def compose_dataset(name: str, **changes: object) -> dict[str, Any]:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            config = compose(name, overrides=[f"{key}={value}" for key, value in changes.items()])
        resolved = OmegaConf.to_container(config, resolve=True)
        assert isinstance(resolved, dict)
        return resolved

    return compose_dataset


@pytest.fixture
def roots(request: pytest.FixtureRequest) -> Callable[[str], Path | None]:
    def root(name: str) -> Path | None:
        if name in ("digits", "synthetic"):
            return None
        fixture = "folder_root" if name.startswith("image_folder") else f"{name.split('_mnist')[0]}_root"
        return request.getfixturevalue(fixture)

    return root


def test_every_dataset_has_a_config() -> None:
    assert {"digits", "fashion_mnist", "cifar10", "cifar100", "tiny_imagenet", "image_folder", "synthetic"} <= set(
        NAMES
    )


@pytest.mark.parametrize("name", NAMES)
def test_keys_are_arguments_of_the_target(name: str, load: Callable[..., dict[str, Any]]) -> None:
    config = load(name, **({"root": "/images"} if name.startswith("image_folder") else {}))
    arguments = set(inspect.signature(ImageDataModule).parameters)
    assert set(config) - {"_target_"} <= arguments
    assert "seed" not in config  # the run's


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_every_part(
    name: str, load: Callable[..., dict[str, Any]], roots: Callable[[str], Path | None]
) -> None:
    root = roots(name)
    changes: dict[str, object] = {"batch_size": 8}
    if root is not None:
        changes["root"] = root
    if name in ("tiny_imagenet", "image_folder", "image_folder_224"):
        changes["num_workers"] = 1
    data = hydra.utils.instantiate(load(name, **changes), seed=5)
    facts = data.facts()
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    for split in ("train", "val", "test"):
        images, labels, ids = next(data.batches(split))
        assert images.shape[1:] == (facts.in_channels, facts.image_size, facts.image_size)
        assert len(images) == len(labels) == len(ids) > 1
        assert 0 <= labels.min() <= labels.max() < facts.num_classes
        assert torch.isfinite(images).all()


def test_the_root_follows_the_environment(load: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    assert load("cifar10")["root"] == "data"
    monkeypatch.setenv("HYPLEARN_DATA", "/somewhere")
    assert load("cifar10")["root"] == "/somewhere"


def test_cifar_has_the_statistics_of_the_paper(load: Callable[..., dict[str, Any]]) -> None:
    for name in ("cifar10", "cifar100"):
        config = load(name)
        assert (config["mean"], config["std"]) == ([0.5074, 0.4867, 0.4411], [0.267, 0.256, 0.276])
        assert config["augmentation"]["crop_padding"] == 4


def test_digits_have_their_own_statistics(load: Callable[..., dict[str, Any]]) -> None:
    data = hydra.utils.instantiate(load("digits", val_fraction=0, augmentation="null"), seed=0)
    data.setup("fit")
    images = torch.cat([images for images, _, _ in data.batches("train")])
    assert images.mean().item() == pytest.approx(0, abs=2e-3)
    assert images.std().item() == pytest.approx(1, abs=2e-3)

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

from hyplearn.data.batches.sampler import check_class_batches
from hyplearn.data.sources.cub import CUB
from hyplearn.data.sources.folder import ImageFolder
from hyplearn.data.sources.shard_writing import write_shards
from tests.support.retrieval_trees import make_cars, make_cub, make_inshop, make_sop

WriteImage = Callable[..., Path]
CONFIGS = Path(__file__).parents[2] / "configs" / "dataset"
NO_FILES = ("digits", "synthetic", "digits_retrieval", "digits_in_fields")
TREES = {
    "cub": make_cub,
    "cars": make_cars,
    "sop": make_sop,
    "inshop": make_inshop,
    "image_folder_retrieval": lambda root: make_cub(root, texts=False),
    "image_folder_retrieval_224": lambda root: make_cub(root, texts=False),
    "csv_retrieval": lambda root: write_table(make_cub(root)),
    "shards_retrieval": lambda root: write_shards(CUB(), make_cub(root).parent, root / "shards"),
}
# What trees of a few classes need: small batches, no backbone, and a split where they have none.
BATCHES = {"batch_size": 4, "images_per_class": 2, "val_fraction": 0.4, "num_workers": 1}
STATISTICS = {"mean": [0.5], "std": [0.25]}
SMALL = {name: {**BATCHES, **STATISTICS} for name in ("cub", "cars", "sop", "inshop")} | {
    name: {**BATCHES, "source.test_fraction": 0.4} for name in ("image_folder_retrieval", "csv_retrieval")
}
SMALL["shards_retrieval"] = BATCHES
SMALL["image_folder_retrieval_224"] = {
    **SMALL["image_folder_retrieval"],
    **STATISTICS,
    "train_transform.interpolation": "bicubic",
    "eval_transform.resize": 256,
    "eval_transform.interpolation": "bicubic",
}
SMALL["fashion_mnist_retrieval"] = {"batch_size": 6, "images_per_class": 2}
RETRIEVAL = ("digits_in_fields", "cub", "cars", "sop", "inshop", "_retrieval", "_retrieval_224")
NAMES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def write_table(base: Path) -> None:
    names = [path.relative_to(base.parent).as_posix() for path in sorted(base.rglob("*.jpg"))]
    rows = [f"{name},{name.split('/')[2]}\n" for name in names]
    (base.parent / "images.csv").write_text("path,label\n" + "".join(rows))


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    monkeypatch.delenv("HYPLEARN_DATA", raising=False)

    def compose_dataset(name: str, **changes: object) -> dict[str, Any]:
        overrides = [f"dataset={name}", *(f"dataset.{key}={value}" for key, value in changes.items())]
        with initialize_config_dir(str(CONFIGS.parent), version_base="1.3"):  # a data set chooses its evaluation
            config = compose("train", overrides=overrides)
        resolved = OmegaConf.to_container(config.dataset, resolve=True)
        assert isinstance(resolved, dict)
        return resolved

    return compose_dataset


@pytest.fixture
def roots(request: pytest.FixtureRequest) -> Callable[[str], Path | None]:
    def root(name: str) -> Path | None:
        if name in NO_FILES:
            return None
        if name in TREES:
            root = request.getfixturevalue("tmp_path")
            TREES[name](root)
            below = {"image": root / "CUB_200_2011" / "images", "shards": root / "shards"}
            return below.get(name.split("_")[0], root)
        if name == "shards":
            shards: Path = request.getfixturevalue("tmp_path") / "shards"
            write_shards(ImageFolder(), request.getfixturevalue("folder_root"), shards)
            return shards
        fixture = "folder_root" if name.startswith("image_folder") else f"{name.split('_mnist')[0]}_root"
        return request.getfixturevalue(fixture)

    return root


def test_every_dataset_has_a_config() -> None:
    assert {"digits", "fashion_mnist", "cifar10", "cifar100", "tiny_imagenet", "image_folder", "synthetic"} <= set(
        NAMES
    )


@pytest.mark.parametrize("name", NAMES)
def test_keys_are_arguments_of_the_target(name: str, load: Callable[..., dict[str, Any]]) -> None:
    config = load(name, **({"root": "/images"} if name.startswith(("image_folder", "csv", "shards")) else {}))
    arguments = set(inspect.signature(hydra.utils.get_class(config["_target_"])).parameters)
    assert set(config) - {"_target_"} <= arguments
    assert "seed" not in config  # the run's


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_every_part(
    name: str, load: Callable[..., dict[str, Any]], roots: Callable[[str], Path | None]
) -> None:
    root = roots(name)
    changes: dict[str, object] = {"batch_size": 8, **SMALL.get(name, {})}
    if name in ("digits_retrieval", "digits_in_fields"):
        del changes["batch_size"]
    if root is not None:
        changes["root"] = root
    if name in ("tiny_imagenet", "image_folder", "image_folder_224", "shards"):
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
        if split == "train" or not name.endswith(RETRIEVAL):  # retrieval is tested on other classes
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


def test_the_sets_of_the_papers_are_cropped_and_batched_as_there(load: Callable[..., dict[str, Any]]) -> None:
    resize = {"cub": 256, "cars": 224, "sop": 224, "inshop": 224}
    batches = {"cub": (900, 9), "cars": (882, 9), "sop": (900, 2), "inshop": (900, 2)}
    for name, shorter in resize.items():
        config = load(name, val_fraction=0)
        train, evaluate = config["train_transform"], config["eval_transform"]
        assert (train["size"], train["scale"], train["interpolation"]) == (224, [0.2, 1.0], "bicubic")
        assert (evaluate["resize"], evaluate["size"], evaluate["interpolation"]) == (shorter, 224, "bicubic")
        assert config["augmentation"]["horizontal_flip"] == 0.5
        assert config["mean"] is None and config["std"] is None
        assert config["sampler"] == "unique_class"
        size, per_class = batches[name]
        assert config["images_per_class"] == per_class
        check_class_batches(
            batch_size=size, images_per_class=per_class, classes={"cub": 100, "cars": 98}.get(name, 3997)
        )


@pytest.mark.parametrize("name", ["cub", "cars", "sop", "inshop", "digits_retrieval", "fashion_mnist_retrieval"])
def test_the_batches_as_configured_can_be_formed(
    name: str, load: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    root = {} if name == "digits_retrieval" else {"root": tmp_path}
    hydra.utils.instantiate(load(name, **root), seed=0).check_batches(processes=2)

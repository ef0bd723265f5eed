"""The name of a run: equal for what computes the same, different for what does not."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from hyplearn.config.compose import compose
from hyplearn.runs.identity import cell_id, run_id
from hyplearn.runs.keys import ADDED_LATER


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return compose(["model=hecnn_r18", "seed=3"]).config


def changed(config: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    copy = deepcopy(config)
    *path, last = key.split(".")
    node = copy
    for part in path:
        node = node[part]
    node[last] = value
    return copy


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 4),
        ("output_dir", "elsewhere"),
        ("paper", {"key": "bdeir_table2", "metric": "test/top1", "value": 1.0, "std": None}),
        ("protocol", "code"),
        ("logger.wandb", True),
        ("trainer.accelerator", "gpu"),
        ("trainer.num_threads", 1),
        ("dataset.num_workers", 3),
        ("dataset.prefetch_factor", 4),
        ("dataset.cache", "disk"),
        ("dataset.cache_folder", "/fast"),
        ("callbacks.figures", False),
        ("choices", {}),
    ],
)
def test_where_and_how_a_run_is_watched_does_not_change_its_cell(config: dict[str, Any], key: str, value: Any) -> None:
    assert changed(config, key, value) != config
    assert cell_id(changed(config, key, value)) == cell_id(config)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("trainer.max_epochs", 21),
        ("trainer.precision", "bf16"),
        ("manifold.c", 0.5),
        ("optim.lr", 0.05),
        ("dataset.val_fraction", 0.2),
        ("model.width", 32),
        ("scale", "smoke"),
        ("callbacks.monitor", "val/loss"),
        ("dataset.split_seed", 1),
    ],
)
def test_what_is_computed_does(config: dict[str, Any], key: str, value: Any) -> None:
    assert cell_id(changed(config, key, value)) != cell_id(config)


def test_a_key_that_was_added_later_changes_a_name_only_with_its_value(config: dict[str, Any]) -> None:
    """Ids of runs that were stored before the key was there stay what they were."""
    without = deepcopy(config)
    for key in ("gradient_clip_of", "gradient_clamp", "loss_scale", "tf32", "val_first_epoch"):
        del without["trainer"][key]
    assert cell_id(without) == cell_id(config)
    assert cell_id(changed(config, "optim.gradient_scales", {})) == cell_id(config)
    for key, value in (("trainer.loss_scale", 2.0), ("trainer.tf32", True), ("optim.gradient_scales", {"neck": 0.5})):
        assert cell_id(changed(config, key, value)) != cell_id(config)


@pytest.mark.parametrize("key", ADDED_LATER)
def test_what_stands_for_a_later_key_is_what_a_configuration_has_by_default(key: str) -> None:
    node: Any = compose(["model=hyp_vit_s"]).config
    *path, last = key.split(".")
    for part in path:
        node = node[part]
    assert node.get(last, ADDED_LATER[key]) == ADDED_LATER[key]


def test_a_run_is_a_cell_and_a_seed(config: dict[str, Any]) -> None:
    assert run_id(config) == f"{cell_id(config)}_seed3"
    assert len(cell_id(config)) == 12


def test_whole_numbers_are_numbers(config: dict[str, Any]) -> None:
    assert cell_id(changed(config, "manifold.c", 1)) == cell_id(changed(config, "manifold.c", 1.0))
    assert cell_id(changed(config, "fused", True)) != cell_id(changed(config, "fused", 1.0))


def test_a_sphere_reads_no_curvature() -> None:
    one, two = (compose(["model=sph_vit_s", f"manifold.c={c}"]).config for c in (0.1, 1.0))
    assert cell_id(one) == cell_id(two)


def test_the_order_of_keys_does_not_matter(config: dict[str, Any]) -> None:
    assert cell_id(dict(reversed(config.items()))) == cell_id(config)

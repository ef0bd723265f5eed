"""Cells name what computes them; their files say what make_experiments.py would write."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from hyplearn.config.compose import compose
from hyplearn.config.folders import config_dir, groups
from hyplearn.config.specification import checked_specification
from hyplearn.papers.cells import BASELINES, NO_SYSTEM, SYSTEMS, Cell, cells, select, tables
from hyplearn.papers.published import entries
from hyplearn.runs.identity import cell_id

ROOT = Path(__file__).resolve().parents[2]
NAMED = [cell for cell in cells() if cell.experiment]
EXPERIMENTS = groups([config_dir()])["experiment"]


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_experiments", ROOT / "scripts" / "make_experiments.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_every_printed_row_is_a_cell() -> None:
    assert [cell.entry for cell in cells()] == list(entries())
    assert tables() == (*(f"bdeir_table{n}" for n in range(1, 6)), "yue_table1", "yue_table2")


def test_a_cell_has_an_experiment_or_a_reason() -> None:
    for cell in cells():
        assert (cell.experiment is None) == (cell.absent is not None) == (not cell.measures), cell.name


def test_systems_are_said_to_be_missing_and_losses_are_not() -> None:
    for cell in cells():
        if cell.entry.method in SYSTEMS:
            assert cell.absent == NO_SYSTEM
        if cell.entry.method in BASELINES and not cell.entry.blank:
            assert cell.experiment is not None


def test_the_files_are_those_of_the_cells(generator: ModuleType) -> None:
    assert generator.differing() == {}
    of_tables = {name for name in EXPERIMENTS if name.startswith(("bdeir_", "yue_"))}
    assert of_tables == {cell.experiment for cell in NAMED}


def test_what_differs_is_named_and_written(
    generator: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "configs" / "experiment"
    folder.mkdir(parents=True)
    monkeypatch.setattr(generator, "FOLDER", folder)
    monkeypatch.setattr(sys, "argv", ["make_experiments.py", "--check"])
    assert generator.main() == 1
    assert not list(folder.iterdir())
    monkeypatch.setattr(sys, "argv", ["make_experiments.py"])
    assert generator.main() == 0
    assert len(list(folder.iterdir())) == len(NAMED)
    assert generator.differing() == {}


@pytest.mark.parametrize(
    ("name", "metric", "ours"),
    [
        ("bdeir_table3_cifar100_hecnn_r50", "accuracy", "test/top1"),
        ("yue_table1_cub_hyp_vit_s", "R@1", "test/recall@1"),
        ("yue_table1_cub_mix_vit_s", "R@2", "test/sphere/recall@2"),
        ("yue_table2_sop_mix_vit_s", "R@1000", "test/backbone/recall@1000"),
        ("yue_table2_cub_proxy_anchor_inception_v3_512", "R@1", "test/recall@1"),
        ("bdeir_table1_inshop_hyp_vit_s_384", "R@20", "test/backbone/recall@20"),
        ("bdeir_table1_inshop_lhier_vit_s_384", "R@20", "test/recall@20"),
        ("bdeir_table1_cub_pretrained_dino_vit_s", "R@1", "test/backbone/recall@1"),
    ],
)
def test_the_metric_that_stands_for_the_printed_one(name: str, metric: str, ours: str) -> None:
    (cell,) = select(name)
    assert cell.measures[metric] == ours


def test_select() -> None:
    assert len(select("bdeir_table3")) == 12
    assert {cell.entry.dataset for cell in select("yue_table1_cub_*")} == {"CUB"}
    with pytest.raises(ValueError, match=r"no table or experiment 'bdeir_tabel3': did you mean bdeir_table3"):
        select("bdeir_tabel3")
    with pytest.raises(ValueError, match=r"no table 'x': bdeir_table1, "):
        cells("x")


def test_the_computed_metric_is_measured_at_the_printed_ks() -> None:
    for cell in _one_of_each():
        config = compose([f"experiment={cell.experiment}"]).config
        ks = [int(name.removeprefix("R@")) for name in cell.measures if name.startswith("R@")]
        assert set(ks) <= set((config["evaluation"] or {"k": []})["k"]), cell.name


def test_two_tables_that_read_one_run_name_the_same_run() -> None:
    def identity(name: str, protocol: str = "paper") -> str:
        return cell_id(compose([f"experiment={name}", f"protocol={protocol}"]).config)

    assert identity("yue_table1_cub_mix_vit_s") == identity("yue_table2_cub_mix_vit_s")
    assert identity("bdeir_table3_cifar100_hecnn_r50") == identity("bdeir_table5_cifar100_hecnn_r50")
    assert identity("bdeir_table1_cub_hyp_vit_s_128") == identity("yue_table1_cub_hyp_vit_s", "code")
    assert identity("yue_table1_cub_hyp_vit_s") != identity("yue_table1_cub_hyp_vit_s", "code")
    assert identity("bdeir_table1_cub_hier_vit_s_128") != identity("bdeir_table1_cub_hier_vit_s_384")


def test_protocols_differ_where_the_code_does() -> None:
    def config(name: str) -> dict[str, object]:
        return compose([f"experiment={name}", "protocol=code"]).config

    plus = config("bdeir_table2_cifar10_hcnn_r18")
    assert plus["model"]["conv"]["norm_match"] == "none"  # type: ignore[index]
    assert plus["optim"]["curvature_lr"] == 0.1  # type: ignore[index]
    assert config("yue_table1_sop_mix_dino_vit_s")["trainer"]["max_steps"] == 5000  # type: ignore[index]
    assert config("bdeir_table1_sop_lhier_r50_512")["dataset"]["select_on_test"] is True  # type: ignore[index]


@pytest.mark.parametrize(
    ("name", "scale", "interpolation"),
    [
        ("bdeir_table1_sop_lhier_r50_512", [0.08, 1.0], "bicubic"),
        ("bdeir_table1_sop_lhier_vit_s_128", [0.2, 1.0], "bicubic"),
        ("bdeir_table1_cub_hyp_r50_512", [0.08, 1.0], "bicubic"),
        ("yue_table1_cars_margin_r50_128", [0.08, 1.0], "bilinear"),
        ("yue_table1_cub_mix_vit_s", [0.2, 1.0], "bicubic"),
    ],
)
def test_images_are_cropped_as_the_authors_of_each_recipe_do(name: str, scale: list[float], interpolation: str) -> None:
    dataset = compose([f"experiment={name}"]).config["dataset"]
    assert dataset["train_transform"]["scale"] == scale
    assert dataset["train_transform"]["interpolation"] == dataset["eval_transform"]["interpolation"] == interpolation


@pytest.mark.parametrize("dataset", ["cub", "cars", "sop", "inshop"])
def test_hyp_on_a_resnet_has_one_recipe_for_all_data(dataset: str) -> None:
    config = compose([f"experiment=bdeir_table1_{dataset}_hyp_r50_512"]).config
    assert (config["dataset"]["batch_size"], config["dataset"]["images_per_class"]) == (352, 8)
    assert (config["optim"]["lr"], config["trainer"]["max_epochs"]) == (2e-4, 100)
    assert config["loss"]["reduction"] == "m2"


def _one_of_each() -> list[Cell]:
    """A cell of each method and backbone of each table."""
    return list({(cell.table, cell.entry.method, cell.backbone): cell for cell in NAMED}.values())


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["paper", "code"])
@pytest.mark.parametrize("name", [cell.experiment for cell in NAMED])
def test_every_experiment_composes_with_its_published_value(name: str, protocol: str) -> None:
    composed = compose([f"experiment={name}", f"protocol={protocol}"])
    (cell,) = select(name)
    metric, value = next(iter(cell.entry.metrics.items()))
    paper = composed.config["paper"]
    assert (paper["key"], paper["metric"], paper["value"]) == (cell.table, cell.measures[metric], value)
    assert paper.get("std") == cell.entry.std.get(metric)
    assert composed.config["protocol"] == protocol
    assert composed.config["dataset"]["val_fraction"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["paper", "code"])
@pytest.mark.parametrize("name", [cell.experiment for cell in _one_of_each()])
def test_one_experiment_of_each_method_could_run(name: str, protocol: str) -> None:
    precision, weights = "trainer.precision=32", "model.pretrained=false"
    typed = [precision] if "accuracy" in select(name)[0].entry.metrics else [precision, weights]
    checked_specification(compose([f"experiment={name}", f"protocol={protocol}", *typed]))

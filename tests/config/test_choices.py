"""Every choice of every group composes; experiments cite the cell of the paper that they reproduce."""

from __future__ import annotations

import re

import pytest
import yaml

from hyplearn.config.compose import compose
from hyplearn.config.folders import config_dir, groups
from hyplearn.config.specification import checked_specification
from hyplearn.errors import ConfigError

GROUPS = groups([config_dir()])
EXPERIMENTS = GROUPS.pop("experiment")
RETRIEVAL = ("sph", "hyp", "mix", "hier", "lhier")
CLASSIFIERS = [name for name in GROUPS["model"] if name.partition("_")[0] not in RETRIEVAL]
CHOSEN = {
    group: names for group, names in GROUPS.items() if group not in ("recipe", "runtime")
}  # which experiments and Hydra choose
TABLES = [name for name in EXPERIMENTS if name.startswith(("bdeir_", "yue_"))]  # tests/papers/test_cells.py has them
ROOTLESS = (
    "image_folder",
    "image_folder_224",
    "image_folder_retrieval",
    "image_folder_retrieval_224",
    "csv_retrieval",
    "shards",
    "shards_retrieval",
)
NEEDED = {name: ["dataset.root=somewhere"] for name in ROOTLESS}


@pytest.mark.parametrize("choice", [f"{group}={name}" for group, names in CHOSEN.items() for name in names])
def test_every_choice_composes(choice: str) -> None:
    group, _, name = choice.partition("=")
    model = ["model=hyp_vit_s"] if group == "backbone" else []  # the others have none to choose
    composed = compose([choice, *NEEDED.get(name, []), *model])
    assert composed.choices[group] == name


@pytest.mark.parametrize("name", sorted(set(EXPERIMENTS) - set(TABLES)))
def test_every_experiment_composes(name: str) -> None:
    composed = compose([f"experiment={name}"])
    assert composed.choices["experiment"] == name


def test_a_classifier_has_no_backbone_to_choose() -> None:
    with pytest.raises(ConfigError, match=r"unknown key model\.backbone"):
        compose(["model=hecnn_r18", "backbone=r50"])


@pytest.mark.parametrize("model", CLASSIFIERS)
def test_every_classifier_works_with_an_optimizer_of_the_papers_and_the_default_data(model: str) -> None:
    checked_specification(compose([f"model={model}", "model.width=4", "optim=rsgd"]))


@pytest.mark.parametrize("model", sorted(set(GROUPS["model"]) - set(CLASSIFIERS)))
def test_every_retrieval_model_works_with_what_it_chooses(model: str) -> None:
    checked_specification(compose([f"model={model}"]))


def test_the_groups_are_those_of_the_root() -> None:
    root = yaml.safe_load((config_dir() / "train.yaml").read_text())
    named = [next(iter(entry)) for entry in root["defaults"] if isinstance(entry, dict)]
    assert set(named) == {*GROUPS, "experiment"}
    assert root["defaults"][0] == "_self_"
    assert named[-3:] == ["recipe", "experiment", "protocol"]
    assert named.index("manifold") < named.index("model")


def test_demo_is_what_runs_by_default() -> None:
    demo, default = compose(["experiment=demo"]).config, compose([]).config
    assert demo.pop("choices") == {**default.pop("choices"), "experiment": "demo"}
    assert demo == default


YUE = [name for name in EXPERIMENTS if re.match(r"yue_table1_(cub|cars|sop)_(sph|hyp|mix)_", name)]


@pytest.mark.parametrize("name", YUE)
def test_retrieval_experiments_say_which_cell_they_are(name: str) -> None:
    """Yue Section 4.2: steps, batch, clip, rates, temperatures; D_cos over 0.1 is the code's cos over 0.05."""
    config, comment = compose([f"experiment={name}"]), (config_dir() / "experiment" / f"{name}.yaml").read_text()
    found = re.match(r"yue_table1_(cub|cars|sop)_((sph|hyp|mix)_(dino_)?vit_s)$", name)
    assert found is not None
    dataset, model, kind, dino = found.groups()
    assert (config.choices["dataset"], config.choices["model"]) == (dataset, model)
    values, paper = config.config, config.config["paper"]
    assert paper["key"] == "yue_table1"
    assert f"Recall@1 {paper['value']:g} %" in comment.splitlines()[2]
    assert values["trainer"]["max_steps"] == {"cub": 200, "cars": 600, "sop": 25000}[dataset]
    classes, batch = {"cub": 100, "cars": 98, "sop": 11318}[dataset], values["dataset"]["batch_size"]
    per_epoch = classes * values["dataset"]["images_per_class"] // batch
    assert values["trainer"]["max_epochs"] * per_epoch == values["trainer"]["max_steps"]
    assert values["dataset"]["val_fraction"] == 0
    assert values["dataset"]["sampler"] == "unique_class"
    assert values["model"]["pretrained"] is True
    assert values["optim"]["lr"] == (1e-5 if dino else 3e-5)
    assert values["loss"]["tau"] == {"sph": 0.1, "hyp": 0.2, "mix": [0.1, 0.2]}[kind]
    if kind == "mix":
        assert values["model"]["head"]["branches"]["poincare"]["weight"] == (3 if dataset == "cub" else 8)


def test_every_cell_of_yue_table_1_has_an_experiment() -> None:
    assert len(YUE) == 3 * 3 * 2

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from yaml import YAMLError

from hyplearn.config.compatibility import checked_specification
from hyplearn.config.compose import change, compose
from hyplearn.config.explain import of_command_line
from hyplearn.config.folders import config_dir
from hyplearn.errors import ConfigError

FROM_A_FILE = {"file": Path("run/config.yaml"), "trust": ()}  # what `change` is told of a stored configuration


def test_defaults() -> None:
    composed = compose([])
    assert composed.choices == {
        "model": "hecnn_r18",
        "backbone": None,
        "evaluation": None,
        "manifold": "lorentz",
        "optim": "rsgd",
        "loss": "cross_entropy",
        "dataset": "digits",
        "trainer": "auto",
        "logger": "csv",
        "callbacks": "default",
        "recipe": None,
        "experiment": None,
        "protocol": "paper",
    }
    assert composed.config["seed"] == 1
    assert composed.config["choices"] == composed.choices
    assert composed.typed == frozenset()


def test_typed_values_and_choices_win() -> None:
    composed = compose(["model=hecnn_r50", "optim=radamw", "dataset=cifar100", "manifold.c=0.5", "seed=3"])
    assert composed.config["model"]["depth"] == 50
    assert composed.config["optim"]["optimizer"]["_target_"] == "hyplearn.optim.RiemannianAdamW"
    assert composed.config["manifold"]["c"] == 0.5
    assert composed.config["seed"] == 3
    assert composed.typed == {"model", "optim", "dataset", "manifold.c", "seed"}


@pytest.mark.parametrize(
    ("overrides", "manifold"),
    [
        (["model=euclidean_r18"], "euclidean"),
        (["model=hcnn_original_r18"], "lorentz_fixed"),
        (["model=hybrid_poincare_r18"], "poincare"),
        (["model=hecnn_r18"], "lorentz"),
        (["model=hecnn_r18", "manifold=lorentz_fixed"], "lorentz_fixed"),
        (["manifold=lorentz_fixed", "model=hecnn_r18"], "lorentz_fixed"),
        (["experiment=bdeir_table2_cifar10_euclidean_r18"], "euclidean"),
        (["experiment=bdeir_table5_cifar100_hecnn_r50_fixed_curvature"], "lorentz_fixed"),
        (["experiment=bdeir_table5_cifar100_hecnn_r50_fixed_curvature", "manifold=lorentz"], "lorentz"),
    ],
)
def test_a_model_chooses_its_manifold_and_the_user_has_the_last_word(overrides: list[str], manifold: str) -> None:
    assert compose(overrides).choices["manifold"] == manifold


def test_numbers_take_the_type_of_their_key() -> None:
    config = compose(["manifold.c=1", "trainer.precision=32", "trainer.devices=2"]).config
    assert type(config["manifold"]["c"]) is float
    assert config["trainer"]["precision"] == "32"
    assert config["trainer"]["devices"] == 2


def test_arguments_that_no_file_mentions_can_be_set() -> None:
    assert compose(["dataset.memory_limit_gib=2"]).config["dataset"]["memory_limit_gib"] == 2.0
    assert compose(["+optim.optimizer.dampening=0.1"]).config["optim"]["optimizer"]["dampening"] == 0.1


def test_a_group_of_keys_takes_the_place_of_the_former_one() -> None:
    config = compose(["optim.schedule={name:cosine,warmup:0.1}"]).config
    assert config["optim"]["schedule"] == {"name": "cosine", "warmup": 0.1}


def test_further_folders_add_choices(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "narrow.yaml").write_text("defaults: [hecnn_r18, _self_]\nwidth: 4\n")
    composed = compose(["model=narrow"], extra=[tmp_path])
    assert composed.config["model"]["width"] == 4
    assert composed.choices["model"] == "narrow"


def test_a_further_folder_cannot_take_a_name_that_is_given(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "hecnn_r18.yaml").touch()
    with pytest.raises(ConfigError, match="model offers hecnn_r18 already"):
        compose([], extra=[tmp_path])


MISTAKES = {
    "model=hecn_r18": "unknown choice model=hecn_r18. Did you mean hecnn_r18? (model offers: ",
    "optim=adam": "Did you mean optim=radam, or ",
    "experiment=demmo": "unknown choice experiment=demmo. Did you mean demo?",
    "model=null": "unknown choice model=null.",
    "modl=hecnn_r18": "unknown key modl. Did you mean model?",
    "lr=0.1": "unknown key lr. Did you mean optim.lr?",
    "model.lr=0.1": "unknown key model.lr. Did you mean optim.lr?",
    "manifold.curvature=2": "unknown key manifold.curvature. Did you mean manifold.c?",
    "trainer.max_epohcs=3": "unknown key trainer.max_epohcs. Did you mean trainer.max_epochs?",
    "dataset.augmentation.crop_paddin=1": "Did you mean dataset.augmentation.crop_padding?",
    "dataset.source.path=x": "unknown key dataset.source.path.",
    "model.norm.momentun=0.2": "Did you mean model.norm.momentum?",
    "seed.x=1": "unknown key seed.x",
    "manifold.c=abc": "manifold.c=abc: expected a number, got a text.",
    "trainer.max_epochs=2.5": "trainer.max_epochs=2.5: expected an integer, got a number with decimals.",
    "trainer.compile=1": "trainer.compile=1: expected true or false or one of auto, regions, got an integer.",
    "optim.lr=null": "optim.lr=null: expected a number, got null.",
    "manifold.bounds=[0.1]": "expected a list of a number, a number, got another list.",
    "manifold.parametrization=k": "manifold.parametrization=k: expected one of K, log_c.",
    "model.stages=lorentz": "expected a list of one of euclidean, lorentz, lorentz_core, poincare, got a text.",
    "dataset=3": "unknown choice dataset=3.",
    "optim.optimizer._target_=hyplearn.optim.Nothing": "optim.optimizer._target_=hyplearn.optim.Nothing: ",
    "trainer.max_epochs=-1": "trainer.max_epochs=-1 must be at least 0",
    "trainer.precision=8": "trainer.precision=8: expected one of 32, 64, bf16, fp16, got an integer.",
    "callbacks.monitor=val/acc": "callbacks.monitor=val/acc: expected one of auto, val/top1",
    "trainer.devices=all": "trainer.devices=all: expected an integer or auto.",
    "trainer.progress=plan": "expected one of auto, rich, plain, none. Did you mean plain?",
    "dataset=digits_retrieval evaluation.metrics=[cosin]": "evaluation.metrics=['cosin']: expected a list of one of co",
    "scale=tiny": "scale=tiny: expected one of full, smoke.",
    "optim.schedule.milestones=abc": "optim.schedule.milestones=abc: expected a list of numbers, got a text.",
    "optim.schedule.milestones=[a]": "optim.schedule.milestones=['a']: expected a list of numbers, got another list.",
    "optim.schedule.milestones=[0]": "optim.schedule.milestones=0 must be greater than 0 and finite: a fraction",
    "optim.schedule.gamma=2": "optim.schedule.gamma=2 must be in (0, 1]",
    "optim.schedule.gama=0.5": "unknown key optim.schedule.gama. Did you mean optim.schedule.gamma?",
    "optim.schedule={name:cosinus}": "optim.schedule.name=cosinus is unknown. Did you mean cosine? (choose from: co",
    "~optim.schedule.name": "optim.schedule.name is missing. (choose from: constant, cosine, multistep, step)",
    "optim.schedule={name:multistep,milestones:[0.5]}": "optim.schedule.gamma is missing: give it a value.",
    "optim.schedule.name=cosine": "optim.schedule.milestones is no key of optim.schedule.name=cosine, which takes: fi",
    "optim.lr=-1": "optim.lr=-1.0 must be at least 0 and finite",
    "optim.lr=nan": "optim.lr=nan must be at least 0 and finite",
    "optim.scales={backbone:-1}": "optim.scales.backbone=-1 must be at least 0 and finite",
    "optim.scales={backbone:abc}": "optim.scales.backbone=abc: expected a number, got a text.",
    "optim.schedule={name:constant,hold:{backbone:x}}": "optim.schedule.hold.backbone=x: expected a number",
    "trainer.gradient_clip=inf": "trainer.gradient_clip=inf must be greater than 0 and finite",
    "manifold.c=nan": "manifold.c=nan must be a finite number.",
    "manifold.bounds=[0.1,inf]": "manifold.bounds=inf must be a finite number.",
    "optim.optimizer.momentum=nan": "optim.optimizer.momentum=nan must be a finite number.",
    "seed=-1": "seed=-1 must be in [0, 2^32)",
    "seed=1,2": "seed=1,2 names several values: add -m",
    "seed=[1": "'seed=[1' is no override",
    "seed": "'seed' is no override",
    "seed=${trainer.epochs}": "seed: ",
    "~seed": "seed is missing: give it a value.",
    "~model": "model is missing: give it a value.",
    "~sed": "Could not delete from config. 'sed' does not exist",
    "model@other=hecnn_r18": "unknown key model@other. Did you mean model?",
    "+model@other=hecnn_r18": "unknown key other.",
    "+loss.weigth=2": "unknown key loss.weigth.",
    "++optim.lrr=2": "unknown key optim.lrr. Did you mean optim.lr?",
    "+seed=3": "An item is already at 'seed'. Either remove + prefix: 'seed=3'",
    "hydra.runn.dir=x": "unknown key hydra.runn.dir. Did you mean hydra.run.dir?",
    "hydra/launcher=bsic": "unknown choice hydra/launcher=bsic. Did you mean basic?",
    "experiment=grid/yue_fig": "Did you mean grid/yue_fig4?",
    "model.num_classes=4": "model.num_classes follows from other settings and cannot be set",
    "dataset.seed=4": "dataset.seed follows from other settings and cannot be set",
    "choices.model=x": "choices follows from other settings and cannot be set",
    "dataset=image_folder": "dataset.root is missing: give it a value, dataset.root=...",
}


@pytest.mark.parametrize(("override", "message"), MISTAKES.items(), ids=MISTAKES)
def test_one_mistake_is_one_message(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose(override.split())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_mistake_is_exit_status_2_before_anything_is_written(command, tmp_path: Path) -> None:
    result = command("train", "trainer.max_epohcs=3")
    assert result.status == 2
    assert result.err.startswith("error: unknown key trainer.max_epohcs.")
    assert not list(tmp_path.iterdir())


def test_mistakes_in_files_are_found_like_typed_ones(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    header = "# @package _global_\n"
    (tmp_path / "experiment" / "key.yaml").write_text(f"{header}trainer: {{max_epohcs: 3}}\n")
    (tmp_path / "experiment" / "choice.yaml").write_text(f"{header}defaults: [override /model: hecn_r18]\n")
    with pytest.raises(ConfigError, match=r"max_epohcs"):
        compose(["experiment=key"], extra=[tmp_path])
    with pytest.raises(ConfigError, match=r"unknown choice model=hecn_r18. Did you mean hecnn_r18"):
        compose(["experiment=choice"], extra=[tmp_path])


def test_a_stored_configuration_changes_only_where_allowed() -> None:
    stored = compose(["trainer.max_epochs=3"]).config
    changed = change(stored, ["trainer.max_epochs=5"], allowed=lambda key: key.startswith("trainer."), **FROM_A_FILE)
    assert changed.config == {**stored, "trainer": {**stored["trainer"], "max_epochs": 5}}
    assert changed.choices == stored["choices"]
    with pytest.raises(ConfigError, match=r"manifold.c=2: manifold.c of a stored run stays as it is"):
        change(stored, ["manifold.c=2"], allowed=lambda key: key.startswith("trainer."), **FROM_A_FILE)
    with pytest.raises(ConfigError, match=r"unknown key trainer.max_epohcs"):
        change(stored, ["trainer.max_epohcs=5"], allowed=lambda key: True, **FROM_A_FILE)


@pytest.mark.parametrize(("trained", "limit"), [("32", 2e3), ("bf16", 2e3), ("64", 1e8)])
def test_a_stored_model_keeps_its_limit_in_another_precision(trained: str, limit: float) -> None:
    stored = compose(["model=hecnn_r18", f"trainer.precision={trained}"]).config
    assert (
        change(stored, ["trainer.precision=fp16"], allowed=lambda _: True, **FROM_A_FILE).config["manifold"]["x_t_max"]
        == limit
    )
    assert (
        change(stored, ["dataset.batch_size=5"], allowed=lambda _: True, **FROM_A_FILE).config["manifold"]
        == stored["manifold"]
    )


def test_a_limit_that_was_set_stays() -> None:
    stored = compose(["manifold.x_t_max=8"]).config
    assert (
        change(stored, ["trainer.precision=64"], allowed=lambda _: True, **FROM_A_FILE).config["manifold"]["x_t_max"]
        == 8.0
    )


def test_keys_are_merged_removed_and_added_as_hydra_does() -> None:
    assert compose(["dataset.augmentation={crop_padding:3}"]).config["dataset"]["augmentation"] == {
        **compose([]).config["dataset"]["augmentation"],
        "crop_padding": 3,
    }
    assert compose(["optim.schedule={gamma:0.5}"]).config["optim"]["schedule"]["gamma"] == 0.5
    without = compose(["~optim.schedule.manifold_skips_first_drop"]).config["optim"]["schedule"]
    assert "manifold_skips_first_drop" not in without
    assert compose(["+trainer.limit_val_batches=3"]).config["trainer"]["limit_val_batches"] == 3
    assert compose(["++seed=3"]).config["seed"] == 3
    assert compose(["+experiment=smoke"]).choices["experiment"] == "smoke"


def test_a_file_that_is_no_yaml_is_named(tmp_path: Path) -> None:
    (tmp_path / "loss").mkdir()
    (tmp_path / "loss" / "broken.yaml").write_text("a: [1\n b: }")
    with pytest.raises(ConfigError, match=r"broken\.yaml"):
        compose(["loss=broken"], extra=[tmp_path])
    assert of_command_line(YAMLError())
    assert not of_command_line(ValueError("out of a job"))


@pytest.mark.parametrize(
    "typed", ["model=foo", "optim.lrr=1", "optim.lr=abc", "seed=-1", "trainer.max_epochs=x", "manifold.c=nan"]
)
def test_a_mistake_outside_of_classes_is_told_before_torch_is_imported(typed: str, tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from hyplearn.cli.main import main\n"
        f"status = main(['train', {typed!r}])\n"
        "print(status, 'torch' in sys.modules)"
    )
    told = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(config_dir().parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.split() == ["2", "False"]
    assert told.stderr.startswith("error: ")


@pytest.mark.parametrize(
    "path",
    [
        "/data/日本語",
        "/data/Fotos (2021)",
        "/data/a=b",
        "~/pics",
        "/data/a,b",
        "/a/{b}",
        "/it's",
        "/$x!",
        r"/a\b (1)",
        r"/a (1)\\",
        r"/\'",
    ],
)
def test_a_path_that_needs_quotes_is_told_with_the_form_that_works(path: str) -> None:
    with pytest.raises(ConfigError, match="If the value is a text, such as a path, quote it: ") as refused:
        compose(["dataset=image_folder", f"dataset.root={path}", "dataset.source.test_fraction=0.2"])
    (typed,) = shlex.split(str(refused.value).partition("quote it: ")[2])
    config = compose(["dataset=image_folder", typed, "dataset.source.test_fraction=0.2"]).config
    assert config["dataset"]["root"] == str(Path(path).expanduser())


@pytest.mark.parametrize(
    "typed",
    [
        "model._target_=1",
        "model._target_=abc",
        "~model._target_",
        "~optim.optimizer._target_",
        "optim.optimizer._partial_=nan",
        "dataset.source=1",
        "dataset.augmentation={_target_:builtins.int}",
        "trainer.max_epochs={_target_: os.system, command: ls}",
        "model.width={_target_: os.system, command: ls}",
        "trainer={_target_: os.system, command: ls}",
        "evaluation=[true]",
        "logger=[0.1,0.5]",
        "optim={a:1}",
    ],
)
def test_what_is_no_part_is_refused_in_words(typed: str) -> None:
    with pytest.raises(ConfigError):
        checked_specification(compose(["model.width=4", typed]), restores=True)


@pytest.mark.parametrize("dataset", ["cub", "cars", "sop", "inshop", "digits_retrieval", "fashion_mnist_retrieval"])
@pytest.mark.parametrize("experiment", ["demo_retrieval", "yue_table1_cub_hyp_vit_s"])
def test_an_experiment_takes_another_data_set(experiment: str, dataset: str) -> None:
    """What belongs to one data set lives with it, so that another one brings its own."""
    photographs = dataset in ("cub", "cars", "sop", "inshop")
    if experiment != "demo_retrieval" and not photographs:
        return  # crops of photographs belong to photographs, which the next test shows
    root = [] if dataset == "digits_retrieval" else ["dataset.root=somewhere"]
    found = compose([f"experiment={experiment}", f"dataset={dataset}", *root]).config
    assert found["choices"]["dataset"] == dataset
    assert "field" not in found["dataset"]["source"] or found["dataset"]["source"]["field"] is None
    assert "pixels" not in found["evaluation"]["metrics"] or experiment != "demo_retrieval"


def test_crops_of_photographs_for_a_set_that_crops_nothing_are_told_with_a_way_out() -> None:
    experiment = "experiment=bdeir_table1_cub_soft_triple_bn_inception_512"
    with pytest.raises(ConfigError, match=r"dataset\.(train|eval)_transform=.* without _target_"):
        compose([experiment, "dataset=digits_retrieval"])

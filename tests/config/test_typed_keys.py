"""Every line of the table of what people type: it is answered, and the answer works as it is written."""

from __future__ import annotations

import re

import pytest
from omegaconf import DictConfig, OmegaConf

from hyplearn.cli.train import train
from hyplearn.config.compose import compose, load
from hyplearn.config.explain import unknown_choice
from hyplearn.config.folders import config_folders, groups
from hyplearn.config.keys import check_key
from hyplearn.config.typed_keys import CHOICES, FLAGS, KEYS, SAME
from hyplearn.errors import ConfigError

RETRIEVAL = ["model=hyp_vit_s"]
# A value for each answer that is a key, and what it needs beside it.
WORKING = {
    "callbacks.monitor": ("val/loss", []),
    "callbacks.patience": ("3", []),
    "callbacks.save_every_epochs": ("2", []),
    "dataset.augmentation": ("null", []),
    "dataset.batch_size": ("32", []),
    "dataset.eval_batch_size": ("32", []),
    "dataset.image_size": ("16", []),
    "dataset.images_per_class": ("2", RETRIEVAL),
    "dataset.num_workers": ("2", ["dataset=image_folder_224", "dataset.root=pictures"]),
    "dataset.root": ("pictures", ["dataset=image_folder", "dataset.image_size=64"]),
    "dataset.val_fraction": ("0.2", []),
    "evaluation.k": ("[1,10]", RETRIEVAL),
    "logger.project": ("birds", []),
    "logger.tags": ("[a]", []),
    "loss": ("cross_entropy", []),
    "loss.label_smoothing": ("0.1", []),
    "loss.tau": ("0.1", RETRIEVAL),
    "manifold.c": ("0.5", []),
    "manifold.learned": ("false", []),
    "model": ("hecnn_r50", []),
    "model.depth": ("50", []),
    "model.drop_rate": ("0.1", RETRIEVAL),
    "model.head.clip": ("1.0", RETRIEVAL),
    "model.head.size": ("64", RETRIEVAL),
    "model.pretrained": ("false", RETRIEVAL),
    "model.weights": ("weights.pth", RETRIEVAL),
    "model.width": ("16", []),
    "optim": ("radamw", []),
    "optim.curvature_lr": ("0.01", []),
    "optim.lr": ("0.1", []),
    "optim.optimizer.betas": ("[0.9,0.95]", ["optim=radamw"]),
    "optim.optimizer.momentum": ("0.8", []),
    "optim.optimizer.nesterov": ("false", []),
    "optim.schedule": ("{name:cosine,warmup:0.1,final:0.0}", []),
    "optim.weight_decay": ("0.1", []),
    "output_dir": ("outputs/mine", []),
    "resume": ("auto", []),
    "seed": ("3", []),
    "trainer.accelerator": ("cpu", []),
    "trainer.accumulate_grad_batches": ("2", []),
    "trainer.compile": ("true", []),
    "trainer.deterministic": ("true", []),
    "trainer.devices": ("1", []),
    "trainer.gradient_clip": ("1.0", []),
    "trainer.limit_test_batches": ("2", []),
    "trainer.limit_train_batches": ("2", []),
    "trainer.limit_val_batches": ("2", []),
    "trainer.max_epochs": ("5", []),
    "trainer.max_steps": ("5", []),
    "trainer.num_threads": ("1", []),
    "trainer.precision": ("bf16", []),
    "trainer.progress": ("plain", []),
    "trainer.strategy": ("ddp", []),
    "trainer.sync_batchnorm": ("true", []),
    "trainer.val_every_epochs": ("2", []),
}


def refusal(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        compose(list(overrides))
    return str(caught.value)


@pytest.fixture(scope="module")
def composed() -> DictConfig:
    """What the defaults compose, Hydra's own node left out."""
    config = load([], ())
    return OmegaConf.masked_copy(config, [str(name) for name in config if name != "hydra"])


@pytest.mark.parametrize(("typed", "answer"), KEYS.items())
def test_a_key_of_other_libraries_is_answered_with_ours(typed: str, answer: str, composed: DictConfig) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"unknown key {typed}. Did you mean {answer}?")):
        check_key(typed, composed)


@pytest.mark.parametrize("typed", ["lr", "epochs", "gpus", "optimizer", "dim", "fast_dev_run"])
def test_it_is_answered_where_it_is_typed(typed: str) -> None:
    assert refusal(f"{typed}=1").startswith(f"unknown key {typed}. Did you mean {KEYS[typed]}?")


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("trainer.gpus", "trainer.devices"),
        ("trainer.epochs", "trainer.max_epochs"),
        ("trainer.overfit_batches", "trainer.limit_train_batches"),
        ("optim.learning_rate", "optim.lr"),
        ("model.lr", "optim.lr"),
        ("manifold.curvature", "manifold.c"),
        ("dataset.img_size", "dataset.image_size"),
    ],
)
def test_it_is_answered_in_a_group_too(typed: str, answer: str) -> None:
    assert refusal(f"{typed}=1").startswith(f"unknown key {typed}. Did you mean {answer}?")
    assert refusal(f"++{typed}=1").startswith(f"unknown key {typed}. Did you mean {answer}?")


@pytest.mark.parametrize("answer", sorted(set(KEYS.values())))
def test_an_answer_works_as_it_is_written(answer: str) -> None:
    if answer.startswith("--"):
        assert train([answer, "model.width=8"]) == 0
        return
    value, others = WORKING.get(answer, ("", []))
    compose([*others, answer if "=" in answer else f"{answer}={value}"])


@pytest.mark.parametrize(
    ("group", "typed", "answer"), [(group, *row) for group, rows in CHOICES.items() for row in rows.items()]
)
def test_a_choice_that_people_type_is_answered(group: str, typed: str, answer: str) -> None:
    known = groups(config_folders())
    assert typed not in known[group]
    assert str(unknown_choice(group, typed, known[group])).startswith(
        f"unknown choice {group}={typed}. Did you mean {answer}? ("
    )
    named = re.findall(r"\b(\w+)=(\w+)\b", answer)
    assert [choice in known[name] for name, choice in named if name in known]


def test_a_choice_is_answered_where_it_is_typed() -> None:
    assert refusal("loss=cosface").startswith(
        "unknown choice loss=cosface. Did you mean loss=normalized_softmax, which "
    )


@pytest.mark.parametrize(("key", "typed", "ours"), [(key, *row) for key, rows in SAME.items() for row in rows.items()])
def test_a_value_that_means_the_same_is_taken(key: str, typed: str, ours: str) -> None:
    assert compose([f"{key}={typed}"]).config == compose([f"{key}={ours}"]).config


@pytest.mark.parametrize("value", ["bf16-true", "16-true", "transformer-engine"])
def test_a_precision_that_is_not_ours_is_refused(value: str) -> None:
    assert refusal(f"trainer.precision={value}").startswith(f"trainer.precision={value}: expected one of 32, ")


@pytest.mark.parametrize(
    ("word", "answer"),
    [
        ("adam", "optim=radam, or "),
        ("resnet18", "model=hecnn_r18, or "),
        ("16-mixed", "trainer.precision=16-mixed?"),
        ("cuda", "trainer=gpu?"),
        ("fast_dev_run", "trainer=debug?"),
        ("cosface", "loss=normalized_softmax, "),
    ],
)
def test_a_word_alone_is_answered(word: str, answer: str) -> None:
    assert f"Write key=value or group=choice. Did you mean {answer}" in refusal(word)


@pytest.mark.parametrize(
    ("line", "written"),
    [
        ("--epochs 5", "trainer.max_epochs=5"),
        ("--epochs=5", "trainer.max_epochs=5"),
        ("--batch-size 64", "dataset.batch_size=64"),
        ("--lr 0.1 model.width=8", "optim.lr=0.1"),
        ("--gpus 2", "trainer.devices=2"),
        ("--fast-dev-run", "trainer=debug"),
        ("--pretrained", "model.pretrained=..."),
    ],
)
def test_a_setting_typed_as_a_flag_is_written_with_a_sign(line: str, written: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"without dashes. Did you mean {written}?")):
        train(line.split())


@pytest.mark.parametrize(("flag", "name"), FLAGS.items())
def test_a_short_flag_is_answered(flag: str, name: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"Did you mean {KEYS[name]}=64?")):
        train([f"-{flag}", "64"])


@pytest.mark.parametrize("typed", ["logger=[wandb,tensorboard]", "logger=[tensorboard,wandb]"])
def test_several_loggers_at_once(typed: str) -> None:
    logger = compose([typed]).config["logger"]
    assert logger["wandb"] and logger["tensorboard"]
    assert not compose([typed, "logger.wandb=false"]).config["logger"]["wandb"]


@pytest.mark.parametrize(
    ("typed", "more"),
    [("model=nothing", "more: hyplearn train --help)"), ("trainer.nothing=1", "more: hyplearn train --print-config)")],
)
def test_a_list_ends_after_five_names(typed: str, more: str) -> None:
    told = refusal(typed)
    assert told.endswith(more)
    assert len(re.split(r"offers: |takes: ", told)[1].split(" and ")[0].split(", ")) == 5

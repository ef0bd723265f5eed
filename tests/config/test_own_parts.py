"""Parts that are not ours train by their name in the configuration, or are refused with what they lack."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support import own_parts
from tests.support.commands import SMALL, Command

NAMES = {
    "model": "PlainNet FixedNet CurvedNet NoForward NoHead NoEmbed AnyOption OwnEmbedder NoPoints NoSpaces a_function",
    "loss": "PlainLoss OneArgument NoLossForward NoCompute a_function",
    "manifold": "OwnLorentz Scaled NoFamily",
    "dataset": "Loaders OwnData NoNumbers NoTestLoader a_function",
}
SOURCES = ("OwnSource", "NoTest")
SHORT = ("trainer.max_epochs=1", "output_dir=run", *SMALL)


@pytest.fixture
def train(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`train("model=PlainNet")` where a package outside of hyplearn and a folder of configurations offer the parts."""
    package = tmp_path / "package"
    package.mkdir()
    shutil.copy(own_parts.__file__, package / "own_parts_of_mine.py")
    monkeypatch.syspath_prepend(package)
    for group, names in NAMES.items():
        (tmp_path / "conf" / group).mkdir(parents=True)
        for name in names.split():
            (tmp_path / "conf" / group / f"{name}.yaml").write_text(f"_target_: own_parts_of_mine.{name}\n")
    for name in SOURCES:
        text = f"defaults: [digits, _self_]\nsource: {{_target_: own_parts_of_mine.{name}}}\n"
        (tmp_path / "conf" / "dataset" / f"of_{name}.yaml").write_text(text)
    return lambda *typed: command("train", "--config-dir", str(tmp_path / "conf"), *typed, *SHORT)


WORKING = {
    "model=PlainNet": {"train/loss", "test/top1"},
    "model=PlainNet model.width=3 loss=PlainLoss": {"train/loss", "test/top1"},
    "model=FixedNet loss._target_=torch.nn.CrossEntropyLoss optim=adamw": {"train/loss", "test/top1"},
    "model=AnyOption": {"train/loss", "test/top1"},
    "model=CurvedNet": {"train/loss", "test/top1"},
    "model=CurvedNet manifold=OwnLorentz manifold.c=0.7": {"train/loss", "test/top1"},
    "model=CurvedNet manifold=Scaled manifold.scale=3.0": {"train/loss", "test/top1"},
    "model=hecnn_r18 model.width=4 manifold=OwnLorentz": {"train/loss", "test/top1"},
    "model=PlainNet dataset=of_OwnSource dataset.batch_size=16": {"train/loss", "val/top1", "test/top1"},
    "model=PlainNet dataset=OwnData": {"train/loss", "val/top1", "test/top1"},
    "model=OwnEmbedder dataset=digits_retrieval loss=pairwise optim=radamw_retrieval manifold=lorentz_embedding": {
        "train/loss",
        "test/recall@1",
        "test/cosine/recall@1",
    },
    "model=hyp_vit_s model.small.width=12 loss=pairwise manifold=OwnLorentz model.head.branches={own:{_target_: "
    "hyplearn.models.necks.Branch,kind:lorentz}}": {"test/recall@1"},
}


@pytest.mark.parametrize(("typed", "metrics"), WORKING.items(), ids=WORKING)
def test_a_part_that_is_not_ours_trains(typed: str, metrics: set[str], train: Any, tmp_path: Path) -> None:
    line = typed.replace("_target_: ", "_target_:").split()
    small = ["dataset.limit_train=60"] if "dataset=O" not in typed else []
    result = train(*line, *small)
    assert result.status == 0, result.err
    written = json.loads((tmp_path / "run" / "results.json").read_text())
    assert written["status"] == "finished"
    assert metrics <= set(written["metrics"])


MISTAKES = {
    "model=NoForward": [
        "model._target_=own_parts_of_mine.NoForward gives logits, but has no forward",
        "Classification",
    ],
    "model=NoHead": ["model: NoHead has no head, which goes with embed"],
    "model=NoEmbed": ["model: ", "abstract", "embed"],
    "model=AnyOption +model.depth=3": ["model: ", "unexpected keyword argument 'depth'"],
    "model=a_function": [
        "model._target_=own_parts_of_mine.a_function makes a int, not a torch.nn.modules.module.Module"
    ],
    "model=NoPoints dataset=digits_retrieval loss=pairwise": [
        "has no features, points, manifolds, rate_groups",
        "Embed",
    ],
    "model=NoSpaces dataset=digits_retrieval loss=pairwise manifold=lorentz_embedding": ["NoSpaces has no spaces"],
    "model=OwnEmbedder": ["model=OwnEmbedder is a retrieval model, but dataset=digits is split for classification"],
    "model=PlainNet manifold=lorentz": ["manifold=lorentz would be ignored", "model=PlainNet is Euclidean"],
    "loss=OneArgument": [
        "loss._target_=own_parts_of_mine.OneArgument.forward is called with (logits, labels): too many"
    ],
    "loss=NoLossForward": ["loss._target_=own_parts_of_mine.NoLossForward has no forward", "forward(logits, labels)"],
    "loss=a_function": ["loss._target_=own_parts_of_mine.a_function makes a int, not a torch.nn"],
    "loss=NoCompute dataset=digits_retrieval model=hyp_vit_s": ["loss: ", "abstract", "compute"],
    "loss=PlainLoss dataset=digits_retrieval model=hyp_vit_s": [
        "loss=PlainLoss is computed from logits",
        "loss=pairwise",
    ],
    "manifold=NoFamily": [
        "manifold._target_=own_parts_of_mine.NoFamily",
        "without curved, encoder, decoder, embedding",
    ],
    "manifold=Scaled": ["manifold=euclidean: this model has Lorentz layers and needs manifold=lorentz"],
    "dataset=Loaders": [
        "a Loaders, a LightningDataModule, but no hyplearn.data.base.DataModule",
        "in_channels, num_cl",
    ],
    "dataset=NoNumbers": ["makes a NoNumbers without num_classes, image_size, batch_size"],
    "dataset=NoTestLoader": ["makes a NoTestLoader without test_dataloader"],
    "dataset=a_function": ["makes a int, which is no hyplearn.data.base.DataModule"],
    "dataset=of_NoTest": ["dataset.source._target_=own_parts_of_mine.NoTest has no prepare, train, validation, test"],
    "+callbacks.own={a:3}": ["callbacks.own.a=3: give it a _target_, the class of a Lightning callback."],
    "+callbacks.own={a:{_target_:own_parts_of_mine.PlainLoss}}": [
        "callbacks.own.a._target_=",
        "not a pytorch_lightning",
    ],
    "optim.optimizer._target_=own_parts_of_mine.a_function": ["optim.optimizer"],
}


@pytest.mark.parametrize(("typed", "parts"), MISTAKES.items(), ids=MISTAKES)
def test_what_lacks_something_is_refused_before_there_is_a_run(
    typed: str, parts: list[str], train: Any, tmp_path: Path
) -> None:
    narrow = ["model.width=4"] if "model=" not in typed else []
    result = train(*typed.split(), *narrow)
    assert result.status == 2, result.err
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    for part in parts:
        assert part in result.err
    assert not (tmp_path / "run").exists()


def test_readings_are_those_that_a_model_can_give(train: Any, tmp_path: Path) -> None:
    assert train("model=PlainNet", "dataset.limit_train=60").status == 0
    header = (tmp_path / "run" / "metrics.csv").read_text().splitlines()[0]
    assert "val/top1" in header
    assert "radius" not in header
    assert "curvature/" not in header


def test_a_callback_of_ones_own_adds_to_the_record_and_goes_on_after_a_resume(
    train: Any, command: Command, tmp_path: Path
) -> None:
    own = "+callbacks.own={counting:{_target_:own_parts_of_mine.Counting,start:100}}"
    assert train("model=PlainNet", "dataset.limit_train=64", "dataset.batch_size=16", own).status == 0
    assert command("train", "resume=run", "--trust", "own_parts_of_mine", "trainer.max_epochs=2").status == 0
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").read_text().splitlines()))
    assert [float(row["own/batches"]) for row in rows] == [104, 108]


def test_a_plain_classifier_is_tested_again_and_predicts(train: Any, command: Command, tmp_path: Path) -> None:
    from hyplearn.inference.open import open_trained

    assert train("model=PlainNet", "dataset.limit_train=60").status == 0
    assert command("evaluate", "run", "--trust", "own_parts_of_mine").status == 0
    opened = open_trained(tmp_path / "run", device="cpu", trust=["own_parts_of_mine"])
    outputs = opened.model(torch.zeros(2, 8, 8, 1, dtype=torch.uint8))
    assert outputs.logits is not None
    assert torch.equal(outputs.points[0], outputs.logits)  # its embedding is its logits


def test_commands_on_single_images_say_that_loaders_have_none(train: Any, command: Command) -> None:
    assert train("model=PlainNet", "dataset=OwnData").status == 0
    result = command("export", "run", "--trust", "own_parts_of_mine")
    assert result.status == 2
    assert "a OwnData has loaders alone" in result.err

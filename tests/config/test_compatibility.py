"""Each combination that cannot work stops with what clashes, the values and the way out, before data are read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hyplearn.config import build
from hyplearn.config import compatibility as check
from hyplearn.config.compatibility import checked_specification
from hyplearn.config.compose import Composed, compose
from hyplearn.data.sources.datasets import Digits
from hyplearn.errors import ConfigError
from hyplearn.training.settings import TrainerSettings
from tests.support.commands import SMALL

NARROW = "model.width=4"

CLASHES = {
    "optim=sgd": ["SGD cannot train", "optim=sgd, model=hecnn_r18", "optim=rsgd, radam or radamw"],
    "optim=adamw manifold=lorentz_fixed": ["AdamW cannot train", "points on", "optim=rsgd, radam or radamw"],
    "optim=adamw model=hybrid_lorentz_r18 manifold=lorentz": [
        "AdamW cannot train the curvature",
        "manifold.learned=false",
    ],
    "model=euclidean_r18 manifold.c=0.5": ["manifold.c would be ignored", "model=euclidean_r18", "hyperbolic model"],
    "model=euclidean_r18 manifold=lorentz": ["manifold=lorentz would be ignored", "model=euclidean_r18 is Euclidean"],
    "manifold=euclidean": ["manifold=euclidean", "needs manifold=lorentz"],
    "manifold=poincare": ["manifold=poincare", "needs manifold=lorentz"],
    "model=hybrid_poincare_r18 manifold=lorentz": ["manifold=lorentz", "needs manifold=poincare"],
    "dataset=synthetic dataset.source.image_size=4": ["image_size", "4", "8"],
    "dataset.batch_size=1": ["batch_size", "1", "2"],
    "dataset.batch_size=3 trainer.devices=2 trainer.accelerator=cpu": [
        "dataset.batch_size=3 on 2 devices",
        "model=hecnn_r18",
        "dataset.batch_size=4",
    ],
    "manifold.c=-1": ["c=-1.0", "bounds"],
    "manifold.c=30": ["c=30.0", "20"],
    "model.depth=19": ["depth=19", "18, 50"],
    "model.norm.dispersion=mean": ["model.norm.dispersion=mean: expected one of", "rms"],
    "optim.lr=-1": ["lr=-1.0"],
    "optim.scales={backbone:2.0}": ["optim.scales={'backbone': 2.0}", "retrieval", "leave it out"],
    "evaluation.k=[1,2]": ["evaluation", "ignored by a classifier", "leave it out"],
    "batch.chunk=4": ["batch.chunk=4", "retrieval"],
    "callbacks.monitor=val/recall@1": ["callbacks.monitor='val/recall@1'", "val/top1", "classifier"],
    "optim.optimizer.momentum=-1": ["optim.optimizer: ", "momentum"],
    "optim.schedule.gamma=2": ["schedule.gamma=2", "(0, 1]"],
    "optim.schedule={name:cosinus}": ["cosinus", "cosine"],
    "loss.label_smoothing=1": ["loss: label_smoothing=1", "[0, 1)"],
    "dataset.val_fraction=1": ["dataset: val_fraction", "[0, 1)"],
    "dataset=cifar10 dataset.mean=[0.5,0.5] dataset.std=[0.5,0.5]": ["dataset: ", "2", "3 channels"],
    "dataset=image_folder dataset.root=/nowhere": ["dataset: ", "/nowhere", "train"],
    "dataset=synthetic dataset.source.num_classes=3 callbacks.monitor=val/top5": ["val/top5", "val/top1"],
}


@pytest.mark.parametrize(("overrides", "parts"), CLASHES.items(), ids=CLASHES)
def test_what_cannot_work_together(
    overrides: str, parts: list[str], command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Digits, "train", lambda *arguments: pytest.fail("data were read"))
    result = command("train", NARROW, *overrides.split())
    assert result.status == 2
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    for part in parts:
        assert part in result.err
    assert not list(tmp_path.iterdir())


WORKING = [
    "optim=radamw",
    "optim=sgd model=euclidean_r18",
    "optim=adamw model=hybrid_lorentz_r18",
    "optim=rsgd model=euclidean_r18",
    "optim.schedule={name:cosine,warmup:0.1}",
    "dataset=cifar100",
    "dataset=tiny_imagenet manifold.share=per_stage",
    "trainer=debug",
]


@pytest.mark.parametrize("overrides", WORKING)
def test_what_works_passes(overrides: str) -> None:
    checked_specification(compose([NARROW, *overrides.split()]))


def composed(**config: object) -> Composed:
    defaults = compose([])
    return Composed({**defaults.config, **config}, {**defaults.choices}, defaults.typed)


def test_a_retrieval_loss_is_refused_to_a_classifier() -> None:
    pairwise = composed(loss={"_target_": "hyplearn.losses.PairwiseCrossEntropy"})
    with pytest.raises(ConfigError, match="is computed from embeddings, but a classifier gives logits: use loss=cross"):
        check.check_loss(pairwise, "logits")
    with pytest.raises(
        ConfigError, match="is computed from logits, but a retrieval model gives embeddings: use loss=p"
    ):
        check.check_loss(composed(), "embeddings")


def test_one_channel_does_not_go_into_a_pretrained_stem() -> None:
    pretrained = composed(model={"pretrained": True, "small": None})
    grey, colour = ({"in_channels": channels, "image_size": 224} for channels in (1, 3))
    with pytest.raises(ConfigError, match=r"model.pretrained=True .* dataset=digits has 1: set dataset.channels=3"):
        check.check_pretrained(pretrained, grey)
    check.check_pretrained(pretrained, colour)
    check.check_pretrained(composed(), grey)


def test_gpus_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(
        ConfigError, match=r"trainer.accelerator=gpu, but torch sees no GPU: use trainer.accelerator=cpu"
    ):
        check.check_hardware(TrainerSettings(accelerator="gpu"))
    check.check_hardware(TrainerSettings(accelerator="auto"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match=r"trainer.devices=3, but torch sees 2: use trainer.devices=auto"):
        check.check_hardware(TrainerSettings(accelerator="gpu", devices=3))
    check.check_hardware(TrainerSettings(accelerator="gpu", devices=2, precision="fp16"))
    assert check.device_count(TrainerSettings(devices="auto")) == 2
    assert check.device_count(TrainerSettings(devices="auto", accelerator="cpu")) == 1


def test_a_run_makes_its_model_once(command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    build_model = build.model
    monkeypatch.setattr(build, "model", lambda *given: made.append("model") or build_model(*given))
    line = [NARROW, "dataset.limit_train=20", "trainer.max_epochs=1", "output_dir=run", *SMALL]
    assert command("train", *line).status == 0
    assert made == ["model"]


def test_the_model_that_was_checked_is_the_one_that_a_run_would_make() -> None:
    spec = checked_specification(compose([NARROW, "trainer.num_threads=1"]))
    assert spec.module is not None
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    fresh = spec.build_module().state_dict()
    torch.set_num_threads(threads)
    kept = spec.module.state_dict()
    assert fresh.keys() == kept.keys()
    assert all(torch.equal(fresh[name], kept[name]) for name in fresh)

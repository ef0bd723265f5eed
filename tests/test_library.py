"""Models and losses by name, in a program of one's own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import hyplearn
from hyplearn.errors import ConfigError
from hyplearn.losses.base import EmbeddingLoss
from hyplearn.manifolds import Lorentz, PoincareBall, Sphere

SMALL = ["backbone=vit_small_images"]


def test_import_and_list_need_no_torch() -> None:
    code = "import sys, hyplearn; print(hyplearn.list_models('*vit*')); print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert answer.stdout.splitlines()[-1] == "False", answer.stderr
    assert "hyp_vit_s" in answer.stdout
    assert "hecnn_r18" not in answer.stdout


def test_public_names_exist_and_are_listed() -> None:
    assert all(getattr(hyplearn, name) is not None for name in hyplearn.__all__)
    assert set(hyplearn.__all__) <= set(dir(hyplearn))
    with pytest.raises(AttributeError, match="create_modle"):
        hyplearn.create_modle  # noqa: B018


def test_a_classifier_by_name() -> None:
    model = hyplearn.create_model("hecnn_r18", num_classes=10, width=8)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_settings_and_overrides_reach_the_model() -> None:
    model = hyplearn.create_model("hcnn_r18", num_classes=3, width=8, overrides=["manifold.c=0.5"])
    assert {round(m.c.item(), 4) for m in model.manifolds().values()} == {0.5}
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 3)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: hyplearn.create_model("hecnn_r81", num_classes=3), "Did you mean hecnn_r18"),
        (lambda: hyplearn.create_model("hecnn_r18"), "num_classes is missing"),
        (lambda: hyplearn.create_model("hecnn_r18", num_classes=0), "num_classes=0"),
        (lambda: hyplearn.create_model("hecnn_r18", num_classes=3, widht=8), "widht"),
        (lambda: hyplearn.create_loss("triplets"), "Did you mean triplet"),
        (lambda: hyplearn.create_loss("triplet", miner="none"), "miner"),
        (lambda: hyplearn.load("no_such_run"), "does not exist"),
    ],
)
def test_mistakes_are_told(call: object, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        call()  # type: ignore[operator]


def test_every_loss_takes_embeddings_and_labels() -> None:
    labels = torch.arange(24) % 6
    names = [name for name in hyplearn.list_losses() if name != "cross_entropy"]
    assert {"triplet", "arcface", "proxy_anchor"} <= set(names)
    for name in names:
        spaces = [Lorentz(learned=False)] if name == "lhier" else [PoincareBall(0.1, learned=False)]
        spaces = [Sphere(), *spaces] if name == "mix_convex" else spaces
        loss = hyplearn.create_loss(name, spaces, sizes=[5] * len(spaces), num_classes=6)
        assert isinstance(loss, EmbeddingLoss)
        leaves = [(0.1 * torch.randn(24, 5)).requires_grad_() for _ in spaces]
        pairs = zip(spaces, leaves, strict=True)
        points = [s.projx(x) if isinstance(s, Sphere) else s.expmap0(x) for s, x in pairs]
        value = loss(points[0] if len(points) == 1 else points, labels)
        gradients = torch.autograd.grad(value, leaves)
        assert value.isfinite(), name
        assert all(g.isfinite().all() and g.abs().sum() > 0 for g in gradients), name


def test_a_loss_takes_the_spaces_of_the_model_and_none_of_its_parameters() -> None:
    model = hyplearn.create_model("hyp_vit_s", image_size=32, overrides=SMALL)
    loss = hyplearn.create_loss("multi_similarity", model, similarity="geometry")
    points, labels = model(torch.randn(8, 3, 32, 32)), torch.arange(8) % 4
    assert torch.equal(loss(points, labels), loss(points, labels, list(model.spaces)))
    assert not list(loss.parameters())


def test_a_loss_without_spaces_says_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"within\(model\)"):
        hyplearn.create_loss("contrastive")(torch.randn(4, 3), torch.arange(4) % 2)
    with pytest.raises(ConfigError, match="num_classes"):
        hyplearn.create_loss("arcface", Sphere(), sizes=3)


def test_a_model_comes_back_from_a_folder_of_the_hub_s_form(tmp_path: Path) -> None:
    model = hyplearn.HubModel("hecnn_r18", num_classes=4, overrides=["model.width=8"]).eval()
    model.save_pretrained(tmp_path)
    again = hyplearn.load(tmp_path)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(x), again.eval()(x))


@pytest.mark.parametrize("override", ["model._target_=os.system", "trainer=gpu", "model.width=${oc.env:HOME}"])
def test_a_stranger_s_configuration_names_no_class(tmp_path: Path, override: str) -> None:
    hyplearn.HubModel("hecnn_r18", num_classes=4, overrides=["model.width=8"]).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    noted = json.loads(file.read_text())
    file.write_text(json.dumps({**noted, "overrides": [override]}))
    with pytest.raises(ConfigError, match="overrides"):
        hyplearn.load(tmp_path)


def test_a_run_is_loaded(classifier_run: Path) -> None:
    trained = hyplearn.load(classifier_run, device="cpu")
    assert trained.model is not None

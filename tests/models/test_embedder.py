"""The embedder as its configurations build it: shapes, precision, groups of parameters, state dict, learning."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from hyplearn.config import build
from hyplearn.config.compose import compose
from hyplearn.config.folders import config_dir, groups
from hyplearn.manifolds import CurvatureParameter, Manifolds
from hyplearn.models.embedder import Embedder
from hyplearn.models.necks import Branch, LorentzNeck, Neck
from hyplearn.models.small import SmallViT
from hyplearn.nn.space import distances
from hyplearn.optim import parameter_groups
from tests.support.configured_models import RETRIEVAL
from tests.support.gradients import finite_or_refused

BACKBONES = groups([config_dir()])["backbone"]
SPACES = {
    "sph": ["sphere"],
    "hyp": ["poincare"],
    "mix": ["sphere", "poincare"],
    "hier": ["poincare"],
    "lhier": ["lorentz"],
}
LOSSES = {"sph": "pairwise", "hyp": "pairwise", "mix": "pairwise", "hier": "hier", "lhier": "lhier"}
MANIFOLDS = {"sphere": "sphere", "poincare": "poincare_embedding", "lorentz": "lorentz_embedding"}


@functools.cache
def _config(overrides: tuple[str, ...]) -> dict[str, Any]:
    return compose(list(overrides)).config


def embedder(*overrides: str, size: int = 8, channels: int = 1) -> Embedder:
    """A model of the configuration, for images of `size` pixels; the same weights every time."""
    torch.manual_seed(0)
    config = _config(overrides)
    target = build.make(config["model"], "model", manifold=build.make(config["manifold"], "manifold"),
                        in_channels=channels, image_size=size)  # fmt: skip
    assert isinstance(target, Embedder)
    return target


def images(size: int = 8, channels: int = 1, count: int = 6) -> Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(0))


def spread(model: Embedder, points: tuple[Tensor, ...]) -> Tensor:
    """The sum of all distances, a loss that moves every part."""
    spaces = list(model.spaces)
    return sum((d * s.weight).sum() for d, s in zip(distances(points, points, spaces), spaces, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", RETRIEVAL)
def test_half_weights_are_refused_and_empty_batches_are_not(name: str, dtype: torch.dtype) -> None:
    model = embedder(f"model={name}")
    assert [x.shape for x in model(images(count=0))] == [(0, n) for n in model.sizes]
    finite_or_refused(model.to(dtype), images().to(dtype))


@pytest.mark.parametrize("name", RETRIEVAL)
def test_every_model_composes_with_what_belongs_to_it(name: str) -> None:
    kind, _, backbone = name.partition("_")
    choices = compose([f"model={name}"]).choices
    assert choices["backbone"] == backbone
    assert choices["manifold"] == MANIFOLDS[SPACES[kind][-1]]
    assert choices["loss"] == LOSSES[kind]
    assert choices["optim"] == ("radamw_hier" if "hier" in name else "radamw_retrieval")
    assert choices["dataset"] == "digits_retrieval"


@pytest.mark.parametrize("name", RETRIEVAL)
@pytest.mark.parametrize(("size", "channels"), [(8, 1), (32, 3)])
def test_every_model_embeds_small_images(name: str, size: int, channels: int) -> None:
    model = embedder(f"model={name}", size=size, channels=channels)
    points = model(images(size, channels))
    kind, _, backbone = name.partition("_")
    assert [space.name for space in model.spaces] == SPACES[kind]
    assert model.sizes == (512 if backbone == "r50" else 128,) * len(points)
    assert [x.shape for x in points] == [(6, n) for n in model.sizes]
    assert all(x.dtype == torch.float32 for x in points)
    for x, space in zip(points, model.spaces, strict=True):
        assert space.manifold.check_point_on_manifold(x)
    assert list(model.manifolds()) == [name for name in SPACES[kind] if name != "sphere"]
    assert model.features(images(size, channels)).shape == (6, model.feature_size)
    spread(model, points).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.head.parameters() if p.requires_grad)
    assert any(p.grad.abs().max() > 0 for p in model.backbone.parameters() if p.grad is not None)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_goes_with_a_model_that_chose_another(backbone: str) -> None:
    overrides = ("model=hyp_vit_s", f"backbone={backbone}", "manifold.c=1", "model.head.size=5")
    assert compose(list(overrides)).choices["backbone"] == backbone
    (x,) = embedder(*overrides)(images())
    assert x.shape == (6, 5)


def test_one_model_of_full_size() -> None:
    model = embedder("model=mix_vit_s", "model.pretrained=false", size=224, channels=3)
    assert model.feature_size == 384
    assert [x.shape for x in model.eval()(images(224, 3, count=1))] == [(1, 128), (1, 128)]
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {f"backbone.network.patch_embed.proj.{part}" for part in ("weight", "bias")}
    assert sum(p.numel() for p in model.parameters()) == 21_665_664 + 384 * 128 + 128


def test_resnet_features_are_average_plus_maximum() -> None:
    model = embedder("model=hier_r50", "model.pretrained=false", "model.freeze_norm=true", size=64, channels=3)
    x = model.backbone.network.forward_features(images(64, 3, count=2))
    assert model.feature_size == 2048
    assert_close(model.features(images(64, 3, count=2)), x.mean((2, 3)) + x.amax((2, 3)))
    assert not model.train().backbone.network.bn1.training


def test_images_too_small_without_a_stand_in() -> None:
    with pytest.raises(Exception, match=r"image_size=8 is too small for backbone=.*dataset\.image_size=224"):
        embedder("model=hyp_vit_s", "model.small=null")


def test_a_branch_is_left_out_or_weighted_from_the_command_line() -> None:
    model = embedder("model=mix_vit_s", "model.head.branches.sphere=null", "model.head.branches.poincare.weight=8")
    assert [(space.name, space.weight.item()) for space in model.spaces] == [("poincare", pytest.approx(8))]
    assert [s.weight.item() for s in embedder("model=mix_vit_s").spaces] == [1, pytest.approx(3)]


@pytest.mark.parametrize("name", ["hyp_vit_s", "mix_vit_s", "hier_vit_s", "lhier_vit_s"])
def test_curvature_is_learned_where_asked(name: str) -> None:
    model = embedder(f"model={name}", "manifold.learned=true", "manifold.c=0.5")
    x = model(images())
    spread(model, x).backward()
    (curvature,) = {p for p in model.parameters() if isinstance(p, CurvatureParameter)}
    assert curvature.grad is not None and curvature.grad.abs() > 0
    (manifold,) = model.manifolds().values()
    assert manifold.c.item() == 0.5
    assert not any(isinstance(p, CurvatureParameter) for part in model.rate_groups().values() for p in part)
    fixed = embedder(f"model={name}", "manifold.learned=false")
    assert not any(isinstance(p, CurvatureParameter) for p in fixed.parameters())


def test_groups_cover_all_that_is_trained_once() -> None:
    model = embedder("model=lhier_vit_s", "model.pretrained=false", size=64, channels=3)
    parts = model.rate_groups()
    ids = [id(p) for part in parts.values() for p in part]
    assert len(ids) == len(set(ids))
    trained = {id(p) for p in model.parameters() if p.requires_grad and not isinstance(p, CurvatureParameter)}
    assert set(ids) == trained
    assert {id(p) for p in parts["neck"]} <= {id(p) for p in model.head.parameters()}
    extra = {name: {"params": params, "lr": rate} for (name, params), rate in zip(parts.items(), (1, 2), strict=True)}
    made = parameter_groups(model, lr=0.1, extra_groups=extra)
    assert [(group["name"], group["lr"]) for group in made] == [("backbone", 1), ("neck", 2), ("curvature", 1e-4)]


@pytest.mark.parametrize("name", ["mix_vit_s", "lhier_r50"])
def test_state_dict_round_trip(name: str) -> None:
    first = embedder(f"model={name}", "manifold.learned=true")
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.mul_(1.1)
    second = embedder(f"model={name}", "manifold.learned=true")
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for x, y in zip(first.eval()(images()), second.eval()(images()), strict=True):
        assert torch.equal(x, y)
    assert second.spaces[-1].c == pytest.approx(first.spaces[-1].c)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["mix_vit_s", "hier_vit_s", "lhier_vit_s"])
def test_points_in_full_precision_under_autocast(name: str, dtype: torch.dtype) -> None:
    model = embedder(f"model={name}").eval()
    with torch.autocast("cpu", dtype):
        features = model.features(images())
        points = model.points(features)
    assert all(x.dtype == torch.float32 for x in points)
    for x, exact in zip(points, model.points(features.float()), strict=True):
        assert torch.equal(x, exact)


def test_mix_learns_its_weight() -> None:
    branches = {"s": Branch("sphere"), "p": Branch("poincare", weight=3.0, learned=True)}
    ball = Manifolds("poincare", c=0.1, learned=False)
    neck = Neck(size=4, branches=branches, clip=2.3)
    model = Embedder(backbone=None, small=SmallViT(12, 1), head=neck, manifold=ball, in_channels=1, image_size=8)
    spread(model, model(images())).backward()
    (weight,) = (p for p in model.rate_groups()["neck"] if p is model.spaces[1].log_weight)
    assert weight.grad is not None and weight.grad != 0


@pytest.mark.parametrize("neck", [Neck(size=8, branches={"a": Branch("poincare")}, clip=2.3), LorentzNeck(size=8)])
def test_learns_to_tell_light_from_dark(neck: Neck | LorentzNeck) -> None:
    family = Manifolds("poincare", c=0.1, learned=False) if isinstance(neck, Neck) else Manifolds("lorentz")
    model = Embedder(backbone=None, small=SmallViT(12, 1), head=neck, manifold=family, in_channels=1, image_size=8)
    batch = torch.randn(16, 1, 8, 8) + torch.tensor([0.2, -0.2]).repeat_interleave(8).view(16, 1, 1, 1)
    same = torch.block_diag(torch.ones(8, 8), torch.ones(8, 8)).bool()
    rule, ratios = torch.optim.AdamW(model.parameters(), lr=3e-3), []
    for _ in range(40):
        points = model(batch)
        (d,) = distances(points, points, list(model.spaces))
        loss = d[same].mean() + torch.relu(4 - d[~same]).mean()
        rule.zero_grad()
        loss.backward()
        rule.step()
        ratios.append((d[same].mean() / d[~same].mean()).item())
    assert ratios[0] > 0.6
    assert ratios[-1] < 0.3, ratios

"""Backbones: read-outs by definition, frozen parts, weights from files, names, and what stands in on small images."""

from __future__ import annotations

import logging
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn
from torch.testing import assert_close

from hyplearn.models import backbone as module
from hyplearn.models import weights as weights_module
from hyplearn.models.backbone import Backbone, build_backbone, data_config
from hyplearn.models.small import SmallConvNet, SmallViT
from hyplearn.models.weights import load_weights

VIT, DEIT = "vit_tiny_patch16_224.augreg_in21k_ft_in1k", "deit_tiny_distilled_patch16_224.fb_in1k"
RESNET = "resnet10t.c3_in1k"


def build(name: str | None, **options: Any) -> Backbone:
    """For images of 64 pixels from random weights, unless said otherwise."""
    given = {"pretrained": False, "weights": None, "in_channels": 3, "image_size": 64, "small": None, **options}
    return build_backbone(name, **given)


def images(size: int = 64, channels: int = 3, count: int = 2) -> Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(0))


# Read-outs


@pytest.mark.parametrize("name", [VIT, DEIT, RESNET])
def test_the_default_is_what_timm_gives(name: str) -> None:
    backbone = build(name).eval()
    features = backbone(images())
    assert features.shape == (2, backbone.feature_size)
    assert_close(features, backbone.network(images()))


@pytest.mark.parametrize(
    ("pool", "over"),
    [("avg", lambda x: x.mean(0)), ("max", lambda x: x.max(0)[0]), ("avg_max", lambda x: x.mean(0) + x.max(0)[0])],
)
@pytest.mark.parametrize("name", [DEIT, RESNET])
def test_pools_over_positions(name: str, pool: str, over: Callable[[Tensor], Tensor]) -> None:
    backbone = build(name, pool=pool).eval()
    x = backbone.network.forward_features(images())
    for features, example in zip(backbone(images()), x, strict=True):
        rows = (
            example[2:] if example.dim() == 2 else torch.stack([p for line in example.permute(1, 2, 0) for p in line])
        )
        assert len(rows) == (16 if name == DEIT else 4)
        assert_close(features, over(rows))


def test_tokens_of_deit() -> None:
    default, token, reference = (build(DEIT, pool=pool).eval() for pool in ("default", "class_token", "reference"))
    for backbone in (token, reference):
        backbone.load_state_dict(default.state_dict())
    x = default.network.forward_features(images())
    mean, first = (x[:, 0] + x[:, 1]) / 2, x[:, 0]
    assert not torch.allclose(mean, first, rtol=1e-2)
    assert_close(default(images()), mean)
    assert_close(token(images()), first)
    assert_close(reference(images()), mean)
    assert_close(reference.train()(images()), first)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (VIT, {"pool": "tokens"}, r"pool='tokens' must be one of"),
        (VIT, {"pool": "reference"}, "needs a distilled DeiT"),
        (RESNET, {"pool": "class_token"}, "ResNet has no class token"),
        (RESNET, {"frozen": "patch_embed"}, "frozen=patch_embed: ResNet has no patch embedding"),
        (VIT, {"frozen": 13}, r"frozen=13 must be in \[0, 12\]"),
        (VIT, {"frozen": -1}, "frozen=-1 must be in"),
        (VIT, {"frozen": "patch"}, r"frozen='patch' must be one of 'none', 'patch_embed'"),
        (VIT, {"freeze_norm": True}, "VisionTransformer has no batch norm"),
        (VIT, {"drop_rate": 1.0}, r"drop_rate=1.0 must be in \[0, 1\)"),
        (VIT, {"image_size": 72}, "image_size=72 must be a multiple of the 16 pixels"),
        (VIT, {"in_channels": 0}, "in_channels=0"),
        ("inception_v3.tv_in1k", {"drop_path_rate": 0.1}, "does not take drop_path_rate=0.1"),
    ],
)
def test_options_that_do_not_fit(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(name, **options)


def test_drop_rates() -> None:
    backbone = build(RESNET, drop_rate=0.5)
    assert 0.3 < (backbone(images()) == 0).float().mean() < 0.7
    paths = [part for part in build(VIT, drop_path_rate=0.2).modules() if "DropPath" in type(part).__name__]
    assert max(part.drop_prob for part in paths) == pytest.approx(0.2)


# What stays as it is


def moved(backbone: Backbone) -> set[str]:
    """Names of the parameters that a step of plain gradient descent changes."""
    before = {name: p.detach().clone() for name, p in backbone.named_parameters()}
    rule = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=1.0)
    backbone(images()).square().sum().backward()
    rule.step()
    return {name for name, p in backbone.named_parameters() if not torch.equal(p, before[name])}


@pytest.mark.parametrize(("frozen", "blocks"), [("none", None), ("patch_embed", 0), (0, 0), (2, 2)])
def test_frozen_parts_do_not_move(frozen: str | int, blocks: int | None) -> None:
    backbone = build(VIT, frozen=frozen)
    names = {name for name, _ in backbone.named_parameters()}
    still = () if blocks is None else ("network.patch_embed.", *(f"network.blocks.{i}." for i in range(blocks)))
    stays = {name for name in names if name.startswith(still)} if still else set()
    assert moved(backbone) == names - stays
    assert {"network.cls_token", "network.pos_embed"} <= names - stays


def test_frozen_batch_norm_survives_train() -> None:
    backbone = build(RESNET, freeze_norm=True)
    model = nn.Sequential(backbone).train()
    norms = {n: b.clone() for n, b in backbone.named_buffers() if n.endswith(("running_mean", "running_var"))}
    assert len(norms) > 10
    model(images())
    assert all(torch.equal(b, norms[n]) for n, b in backbone.named_buffers() if n in norms)
    assert backbone.training
    assert "network.bn1.weight" in moved(backbone)
    free = build(RESNET)
    assert free.network.bn1.training
    free(images())
    assert not torch.equal(free.network.bn1.running_mean, norms["network.bn1.running_mean"])


# Names


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet50", r"resnet50 has several sets of weights: choose one of .*resnet50\.tv_in1k"),
        ("vit_small_patch16_224", r"augreg_in21k_ft_in1k, vit_small_patch16_224\.dino"),
        ("resnet50.tv_in1", r"is no tag of this model: choose one of .*resnet50\.tv_in1k"),
        ("resnett50", "no model of timm; did you mean .*resnet50"),
    ],
)
def test_names_without_one_meaning(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data_config(name)


def test_a_network_without_weights_reads_pixels_from_minus_1_to_1() -> None:
    assert (data_config(None)["mean"], data_config(None)["std"]) == ((0.5,), (0.5,))


def test_data_config_is_that_of_the_weights() -> None:
    vit = data_config("vit_small_patch16_224.augreg_in21k_ft_in1k")
    assert (vit["mean"], vit["std"]) == ((0.5,) * 3, (0.5,) * 3)
    assert (vit["interpolation"], vit["crop_pct"], vit["input_size"]) == ("bicubic", 0.9, (3, 224, 224))
    resnet = data_config("resnet50.tv_in1k")
    assert (resnet["mean"], resnet["interpolation"]) == ((0.485, 0.456, 0.406), "bilinear")
    assert data_config("tf_efficientnet_lite0")["input_size"] == (3, 224, 224)  # one set of weights: no doubt


# Weights


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("name", [VIT, DEIT, RESNET])
def test_weights_of_a_file_with_a_classifier(name: str, suffix: str, tmp_path: Path) -> None:
    whole = timm.create_model(name, num_classes=7, **({} if name == RESNET else {"img_size": 64}))
    with torch.no_grad():
        for parameter in whole.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    file = tmp_path / f"weights.{suffix}"
    if suffix == "pth":
        torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in whole.state_dict().items()}}, file)
    else:
        save_file(whole.state_dict(), file)
    backbone = build(name, weights=str(file), pretrained=True).eval()
    assert_close(backbone(images()), whole.eval().forward_head(whole.forward_features(images()), pre_logits=True))


def test_weights_of_a_backbone_within_a_checkpoint(tmp_path: Path) -> None:
    first, second = build(RESNET).eval(), build(RESNET).eval()
    state = {f"model.backbone.{name}": value for name, value in first.state_dict().items()}
    torch.save({"state_dict": {**state, "model.head.linear.weight": torch.zeros(3, 3)}}, tmp_path / "last.pt")
    second = build(RESNET, weights=str(tmp_path / "last.pt")).eval()
    assert_close(second(images()), first(images()))


def test_position_embeddings_of_another_size_are_resampled(tmp_path: Path) -> None:
    whole = timm.create_model(VIT, num_classes=0, img_size=64)
    torch.save(whole.state_dict(), tmp_path / "w.pth")
    backbone = build(VIT, image_size=96, weights=str(tmp_path / "w.pth"))
    assert backbone.network.pos_embed.shape == (1, 1 + 36, 192)
    assert_close(backbone.network.pos_embed[:, :1], whole.pos_embed[:, :1])
    assert backbone(images(96)).shape == (2, 192)


class RanError(Exception):
    """Raised by code in a pickle."""


class Bomb:
    def __reduce__(self) -> Any:
        return _explode, ()


def _explode() -> None:
    raise RanError


def small_network() -> nn.Module:
    return ResNet(BasicBlock, layers=(1,) * 4, in_chans=1, num_classes=0, channels=(8, 16, 32, 64))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: state.pop("layer1.0.bn1.bias"),
            r"lacks layer1\.0\.bn1\.bias: it belongs to another architecture",
        ),
        (lambda state: [state.pop(name) for name in list(state) if "bn1." in name], "lacks .*, .* and 16 more"),
        (lambda state: state.update({"extra.weight": torch.zeros(2)}), r"has also extra\.weight"),
        (lambda state: state.update({"bn1.bias": torch.zeros(3)}), r"bn1\.bias of shape \(3,\) must be \(64,\)"),
        (lambda state: state.update({"bn1.bias": Bomb()}), "cannot be read as weights"),
        (lambda state: state.clear(), "holds no state dict"),
    ],
)
def test_state_dicts_that_do_not_fit(change: Callable[[dict[str, Any]], object], message: str, tmp_path: Path) -> None:
    state: dict[str, Any] = dict(small_network().state_dict())
    change(state)
    torch.save({"state_dict": state}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=message):
        load_weights(small_network(), str(tmp_path / "w.pth"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.pth", None, "there is no such file"),
        ("w.h5", b"", r"must end in one of \.safetensors"),
        ("w.safetensors", b"nothing of the kind", "cannot be read as weights"),
        ("w.pth", b"nothing of the kind", "cannot be read as weights"),
        ("w.npz", b"nothing of the kind", r"ResNet has no \.npz format"),
    ],
)
def test_files_that_are_no_weights(name: str, content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_weights(small_network(), str(tmp_path / name))


def npz_of(network: Any) -> dict[str, Any]:
    """The weights of a ViT of one head in the layout of the JAX checkpoints: kernels transposed, q, k and v apart."""
    state = {name: value.numpy() for name, value in network.state_dict().items()}
    width = network.embed_dim
    made = {
        "embedding/kernel": state["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
        "cls": state["cls_token"],
        "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
    }
    for number in range(len(network.blocks)):
        block, ours = f"Transformer/encoderblock_{number}", f"blocks.{number}"
        attention = f"{block}/MultiHeadDotProductAttention_1"
        for part, name in enumerate(("query", "key", "value")):
            rows = slice(part * width, (part + 1) * width)
            made[f"{attention}/{name}/kernel"] = state[f"{ours}.attn.qkv.weight"][rows].T.reshape(width, 1, width)
            made[f"{attention}/{name}/bias"] = state[f"{ours}.attn.qkv.bias"][rows].reshape(1, width)
        made[f"{attention}/out/kernel"] = state[f"{ours}.attn.proj.weight"].T.reshape(1, width, width)
        made[f"{attention}/out/bias"] = state[f"{ours}.attn.proj.bias"]
        for theirs, name in (("MlpBlock_3/Dense_0", "mlp.fc1"), ("MlpBlock_3/Dense_1", "mlp.fc2")):
            made[f"{block}/{theirs}/kernel"] = state[f"{ours}.{name}.weight"].T
            made[f"{block}/{theirs}/bias"] = state[f"{ours}.{name}.bias"]
        for theirs, name in (("LayerNorm_0", "norm1"), ("LayerNorm_2", "norm2")):
            made[f"{block}/{theirs}/scale"] = state[f"{ours}.{name}.weight"]
            made[f"{block}/{theirs}/bias"] = state[f"{ours}.{name}.bias"]
    return made


def test_npz_of_the_published_vits(tmp_path: Path) -> None:
    file, options = tmp_path / "w.npz", {"image_size": 8, "in_channels": 1}
    first = build(None, small=SmallViT(width=12, depth=2, heads=1), **options).eval()
    np.savez(file, **npz_of(first.network))
    second = build(None, small=SmallViT(width=12, depth=2, heads=1), weights=str(file), **options).eval()
    assert_close(second(images(8, 1)), first(images(8, 1)))
    for small, message in [
        (SmallViT(width=12, depth=1, heads=1), "has also Transformer/encoderblock_1/.*deeper architecture"),
        (SmallViT(width=12, depth=3, heads=1), r"no \.npz of this architecture"),
        (SmallViT(width=24, depth=2, heads=1), r"no \.npz of this architecture"),
    ]:
        with pytest.raises(ValueError, match=message):
            build(None, small=small, weights=str(file), **options)


def test_no_network_is_said_at_once_with_the_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(url: str, timeout: float) -> None:
        assert timeout <= 5
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(weights_module.urllib.request, "urlopen", refuse)
    monkeypatch.setattr(weights_module.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(weights_module, "try_to_load_from_cache", lambda *_, **__: None)
    with pytest.raises(ValueError, match="Name or service not known") as caught:
        build(RESNET, pretrained=True)
    assert "model.weights=<local file>" in str(caught.value)
    assert "model.pretrained=false" in str(caught.value)


def test_the_hub_offline_says_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def lost(*_: object, **__: object) -> None:
        raise FileNotFoundError("outgoing traffic is disabled")  # LocalEntryNotFoundError is one

    monkeypatch.setattr(weights_module.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(module.timm, "create_model", lost)
    with pytest.raises(ValueError, match=r"outgoing traffic is disabled.*model\.pretrained=false"):
        build(RESNET, pretrained=True)


def test_a_model_without_weights_has_none_to_load() -> None:
    with pytest.raises(ValueError, match=r"timm has no weights for dpn48b; set model\.pretrained=false"):
        build("dpn48b", pretrained=True)


# Small images


@pytest.mark.parametrize(
    ("size", "channels", "patches"), [(8, 1, 16), (16, 3, 16), (28, 1, 49), (32, 3, 64), (48, 3, 36)]
)
def test_a_small_vit_stands_in(size: int, channels: int, patches: int, caplog: pytest.LogCaptureFixture) -> None:
    module._warn_of_stand_in.cache_clear()
    options: dict[str, Any] = {"small": SmallViT(), "pretrained": True, "frozen": "patch_embed", "pool": "reference"}
    with caplog.at_level(logging.WARNING):
        backbones = [build(DEIT, image_size=size, in_channels=channels, **options) for _ in range(2)]
    assert len(caplog.records) == 1
    assert f"images of {size} pixels are too small for {DEIT}" in caplog.messages[0]
    backbone = backbones[0]
    assert backbone(images(size, channels)).shape == (2, 96)
    assert backbone.network.patch_embed.num_patches == patches
    assert all(parameter.requires_grad for parameter in backbone.parameters())


def test_a_small_vit_sees_where_its_patches_are() -> None:
    """The same patches in another order, against another image: to timm's 0.02 they are nearly the same."""
    first, other = images(8, 1, count=128).split(64)
    moved = first.roll((4, 4), dims=(2, 3))
    for std, low, high in ((0.02, 0, 0.03), (1.0, 0.1, 1)):
        network = build(None, small=SmallViT(position_std=std), image_size=8, in_channels=1).eval()
        far, near = ((network(x) - network(first)).norm(dim=1).mean() for x in (other, moved))
        assert low < near / far < high


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (28, 1), (32, 3)])
def test_small_convolutions_stand_in_for_a_resnet(size: int, channels: int) -> None:
    options: dict[str, Any] = {"small": SmallConvNet(width=8), "freeze_norm": True, "pool": "avg_max"}
    backbone = build("resnet50.tv_in1k", image_size=size, in_channels=channels, **options)
    assert not backbone.freeze_norm
    assert backbone(images(size, channels)).shape == (2, 32)


def test_a_network_for_small_images_alone_at_any_size(caplog: pytest.LogCaptureFixture) -> None:
    assert build(None, small=SmallViT(width=12, depth=1)).network.patch_embed.patch_size == (8, 8)
    assert not caplog.records


def test_weights_of_the_stand_in(tmp_path: Path) -> None:
    small = SmallViT(width=12, depth=1)
    first = build(VIT, image_size=8, small=small)
    torch.save(first.network.state_dict(), tmp_path / "w.pth")
    second = build(VIT, image_size=8, small=small, weights=str(tmp_path / "w.pth"))
    assert_close(second.eval()(images(8)), first.eval()(images(8)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: build(VIT, image_size=63), "image_size=63 is too small .* dataset.image_size=224, or model.small"),
        (lambda: build(None), "backbone=null and small=null"),
        (lambda: build(None, small=SmallViT(), image_size=9), "image_size=9 must be a multiple of the patch of 2"),
        (lambda: SmallViT(width=10), "small.width=10 must be a multiple of small.heads=3"),
        (lambda: SmallViT(patch=0), "small.patch=0"),
        (lambda: SmallViT(position_std=0.0), "small.position_std=0.0"),
        (lambda: SmallConvNet(width=0), "small.width=0"),
    ],
)
def test_small_images_that_do_not_fit(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(("size", "side"), [(8, 8), (16, 8), (28, 7), (32, 8)])
def test_the_small_convolutions_read_out_every_position(size: int, side: int) -> None:
    network = SmallConvNet(width=4).build(in_channels=1, image_size=size, drop_path_rate=0)
    x = network.forward_features(torch.randn(2, 1, size, size))
    assert x.shape == (2, 16, side, side)
    expected = torch.stack([x[:, :, i, j] for i in range(side) for j in range(side)])
    assert_close(network.forward_head(x), expected.mean(0) + expected.amax(0))
    with pytest.raises(ValueError, match=r"drop_path_rate=0.1: SmallConvNet has no paths"):
        SmallConvNet().build(in_channels=1, image_size=8, drop_path_rate=0.1)

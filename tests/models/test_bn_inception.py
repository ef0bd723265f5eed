"""BN-Inception against two public codes: names, shapes, outputs for seeded weights, and what its file holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from hyplearn.models.backbone import build_backbone, data_config
from hyplearn.models.bn_inception import BLOCKS, FIRST, BNInception, bn_inception
from hyplearn.models.weights import load_weights
from tests.support.oracles import FOLDER

PUBLISHED: dict[str, Any] = json.loads((FOLDER / "bninception.json").read_text())


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    """The seeded state dict in the published file's names, with its classifier and batch-norm tensors (1, n)."""
    random, state = np.random.RandomState(1502), {}
    for name, size in PUBLISHED["state_dict"].items():
        shape = tuple(size)
        if name.endswith("running_var"):
            values = random.uniform(0.5, 1.5, shape)
        elif name.endswith("_bn.weight"):
            values = random.uniform(0.8, 1.2, shape)
        elif len(shape) == 4:
            values = random.randn(*shape) * np.sqrt(2 / np.prod(shape[1:]))
        else:
            values = random.randn(*shape) * (0.03 if len(shape) == 2 else 0.1)
        tensor = torch.from_numpy(values.astype(np.float32))
        state[name] = tensor[None] if "_bn." in name else tensor
    return state


@pytest.fixture
def file(published: dict[str, Tensor], tmp_path: Path) -> Path:
    path = tmp_path / "bn_inception-52deb4733.pth"
    torch.save(published, path)
    return path


def test_names_shapes_and_size_are_the_published_ones() -> None:
    own = {name: list(x.shape) for name, x in BNInception().state_dict().items() if "num_batches" not in name}
    assert own == {name: size for name, size in PUBLISHED["state_dict"].items() if not name.startswith("last_linear")}
    assert sum(p.numel() for p in BNInception().parameters()) == PUBLISHED["parameters_without"]


@pytest.mark.parametrize("size", [224, 227, 256])
def test_outputs_are_those_of_the_public_code(size: int, file: Path) -> None:
    """Which reads BGR: its input in the other order of channels is what this network reads."""
    network, expected = BNInception(), PUBLISHED["forward"][str(size)]
    load_weights(network, str(file))
    bgr = torch.from_numpy(np.random.RandomState(size).randn(1, 3, size, size) * 50)
    with torch.no_grad():
        features = network.double().eval().forward_features(bgr.flip(1))
    assert list(features.shape) == expected["features_shape"]
    assert_close(features.mean().item(), expected["features_mean"], rtol=1e-9, atol=0)
    assert_close(features.std().item(), expected["features_std"], rtol=1e-9, atol=0)
    for pooled, key in ((network.forward_head(features), "gap_first_8"), (features.amax((2, 3)), "gmp_first_8")):
        assert_close(pooled[0, :8], torch.tensor(expected[key], dtype=torch.float64), rtol=1e-9, atol=1e-9)


def test_what_the_network_wrote_itself_is_read_as_it_is(file: Path, tmp_path: Path) -> None:
    network, again = BNInception(), BNInception()
    load_weights(network, str(file))
    torch.save(network.state_dict(), tmp_path / "own.pth")
    load_weights(again, str(tmp_path / "own.pth"))
    assert all(
        torch.equal(a, b) for a, b in zip(network.state_dict().values(), again.state_dict().values(), strict=True)
    )


def test_a_file_with_flat_batch_norm_is_read_too(published: dict[str, Tensor], file: Path, tmp_path: Path) -> None:
    flat = {name: x[0] if "_bn." in name else x for name, x in published.items()}
    torch.save(flat, tmp_path / "flat.pth")
    network, other = BNInception(), BNInception()
    load_weights(network, str(file))
    load_weights(other, str(tmp_path / "flat.pth"))
    assert torch.equal(network.get_parameter(FIRST), other.get_parameter(FIRST))
    assert torch.equal(network.get_parameter(FIRST), published[FIRST].flip(1))


def test_pixels_in_rgb_are_those_of_the_public_code_in_bgr() -> None:
    look = data_config("bn_inception")
    pixels = torch.tensor(PUBLISHED["preprocessing"]["rgb_pixels"], dtype=torch.float64)
    mean, std = (torch.tensor(look[key], dtype=torch.float64) for key in ("mean", "std"))
    bgr = torch.tensor(PUBLISHED["preprocessing"]["proxy_anchor_and_cadene"], dtype=torch.float64)
    assert_close(((pixels / 255 - mean) / std).flip(-1), bgr, rtol=0, atol=1e-6)


@pytest.mark.parametrize("pool", ["default", "max", "avg_max"])
def test_it_is_a_backbone_whose_frozen_statistics_stay(pool: str, file: Path) -> None:
    backbone = build_backbone(
        "bn_inception", pretrained=True, weights=str(file), in_channels=3, image_size=224, small=None, pool=pool,
        freeze_norm=True,
    )  # fmt: skip
    before = {name: x.clone() for name, x in backbone.named_buffers()}
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 50
    backbone.train()(images).sum().backward()
    assert backbone.feature_size == 1024
    assert all(torch.equal(before[name], x) for name, x in backbone.named_buffers())
    assert all(p.grad is not None for p in backbone.parameters())


def test_training_moves_the_statistics_with_the_momentum_asked_for() -> None:
    network = bn_inception(bn_momentum=0.9)
    network.train()(torch.randn(2, 3, 64, 64))
    assert network.get_submodule("conv1_7x7_s2_bn").momentum == 0.9


def test_blocks_follow_each_other() -> None:
    channels, widths = 192, []
    for block in BLOCKS.values():
        channels = block.out(channels)
        widths.append(channels)
    assert widths == [256, 320, 576, 576, 576, 608, 608, 1056, 1024, 1024]


def test_weights_have_no_address_and_that_is_told() -> None:
    options: dict[str, Any] = {"weights": None, "in_channels": 3, "image_size": 224, "small": None}
    with pytest.raises(ValueError, match=r"Set model\.weights to the file bn_inception-52deb4733\.pth"):
        build_backbone("bn_inception", pretrained=True, **options)
    with pytest.raises(ValueError, match="num_classes=5 must be 0"):
        BNInception(num_classes=5)


def test_weights_of_another_network_are_refused(file: Path, tmp_path: Path) -> None:
    state = torch.load(file, weights_only=True)
    del state["inception_5b_1x1.weight"]
    torch.save(state, tmp_path / "cut.pth")
    with pytest.raises(ValueError, match=r"lacks inception_5b_1x1\.weight"):
        load_weights(BNInception(), str(tmp_path / "cut.pth"))
    with pytest.raises(ValueError, match="channels"):
        load_weights(BNInception(in_chans=1), str(file))

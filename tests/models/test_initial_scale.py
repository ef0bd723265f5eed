"""The initial scale of Lorentz heads: logits and gradients of the size that the Euclidean twin has."""

from __future__ import annotations

import functools
import itertools
import statistics
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.testing import assert_close

from hyplearn.manifolds import Manifolds
from hyplearn.models import ResNet
from hyplearn.models.initial_scale import rectified_sum
from hyplearn.models.options import NormOptions, RescaleSites

LORENTZ = {"stem": "lorentz", "stages": ["lorentz"] * 4, "head": "lorentz_mlr"}
HYBRID_ENCODER = {"stages": ["lorentz", "euclidean", "lorentz", "euclidean"], "head": "lorentz_mlr"}
CORES = {"depth": 50, "stages": ["lorentz_core"] * 4, "head": "lorentz_mlr"}
CLIPPED = {"head": "lorentz_mlr", "clip": 1.0, "head_entry": "exp0"}

SEEDS = (1, 2)
CASES = [*itertools.product((8, 16, 64), (8,), (0.2, 1.0, 5.0)), (16, 14, 1.0)]  # width, pixels, c


class Start(NamedTuple):
    """Spread of the logits between images, and gradient norm of the convolutions, of a new network."""

    spread: float
    gradient: float


def network(seed: int = 1, **changes: Any) -> ResNet:
    torch.manual_seed(seed)
    arguments: dict[str, Any] = {"depth": 18, "in_channels": 1, "num_classes": 10, "image_size": 8, "width": 8}
    return ResNet(**{**arguments, **changes})


def lorentz(c: float = 1.0, seed: int = 1, **changes: Any) -> ResNet:
    return network(seed, manifold=Manifolds("lorentz", c=c), **{**LORENTZ, "head_init": "matched", **changes})


@functools.cache
def digits(size: int) -> tuple[Tensor, Tensor]:
    data = load_digits()
    images = (torch.tensor(data.images[:64], dtype=torch.float32).unsqueeze(1) / 16 - 0.305) / 0.376
    return F.interpolate(images, size=size, mode="bilinear"), torch.tensor(data.target[:64])


def start(model: nn.Module, size: int) -> Start:
    images, labels = digits(size)
    logits = model(images)
    F.cross_entropy(logits, labels).backward()
    square = sum(p.grad.square().sum().item() for name, p in model.named_parameters() if ".conv." in name)
    return Start(logits.std(0).square().mean().sqrt().item(), square**0.5)


def mean_start(starts: list[Start]) -> Start:
    return Start(*(statistics.mean(column) for column in zip(*starts, strict=True)))


@functools.cache
def of_the_twin(width: int, size: int, depth: int = 18) -> Start:
    return mean_start([start(network(seed, width=width, image_size=size, depth=depth), size) for seed in SEEDS])


@pytest.mark.parametrize(("width", "size", "c"), CASES)
def test_logits_and_gradients_are_those_of_the_euclidean_twin(width: int, size: int, c: float) -> None:
    """At width 8, of 8 channels in the first stage, the Lorentz encoder itself has gradients larger by up to 1.6."""
    models = [lorentz(c, seed, width=width, image_size=size) for seed in SEEDS]
    spread, gradient = mean_start([start(model, size) for model in models])
    twin = of_the_twin(width, size)
    assert 1 / 1.5 < spread / twin.spread < 1.5
    assert 1 / 1.5 < gradient / twin.gradient < (1.8 if width == 8 else 1.5)


@pytest.mark.parametrize("shape", [HYBRID_ENCODER, CORES, CLIPPED], ids=["hecnn_r18", "hecnn_r50", "hybrid"])
def test_so_do_networks_with_euclidean_last_stages(shape: dict[str, Any]) -> None:
    """Not the gradients of a ResNet-50 with Lorentz cores, which are twice the twin's by its encoder."""
    changes = {"width": 8, **shape, "manifold": Manifolds("lorentz"), "head_init": "matched"}
    measured = mean_start([start(network(seed, **changes), 8) for seed in SEEDS])
    twin = of_the_twin(8, 8, shape.get("depth", 18))
    assert 1 / 1.5 < measured.spread / twin.spread < 1.5
    assert 1 / 1.5 < measured.gradient / twin.gradient < (3 if shape is CORES else 1.5)


@pytest.mark.parametrize(
    "changes",
    [
        {"rescale": RescaleSites(entry=False, conv="none", norm=False, residual=False, transfer=False)},
        {"norm": NormOptions(dispersion="per_channel")},
        {"norm": NormOptions(dispersion="rms", centroid="joint")},
    ],
    ids=["no rescaling", "per channel", "rms"],
)
def test_the_scale_follows_the_options_of_the_layers(changes: dict[str, Any]) -> None:
    measured = mean_start([start(lorentz(seed=seed, image_size=14, **changes), 14) for seed in SEEDS])
    assert 1 / 1.5 < measured.spread / of_the_twin(8, 14).spread < 1.5


def test_the_published_start_leaves_the_spread_behind() -> None:
    """What the matched start is for: without it this network has a third of the twin's spread."""
    published = start(lorentz(width=64, head_init="published"), 8)
    assert published.spread < 0.5 * of_the_twin(64, 8).spread


def test_a_start_differs_from_the_other_in_z_alone_and_loads_its_weights() -> None:
    matched, published = lorentz(), lorentz(head_init="published")
    one, other = matched.state_dict(), published.state_dict()
    assert list(one) == list(other)
    scale = (one["head.z"] / other["head.z"]).flatten()
    assert_close(scale, scale[:1].expand_as(scale))
    assert_close({**one, "head.z": other["head.z"]}, other, rtol=0, atol=0)
    matched.load_state_dict(other)
    images, _ = digits(8)
    assert_close(matched.eval()(images), published.eval()(images), rtol=0, atol=0)


def test_fused_and_layered_networks_start_alike() -> None:
    images, _ = digits(8)
    fused, layered = lorentz().double(), lorentz(fused=False).double()
    assert_close(fused.head.z, layered.head.z, rtol=0, atol=0)
    assert_close(fused(images.double()), layered(images.double()))


def test_rectified_sum_is_the_mean_over_samples() -> None:
    generator = torch.Generator().manual_seed(1)
    f, g = torch.randn(2, 1_000_000, generator=generator, dtype=torch.float64)
    for branch, carried in ((1.0, 1.0), (2.0, 7.0), (5.0, 0.1)):
        sample = torch.relu(branch**0.5 * f + (2 * carried) ** 0.5 * torch.relu(g))
        features = rectified_sum(branch, carried)
        assert features.shared == pytest.approx(sample.mean().item() ** 2, rel=0.01)
        assert features.own == pytest.approx(sample.var().item(), rel=0.01)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"head_init": "large"}, "head_init='large'"), ({"head": "linear"}, "head_init='matched' belongs to")],
)
def test_what_cannot_be_matched_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lorentz(**changes)

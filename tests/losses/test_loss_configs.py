"""Every retrieval loss of configs/loss is built for kinds of spaces it is for, and computes."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
import yaml
from hydra.utils import get_class, instantiate

from hyplearn.config.folders import config_dir
from hyplearn.losses.base import build_part
from tests.support.loss_zoo import CLASSES, LABELS, SIZES, points_of, seeded, spaces_of, vectors_of

NODES = {file.stem: yaml.safe_load(file.read_text()) for file in sorted((config_dir() / "loss").glob("*.yaml"))}
EMBEDDING = [name for name, node in NODES.items() if get_class(node["_target_"]).expects == "embeddings"]
KINDS = {"hier": ("poincare", "two"), "lhier": ("lorentz",), "mix_convex": ("two",)}


def nodes_with_a_target(node: dict[str, Any]) -> list[dict[str, Any]]:
    inner = [value for value in node.values() if isinstance(value, dict)]
    return [node, *(found for value in inner for found in nodes_with_a_target(value))]


def test_the_losses_of_the_papers_are_there() -> None:
    expected = {"hier", "lhier", "proxy_anchor", "multi_similarity", "soft_triple", "normalized_softmax"}
    expected |= {"proxy_nca_pp", "margin", "fast_ap", "xbm", "pairwise"}
    assert expected <= set(EMBEDDING)


@pytest.mark.parametrize("name", EMBEDDING)
def test_every_key_is_an_argument_of_its_target(name: str) -> None:
    for node in nodes_with_a_target(NODES[name]):
        known = set(inspect.signature(get_class(node["_target_"])).parameters)
        assert set(node) - {"_target_", "_partial_"} <= known


@pytest.mark.parametrize("name", EMBEDDING)
def test_every_file_makes_a_loss_that_computes(name: str) -> None:
    for kind in KINDS.get(name, ("sphere", "two")):
        spaces = spaces_of(kind)
        part = instantiate(NODES[name], _partial_=True, _convert_="all")
        loss = build_part(part, spaces=spaces, sizes=SIZES[kind], num_classes=CLASSES)
        vectors = vectors_of(kind)
        value = loss(points_of(vectors, spaces), LABELS, spaces, generator=seeded())
        gradients = torch.autograd.grad(value, [*vectors, *(p for group in loss.proxies().values() for p in group)])
        assert value.isfinite()
        assert all(g.isfinite().all() and g.abs().sum() > 0 for g in gradients)

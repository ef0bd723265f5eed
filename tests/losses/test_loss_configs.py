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
from hyplearn.losses.classification import CrossEntropy
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


WRONG_LABELS = {
    "column": lambda labels: labels[:, None],
    "one-hot": lambda labels: torch.nn.functional.one_hot(labels),
    "one number": lambda labels: labels[0],
    "too few": lambda labels: labels[:-1],
    "fractions": lambda labels: labels.float(),
    "truth values": lambda labels: labels > 0,
    "none": lambda labels: labels[:0],
}


def built(name: str) -> tuple[Any, list[Any], list[torch.Tensor]]:
    kind = KINDS.get(name, ("two",))[0]
    spaces, part = spaces_of(kind), instantiate(NODES[name], _partial_=True, _convert_="all")
    loss = build_part(part, spaces=spaces, sizes=SIZES[kind], num_classes=CLASSES)
    return loss, spaces, points_of(vectors_of(kind), spaces)


@pytest.mark.parametrize("wrong", WRONG_LABELS)
@pytest.mark.parametrize("name", EMBEDDING)
def test_labels_that_are_not_one_number_a_row_are_told(name: str, wrong: str) -> None:
    loss, spaces, points = built(name)
    with pytest.raises(ValueError, match="labels of shape"):
        loss(points, WRONG_LABELS[wrong](LABELS), spaces)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8])
@pytest.mark.parametrize("name", EMBEDDING)
def test_whole_numbers_of_any_type_are_labels(name: str, dtype: torch.dtype) -> None:
    values = []
    for labels in (LABELS, LABELS.to(dtype)):
        torch.manual_seed(0)
        loss, spaces, points = built(name)
        values.append(loss(points, labels, spaces, generator=seeded()))
    assert torch.equal(values[0], values[1])


@pytest.mark.parametrize("name", EMBEDDING)
def test_points_that_are_not_rows_and_empty_batches_are_told(name: str) -> None:
    loss, spaces, points = built(name)
    with pytest.raises(ValueError, match="points of shapes"):
        loss([x[None] for x in points], LABELS, spaces)
    with pytest.raises(ValueError, match="batch without images"):
        loss([x[:0] for x in points], LABELS[:0], spaces)


@pytest.mark.parametrize("wrong", WRONG_LABELS)
def test_labels_of_logits_are_checked_as_well(wrong: str) -> None:
    with pytest.raises(ValueError, match="labels of shape"):
        CrossEntropy()(torch.zeros(len(LABELS), CLASSES), WRONG_LABELS[wrong](LABELS))

"""Recall@k against the evaluations of hyp_metric and HIER."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hyplearn.evaluation.metric import Embeddings, Metric
from hyplearn.evaluation.recall import evaluate
from tests.support.oracles import oracle, tensor


def recalls(inputs: dict[str, Any], x: Tensor, metric: Metric, ks: list[int], **sides: Tensor) -> dict[str, float]:
    results = evaluate(Embeddings(x, metric), torch.tensor(inputs["labels"]), ks=ks, **sides)
    return {key: float(value.double().mean()) for key, value in results.values(ks).items() if key.startswith("recall@")}


def ks_of(expected: dict[str, float]) -> list[int]:
    return sorted(int(k) for k in expected)


def named(expected: dict[str, float]) -> dict[str, Any]:
    return {f"recall@{k}": pytest.approx(value, abs=1e-12) for k, value in expected.items()}


@pytest.mark.parametrize("code", ["hyp_metric", "hier"])
def test_without_ties(code: str) -> None:
    inputs, outputs = oracle("recall")
    expected = outputs["no_ties"][code]
    x = tensor(inputs["no_ties"]["points_in_ball"])
    assert recalls(inputs, x, Metric("poincare", inputs["c"]), ks_of(expected)) == named(expected)


def test_ties_and_duplicates_are_within_the_bounds_over_all_orders() -> None:
    """The published evaluations are not: theirs may count the query itself or drop a duplicate in its place."""
    inputs, outputs = oracle("recall")
    bounds = outputs["ties_and_duplicates"]["bounds_over_all_orders_of_ties"]
    x = tensor(inputs["ties_and_duplicates"]["points_in_ball"])
    found = recalls(inputs, x, Metric("poincare", inputs["c"]), ks_of(bounds["least"]))
    assert outputs["ties_and_duplicates"]["hyp_metric"]["1"] > bounds["most"]["1"]
    for k, least in bounds["least"].items():
        assert least - 1e-12 <= found[f"recall@{k}"] <= bounds["most"][k] + 1e-12


@pytest.mark.parametrize("code", ["hyp_metric_inshop", "hier_inshop_distinct_ids"])
def test_separate_query_and_gallery(code: str) -> None:
    inputs, outputs = oracle("recall")
    expected = outputs["query_gallery"][code]
    x, sides = tensor(inputs["no_ties"]["points_in_ball"]), {}
    for side in ("query", "gallery"):
        sides[side] = torch.zeros(len(x), dtype=torch.bool)
        sides[side][inputs["query_gallery"][side]] = True
    assert recalls(inputs, x, Metric("poincare", inputs["c"]), ks_of(expected), **sides) == named(expected)


def test_sphere() -> None:
    inputs, outputs = oracle("recall")
    expected = outputs["sphere"]["hyp_metric_dot_products_of_unit_vectors"]
    x = F.normalize(tensor(inputs["no_ties"]["points_in_ball"]))
    assert recalls(inputs, x, Metric("sphere"), ks_of(expected)) == named(expected)

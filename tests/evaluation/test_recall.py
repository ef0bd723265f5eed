from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from hyplearn.evaluation.metric import Embeddings, Metric
from hyplearn.evaluation.neighbours import Search
from hyplearn.evaluation.recall import by_group, concatenate, evaluate, summarize
from tests.support import brute_force as brute

KS = (1, 2, 4, 8)


@st.composite
def labelled(draw: st.DrawFn) -> dict[str, Any]:
    """Up to 12 images of up to 5 classes, on a line with ties; any roles, ids in any order."""
    count = draw(st.integers(2, 12))
    roles = draw(
        st.lists(st.sampled_from([(True, True), (True, False), (False, True)]), min_size=count, max_size=count)
    )
    roles = [(True, True), *roles[1:]]
    return {
        "x": torch.tensor(draw(st.lists(st.integers(0, 6), min_size=count, max_size=count))).float()[:, None],
        "labels": torch.tensor(draw(st.lists(st.integers(-1, 3), min_size=count, max_size=count))),
        "roles": roles,
        "ids": torch.tensor(draw(st.permutations(range(count)))),
    }


def ranked_by_definition(x: Tensor, ids: Tensor, roles: list[tuple[bool, bool]]) -> list[list[int]]:
    """The gallery by (distance, id) for every image, without itself."""
    others = [[j for j, (_, offered) in enumerate(roles) if offered and j != i] for i in range(len(x))]
    return [sorted(js, key=lambda j, i=i: (abs(x[i] - x[j]).item(), int(ids[j]))) for i, js in enumerate(others)]


@settings(max_examples=50)
@given(case=labelled(), index=st.sampled_from(["faiss", "torch"]))
def test_every_query_is_measured_as_defined(case: dict[str, Any], index: str) -> None:
    query, gallery = (torch.tensor([role[i] for role in case["roles"]]) for i in (0, 1))
    results = evaluate(
        Embeddings(case["x"], Metric("euclidean")),
        case["labels"],
        query=query,
        gallery=gallery,
        ids=case["ids"],
        ks=KS,
        index=index,
    )
    ranked = ranked_by_definition(case["x"], case["ids"], case["roles"])
    expected = list(brute.queries(case["labels"].tolist(), ranked, case["roles"]))
    assert results.query.tolist() == [row["query"] for row in expected]
    assert results.matches.tolist() == [row["matches"] for row in expected]
    values = results.values(KS)
    for k in KS:
        found = [row["first"] is not None and row["first"] <= k for row in expected]
        assert values[f"recall@{k}"].tolist() == found
    for name in ("map@r", "r_precision"):
        assert_close(values[name], torch.tensor([row[name] for row in expected], dtype=torch.float64))
    tied = []
    for row in expected:
        i, first = row["query"], row["first"]
        wrong = [j for j in ranked[i] if case["labels"][j] != case["labels"][i]]
        nearest = None if first is None else abs(case["x"][i] - case["x"][ranked[i][first - 1]])
        tied.append(nearest is not None and any(abs(case["x"][i] - case["x"][j]) == nearest for j in wrong))
    searched = results.first <= max(KS)
    assert results.tied[searched].tolist() == torch.tensor(tied)[searched].tolist()


def clusters() -> tuple[Embeddings, Tensor]:
    labels = torch.randint(0, 12, (150,))
    x = torch.randn(12, 8)[labels] + torch.randn(150, 8)
    return Embeddings(x, Metric("sphere")), labels


def test_pytorch_metric_learning_gives_the_same_numbers() -> None:
    from pytorch_metric_learning.distances import CosineSimilarity
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.inference import CustomKNN

    embeddings, labels = clusters()
    names = {"precision_at_1": "recall@1", "r_precision": "r_precision", "mean_average_precision_at_r": "map@r"}
    calculator = AccuracyCalculator(include=tuple(names), k="max_bin_count", knn_func=CustomKNN(CosineSimilarity()))
    theirs = calculator.get_accuracy(embeddings.points[0], labels)
    ours = summarize(evaluate(embeddings, labels), KS)
    for their_name, name in names.items():
        assert ours[name] == pytest.approx(theirs[their_name], abs=1e-9)


def test_shares_of_processes_add_up_to_the_whole() -> None:
    embeddings, labels = clusters()
    query = torch.rand(150) < 0.7
    whole = evaluate(embeddings, labels, query=query)
    shares = [evaluate(embeddings, labels, query=query, share=slice(rank, None, 4)) for rank in range(4)]
    assert sorted(map(len, shares)) == sorted(len(range(rank, int(query.sum()), 4)) for rank in range(4))
    joined = concatenate(shares)
    assert torch.equal(joined.query, whole.query)
    assert summarize(joined, KS) == summarize(whole, KS)
    with pytest.raises(ValueError, match="query 0 is in more than one part" if query[0] else "in more than one part"):
        concatenate([whole, shares[0]])


def test_an_empty_share_is_a_result_of_no_queries() -> None:
    embeddings, labels = clusters()
    assert len(evaluate(embeddings, labels, share=slice(500, None))) == 0


def test_classes_of_different_size_are_searched_as_deep_as_each_needs() -> None:
    """One class of 100 among classes of 2: MAP@R of each by its own R."""
    labels = torch.cat([torch.zeros(100, dtype=torch.int64), torch.arange(1, 26).repeat(2)])
    embeddings = Embeddings(torch.randn(150, 3), Metric("euclidean"))
    results = evaluate(embeddings, labels, ks=(1,))
    ranked = brute.neighbours(embeddings, embeddings, 149, own=torch.arange(150))[0].tolist()
    expected = list(brute.queries(labels.tolist(), ranked, [(True, True)] * 150))
    assert_close(results.average_precision, torch.tensor([row["map@r"] for row in expected], dtype=torch.float64))


def test_lone_queries_are_counted_and_left_out() -> None:
    embeddings = Embeddings(torch.tensor([[0.0], [1.0], [5.0], [6.0], [2.0]]), Metric("euclidean"))
    labels = torch.tensor([0, 0, 1, 1, 7])
    summary = summarize(evaluate(embeddings, labels, ks=(1, 100)), (1, 100))
    assert summary == {
        "recall@1": 1.0,
        "recall@100": 1.0,
        "map@r": 1.0,
        "r_precision": 1.0,
        "queries": 4,
        "lone_queries": 1,
        "ties": 1,  # the second is as far from the first as from the lone one
    }


def test_tie_goes_to_the_lower_id_in_whatever_order_the_images_come() -> None:
    x, labels = torch.tensor([[0.0], [1.0], [-1.0]]), torch.tensor([0, 0, 1])
    for ids, recall in ((torch.tensor([0, 1, 2]), 1.0), (torch.tensor([0, 2, 1]), 0.0)):
        mask = torch.tensor([True, False, False])
        results = evaluate(Embeddings(x, Metric("euclidean")), labels, query=mask, ids=ids)
        summary = summarize(results, (1, 2))
        assert (summary["recall@1"], summary["recall@2"], summary["ties"]) == (recall, 1.0, 1)


def test_in_shop_form_keeps_queries_out_of_the_gallery() -> None:
    embeddings, labels = clusters()
    query = torch.arange(150) < 60
    results = evaluate(embeddings, labels, query=query, gallery=~query, ks=(1, 10))
    indices, _ = brute.neighbours(embeddings.select(query), embeddings.select(~query), 10)
    hits = labels[~query][indices] == labels[query][:, None]
    assert summarize(results, (1, 10))["recall@10"] == pytest.approx(hits.any(-1).double().mean().item())


def test_table_of_classes_and_super_classes() -> None:
    embeddings, labels = clusters()
    labels[0] = 99  # a class of one
    results = evaluate(embeddings, labels)
    table = by_group(results, labels, (1, 2))
    assert table.group.tolist() == sorted(set(labels.tolist()))
    values = results.values((1, 2))
    for row, label in enumerate(table.group.tolist()):
        chosen = labels == label
        assert table.queries[row] + table.lone_queries[row] == chosen.sum()
        if label == 99:
            assert table.lone_queries[row] == 1
            assert all(math.isnan(mean[row]) for mean in table.values.values())
            continue
        for name, mean in table.values.items():
            assert mean[row].item() == pytest.approx(values[name][chosen].mean().item())
    halves = by_group(results, labels % 2, (1,))
    assert halves.group.tolist() == [0, 1]
    weighted = (halves.values["recall@1"] * halves.queries).sum() / halves.queries.sum()
    assert weighted.item() == pytest.approx(summarize(results, (1,))["recall@1"])


def test_nothing_to_measure_is_said() -> None:
    embeddings = Embeddings(torch.randn(4, 2), Metric("euclidean"))
    with pytest.raises(ValueError, match="none of 4 queries has an image of its class in the gallery"):
        summarize(evaluate(embeddings, torch.arange(4)), (1,))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": torch.zeros(3, dtype=torch.int64)}, "labels of shape (3,) and torch.int64 must be 4 integers"),
        ({"labels": torch.zeros(4)}, "labels of shape (4,) and torch.float32 must be 4 integers"),
        ({"query": torch.arange(4)}, "query of shape (4,) and torch.int64 must be 4 booleans"),
        ({"gallery": torch.zeros(4, dtype=torch.bool)}, "gallery selects none of 4 images"),
        (
            {"ids": torch.tensor([0, 1, 2, 1])},
            "ids=1 is that of rows 1 and 3, but every row needs its own: leave ids out",
        ),
        (  # the second is no gallery image
            {"ids": torch.tensor([7, 1, 2, 7]), "gallery": torch.arange(4) < 3},
            "ids=7 is that of rows 0 and 3",
        ),
        ({"ks": (0, 1)}, "ks=(0, 1) must be at least one rank"),
        ({"ks": ()}, "ks=() must be at least one rank"),
    ],
)
def test_what_cannot_be_evaluated_is_said(options: dict[str, Any], message: str) -> None:
    arguments = {"labels": torch.zeros(4, dtype=torch.int64), **options}
    with pytest.raises(ValueError, match=re.escape(message)):
        evaluate(Embeddings(torch.randn(4, 2), Metric("euclidean")), **arguments)


def test_recall_alone_searches_no_deeper_than_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.arange(3).repeat_interleave(20)
    embeddings = Embeddings(torch.randn(60, 4), Metric("euclidean"))
    depths = []
    blocks = Search.blocks
    monkeypatch.setattr(Search, "blocks", lambda self, k, rows: depths.append(k) or blocks(self, k, rows))
    whole = summarize(evaluate(embeddings, labels, ks=(1, 4)), (1, 4))
    recall = summarize(evaluate(embeddings, labels, ks=(1, 4), r_measures=False), (1, 4))
    assert depths == [19, 4]
    assert recall == {name: value for name, value in whole.items() if name not in ("map@r", "r_precision")}

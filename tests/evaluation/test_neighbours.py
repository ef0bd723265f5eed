from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from hyplearn.evaluation import inner_products, lifted_gallery, tiles
from hyplearn.evaluation import neighbours as module
from hyplearn.evaluation.metric import Embeddings, Metric
from hyplearn.evaluation.neighbours import Search, neighbours
from hyplearn.geometry import lorentz, poincare
from tests.support import brute_force as brute

INDEXES = ["faiss", "torch"]


def directions(count: int, dim: int) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(count, dim, dtype=torch.float64), dim=-1)


def as_trained() -> Embeddings:
    """Ball points at the clip radius 2.3 of c = 0.1, in clusters, as float32."""
    v = torch.nn.functional.normalize(directions(80, 16).repeat_interleave(5, 0) + 0.3 * directions(400, 16), dim=-1)
    return Embeddings(poincare.expmap0(2.3 * v, c=0.1).float(), Metric("poincare", 0.1))


def near_duplicates() -> Embeddings:
    """A third of the points 5e-4 from another, a third 5e-4 from one point."""
    p = as_trained().points[0].clone()
    p[130:260] = p[:130] + 5e-4 * directions(130, 16).float()
    p[260:] = p[0] + 5e-4 * directions(140, 16).float()
    return Embeddings(p * 0.999, Metric("poincare", 0.1))


def deep() -> Embeddings:
    """Hyperboloid points with times up to 2,500, in bunches 1e-2 wide."""
    v = directions(40, 8).repeat_interleave(10, 0) * torch.linspace(0.1, 8.5, 400, dtype=torch.float64)[:, None]
    x = lorentz.expmap0(v + 1e-2 * directions(400, 8), c=1.0)
    assert 2000 < lorentz.time(x, c=1.0).max() < 2600
    return Embeddings(x.float(), Metric("lorentz", 1.0))


def duplicates() -> Embeddings:
    """Every point about thirteen times, most of them tied with whatever comes next."""
    return Embeddings(as_trained().points[0][torch.randint(0, 30, (400,))], Metric("poincare", 0.1))


def collapsed() -> Embeddings:
    """Three points in turn, and a few others."""
    p = as_trained().points[0].clone()
    p[:360] = p[torch.arange(360) % 3]
    return Embeddings(p, Metric("poincare", 0.1))


def far_from_zero() -> Embeddings:
    return Embeddings(1e4 + torch.randn(300, 6), Metric("euclidean"))


def cosine() -> Embeddings:
    x = torch.randn(300, 6) * 10 ** torch.linspace(-6, 6, 300)[:, None]
    x[100:130] = x[0]
    return Embeddings(x, Metric("sphere"))


def fused() -> Embeddings:
    """Mix: the ball and the sphere, a fifth of the points duplicates in one of the two."""
    p = as_trained().points[0]
    x = torch.randn(400, 5)
    x[:80] = x[80:160]
    return Embeddings((x, p), (Metric("sphere", weight=0.7), Metric("poincare", 0.1, weight=0.2)))


SETS = [as_trained, near_duplicates, deep, duplicates, collapsed, far_from_zero, cosine, fused]


@pytest.mark.parametrize("index", INDEXES)
@pytest.mark.parametrize("make", SETS)
def test_no_neighbour_differs_from_comparing_all_pairs_in_float64(make, index: str) -> None:
    embeddings = make()
    ids = torch.arange(len(embeddings))
    query = embeddings.select(slice(None, None, 4))
    indices, distances = brute.neighbours(query, embeddings, 40, own=ids[::4])
    found = neighbours(query, embeddings, 40, query_ids=ids[::4], gallery_ids=ids, index=index)
    assert torch.equal(found.indices, indices)
    assert_close(found.distances, distances, rtol=1e-9, atol=1e-13)
    few = neighbours(query, embeddings, 1, query_ids=ids[::4], gallery_ids=ids, index=index)
    assert torch.equal(few.indices, indices[:, :1])


@st.composite
def small_sets(draw: st.DrawFn) -> tuple[Embeddings, Embeddings, int]:
    """Few points on a coarse grid: coincident, opposite, tied, at the origin; any geometry or two; any k."""
    dim = draw(st.integers(1, 3))

    def points(count: int, metric: Metric) -> Tensor:
        grid = draw(st.lists(st.lists(st.integers(-2, 2), min_size=dim, max_size=dim), min_size=count, max_size=count))
        x = torch.tensor(grid, dtype=draw(st.sampled_from([torch.float32, torch.float64]))).view(count, dim)
        if metric.kind == "sphere":
            return torch.where((x == 0).all(-1, keepdim=True), 1, x)
        return x * 0.28 if metric.kind == "poincare" else x

    kinds = [Metric("lorentz", 0.5), Metric("poincare", 1.0), Metric("sphere"), Metric("euclidean", weight=0.25)]
    metrics = draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=2))
    queries, gallery = draw(st.integers(1, 4)), draw(st.integers(1, 12))
    return (
        Embeddings([points(queries, metric) for metric in metrics], metrics),
        Embeddings([points(gallery, metric) for metric in metrics], metrics),
        draw(st.integers(1, 15)),
    )


@settings(max_examples=50)
@given(
    case=small_sets(),
    margin=st.sampled_from([0, 1, 32]),
    index=st.sampled_from(INDEXES),
    own=st.lists(st.integers(-1, 11), min_size=4, max_size=4),
)
def test_ties_and_small_galleries_follow_the_definition(case, margin: int, index: str, own: list[int]) -> None:
    query, gallery, k = case
    ids, own_ids = torch.arange(len(gallery)), torch.tensor(own[: len(query)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MARGIN", margin)
        found = neighbours(query, gallery, k, query_ids=own_ids, gallery_ids=ids, index=index)
    indices, distances = brute.neighbours(query, gallery, k, own=own_ids)
    assert torch.equal(found.indices, indices)
    assert_close(found.distances, distances, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("margin", [0, 32])
@pytest.mark.parametrize("index", INDEXES)
def test_the_query_is_left_out_by_its_id_wherever_it_ranks(
    index: str, margin: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MARGIN", margin)
    embeddings = Embeddings(torch.zeros(5, 2), Metric("euclidean"))
    found = neighbours(
        embeddings.select(torch.tensor([3, 0])),
        embeddings,
        5,
        query_ids=torch.tensor([70, 99]),
        gallery_ids=torch.tensor([10, 90, 20, 70, 30]),
        index=index,
    )
    assert found.indices.tolist() == [[0, 1, 2, 4, -1], [0, 1, 2, 3, 4]]
    assert found.distances.tolist() == [[0, 0, 0, 0, torch.inf], [0, 0, 0, 0, 0]]


@pytest.mark.parametrize("index", INDEXES)
def test_a_gallery_smaller_than_k_is_padded(index: str) -> None:
    embeddings = Embeddings(torch.tensor([[0.0], [3.0], [1.0]]), Metric("euclidean"))
    ids = torch.arange(3)
    found = neighbours(embeddings, embeddings, 6, query_ids=ids, gallery_ids=ids, index=index)
    assert found.indices[0].tolist() == [2, 1, -1, -1, -1, -1]
    assert found.distances[0].tolist() == [1, 3, *[torch.inf] * 4]


@pytest.mark.parametrize("index", INDEXES)
def test_a_collapsed_model_is_searched_in_seconds(index: str) -> None:
    embeddings = Embeddings(torch.ones(20_000, 8), Metric("lorentz", 1.0))
    ids = torch.arange(20_000)
    query = embeddings.select(slice(0, 2))
    found = neighbours(query, embeddings, 3, query_ids=ids[:2], gallery_ids=ids, index=index)
    assert found.indices.tolist() == [[1, 2, 3], [0, 2, 3]]


@pytest.mark.parametrize("index", INDEXES)
def test_no_queries_have_no_neighbours(index: str) -> None:
    embeddings = as_trained()
    found = neighbours(embeddings.select(slice(0, 0)), embeddings, 3, index=index)
    assert found.indices.shape == found.distances.shape == (0, 3)


def test_float32_search_is_proven_for_most_queries_as_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    searched = []
    fill = Search._fill

    def counted(self, found, places, rows, own, *, margin: int, fast: bool) -> None:
        searched.append((len(places), fast))
        fill(self, found, places, rows, own, margin=margin, fast=fast)

    monkeypatch.setattr(Search, "_fill", counted)
    embeddings = as_trained()
    neighbours(embeddings, embeddings, 8, index="faiss")
    again = sum(rows for rows, fast in searched if not fast)
    assert (400, True) in searched
    assert again < 20


def test_a_wrong_float32_candidate_set_is_found_out_and_repaired(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the proof the float32 order of far points 1e-3 apart would decide."""
    monkeypatch.setattr(inner_products, "NEAR", 0.0)
    v = torch.full((300, 4), 4.2, dtype=torch.float64) + 1e-4 * directions(300, 4)
    embeddings = Embeddings(lorentz.expmap0(v, c=1.0), Metric("lorentz", 1.0))
    indices, _ = brute.neighbours(embeddings, embeddings, 5)
    monkeypatch.setattr(module, "MARGIN", 2)
    assert torch.equal(neighbours(embeddings, embeddings, 5, index="faiss").indices, indices)
    monkeypatch.setattr(Search, "_floor", lambda self, floor, count: torch.full_like(floor, torch.inf))
    assert not torch.equal(neighbours(embeddings, embeddings, 5, index="faiss").indices, indices)


@pytest.mark.parametrize("make", [as_trained, fused])
def test_blocks_do_not_change_the_result(make, monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings = make()
    whole = neighbours(embeddings, embeddings, 7)
    small = {module: {"PAIRED": 3000, "CANDIDATES": 100, "QUERIES": 33}, tiles: {"ENTRIES": 4000, "QUERIES": 33}}
    small |= {lifted_gallery: {"GATHERED": 3000, "COPIED": 900}, inner_products: {"COPIED": 900}}
    for where, sizes in small.items():
        for name, value in sizes.items():
            monkeypatch.setattr(where, name, value)
    for index in INDEXES:
        pieces = neighbours(embeddings, embeddings, 7, index=index)
        assert torch.equal(pieces.indices, whole.indices)
        assert_close(pieces.distances, whole.distances, rtol=1e-11, atol=0)


@pytest.mark.parametrize("index", INDEXES)
def test_sizes_beyond_float32_products(index: str) -> None:
    x = directions(60, 3) * 10 ** torch.linspace(0, 30, 60, dtype=torch.float64)[:, None]
    for metric in (Metric("euclidean"), Metric("lorentz", 1.0)):
        query, gallery = Embeddings(x, metric), Embeddings(x[:20], metric)
        assert torch.equal(neighbours(query, gallery, 1, index=index).indices, brute.neighbours(query, gallery, 1)[0])


METRICS = [Metric("euclidean"), Metric("sphere"), Metric("lorentz", 0.5), Metric("poincare", 0.2)]


def nearly_collapsed(metric: Metric, length: float, spread: float) -> tuple[Embeddings, Embeddings]:
    """80 queries and a gallery within `spread` of a point, a few duplicates; 10 queries that lie elsewhere."""
    x = length * (directions(1, 16) + spread * torch.randn(400, 16, dtype=torch.float64) / 4)
    x[40:60] = x[0]
    elsewhere = torch.cat([1e-9 * x[:1], length * directions(4, 16), 1.1 * x[:5]])
    return Embeddings(torch.cat([x[::5], elsewhere]), metric), Embeddings(x, metric)


@pytest.mark.parametrize("metric", METRICS, ids=str)
@pytest.mark.parametrize("spread", [1e-3, 3e-7, 1e-11])
@pytest.mark.parametrize("length", [0.1, 2.0])
@pytest.mark.parametrize("index", INDEXES)
def test_a_nearly_collapsed_gallery_is_searched_from_its_midst(
    index: str, length: float, spread: float, metric: Metric, monkeypatch: pytest.MonkeyPatch
) -> None:
    query, gallery = nearly_collapsed(metric, length, spread)
    indices, distances = brute.neighbours(query, gallery, 6)
    margins = []
    fill = Search._fill

    def counted(self, found, places, rows, own, *, margin: int, fast: bool) -> None:
        margins.append(margin)
        fill(self, found, places, rows, own, margin=margin, fast=fast)

    monkeypatch.setattr(Search, "_fill", counted)
    found = neighbours(query.select(slice(0, 80)), gallery, 6, index=index)
    assert torch.equal(found.indices, indices[:80])
    assert_close(found.distances, distances[:80], rtol=1e-8, atol=0)
    assert set(margins) == {32}  # never with more candidates
    others = neighbours(query, gallery, 6, index=index)
    assert torch.equal(others.indices, indices)
    assert_close(others.distances, distances, rtol=1e-8, atol=0)


@pytest.mark.parametrize("spread", [1.0, 1e-7])
@pytest.mark.parametrize("index", INDEXES)
def test_a_zero_vector_is_as_far_from_all_directions(index: str, spread: float) -> None:
    x = directions(1, 4) + spread * directions(100, 4)
    found = neighbours(Embeddings(0 * x[:1], Metric("sphere")), Embeddings(x, Metric("sphere")), 3, index=index)
    assert found.indices.tolist() == [[0, 1, 2]]
    assert found.distances.tolist() == [[2, 2, 2]]


@pytest.mark.parametrize("metric", METRICS, ids=str)
def test_gaps_from_the_midst_are_those_of_the_whole(metric: Metric) -> None:
    """The two lifts of a form are of one gap."""
    x, y = 0.3 + 0.1 * torch.randn(20, 5, dtype=torch.float64), 0.3 + 1e-4 * torch.randn(30, 5, dtype=torch.float64)
    form = metric.form
    midst = form.midst(y)
    assert midst is not None
    gaps = []
    for seen_from in (None, midst):
        rows, columns = form.query(x, seen_from), form.gallery(y, seen_from)
        gaps.append(form.scale * (rows.offset[:, None] - rows.vectors @ columns.vectors.mT))
    assert_close(gaps[0], gaps[1], rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("metric", [Metric("euclidean"), Metric("lorentz", 1.0), Metric("poincare", 0.1)], ids=str)
@pytest.mark.parametrize("size", [1e-22, 3e-23, 1e-40])
@pytest.mark.parametrize("index", INDEXES)
def test_products_below_float32_are_searched_again(index: str, size: float, metric: Metric) -> None:
    embeddings = Embeddings(size * torch.randn(600, 4, dtype=torch.float64), metric)
    query = embeddings.select(slice(0, 50))
    indices, distances = brute.neighbours(query, embeddings, 5)
    found = neighbours(query, embeddings, 5, index=index)
    assert torch.equal(found.indices, indices)
    assert_close(found.distances, distances, rtol=1e-9, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_points_are_compared_in_float64(dtype: torch.dtype) -> None:
    embeddings = Embeddings(torch.randn(50, 4).to(dtype), Metric("euclidean"))
    assert torch.equal(neighbours(embeddings, embeddings, 3).indices, brute.neighbours(embeddings, embeddings, 3)[0])


@pytest.mark.gpu
@pytest.mark.parametrize("make", SETS)
def test_a_gpu_finds_what_the_cpu_finds(make) -> None:
    embeddings = make()
    ids = torch.arange(len(embeddings))
    cpu = neighbours(embeddings, embeddings, 10, query_ids=ids, gallery_ids=ids, index="torch")
    gpu = neighbours(embeddings.to("cuda"), embeddings.to("cuda"), 10, query_ids=ids, gallery_ids=ids)
    assert torch.equal(gpu.indices.cpu(), cpu.indices)
    assert_close(gpu.distances.cpu(), cpu.distances, rtol=1e-9, atol=1e-13)


def points(count: int = 3, dim: int = 2) -> Embeddings:
    return Embeddings(torch.arange(count * dim).view(count, dim).float(), Metric("euclidean"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: neighbours(points(), points(), 0), "k=0 must be >= 1"),
        (
            lambda: neighbours(points(), points(), 1, index="hnsw"),
            "index='hnsw' must be one of 'auto', 'faiss', 'torch'",
        ),
        (lambda: neighbours(points(), points(3, 4), 1), "euclidean points of 2 dimensions, gallery of 4"),
        (lambda: neighbours(points(), points(0), 1), "gallery has no points"),
        (
            lambda: neighbours(points(), Embeddings(torch.ones(3, 2), Metric("sphere")), 1),
            "query has the metric euclidean, gallery sphere",
        ),
        (lambda: neighbours(points(), points(), 1, query_ids=torch.arange(3)), "must be given together"),
        (
            lambda: neighbours(points(), points(), 1, query_ids=torch.arange(3), gallery_ids=torch.tensor([5, 6, 5])),
            "gallery_ids=5 appears twice",
        ),
        (
            lambda: neighbours(points(), points(), 1, query_ids=torch.arange(2), gallery_ids=torch.arange(3)),
            "query_ids of shape (2,) and torch.int64 must be 3 integers",
        ),
    ],
)
def test_what_cannot_be_searched_is_said(call, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()

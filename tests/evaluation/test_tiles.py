from __future__ import annotations

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hyplearn.evaluation import tiles
from hyplearn.evaluation.lifted_gallery import LiftedGallery
from hyplearn.evaluation.metric import Embeddings, Metric
from hyplearn.evaluation.neighbours import neighbours
from hyplearn.evaluation.tiles import Scores, best, full_precision, tile_of

MILLION = 1_000_000


class Products(TorchDispatchMode):
    """Shapes (queries, gallery points) of all matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, int]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.mm.default:
            self.shapes.append(tuple(found.shape))
        return found


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("count", [41, 1033])
def test_a_gallery_of_a_million_is_read_once_by_each_block_of_queries(device: str, count: int) -> None:
    """On tensors without memory; `meta` stands for a GPU."""
    queries = 10_000
    tile = tile_of(MILLION, count, torch.device(device))
    vectors, columns = (torch.empty(size, 385, device="meta") for size in (queries, MILLION))
    with Products() as products:
        for block in vectors.split(tile.queries):
            found = best(lambda part, b=block: Scores(b @ columns[part].mT), MILLION, count, tile.gallery)
            assert found.indices.shape == (len(block), count)
    read = sum(points for _, points in products.shapes)
    assert read == math.ceil(queries / tile.queries) * MILLION
    limit = tiles.ENTRIES if device == "cpu" else tiles.DEVICE_ENTRIES
    assert max(rows * points for rows, points in products.shapes) <= limit
    assert tile.queries == 4096 or count == 1033
    assert math.ceil(queries / tile.queries) <= 6


def test_a_gpu_takes_4096_queries_and_65536_points_at_a_time() -> None:
    assert tile_of(MILLION, 41, torch.device("meta")) == (4096, 65_536)


def test_a_search_reads_its_gallery_once_by_each_block_of_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "QUERIES", 64)
    monkeypatch.setattr(tiles, "ENTRIES", 64 * 100)
    embeddings = Embeddings(torch.randn(2000, 8), Metric("euclidean"))
    with Products() as products:
        neighbours(embeddings.select(slice(0, 300)), embeddings, 1, index="torch")
    assert sum(points for _, points in products.shapes) == math.ceil(300 / (64 * 100 // 272)) * 2000


@pytest.mark.parametrize("step", [1, 7, 40, 100])
def test_the_best_of_tiles_are_the_best_of_all(step: int) -> None:
    scores, other = torch.randn(5, 40), torch.randn(5, 40)
    found = best(lambda part: Scores(scores[:, part], (other[:, part],)), 40, 9, step)
    values, order = found.scores.sort(-1, descending=True)
    expected, indices = scores.topk(9)
    assert torch.equal(values, expected)
    assert torch.equal(found.indices.gather(1, order), indices)
    assert torch.equal(found.parts[0], other.gather(1, found.indices))


@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_products_are_those_of_float32_whatever_training_allows(precision: str) -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        with torch.autocast("cpu", torch.bfloat16), full_precision(torch.device("cpu")):
            assert torch.get_float32_matmul_precision() == "highest"
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)


METRICS: list[Metric] = [Metric("euclidean"), Metric("sphere"), Metric("lorentz", 0.5), Metric("poincare", 0.2)]


@pytest.mark.parametrize("spread", [1.0, 1e-5])
@pytest.mark.parametrize("metric", METRICS, ids=str)
def test_gaps_of_gathered_points_are_those_of_float64_products(metric: Metric, spread: float) -> None:
    """A gallery is kept in float32: its points in float64 come from the coordinates."""
    points = 0.3 + 0.2 * spread * torch.randn(60, 5).clamp(-2, 2)
    term = LiftedGallery(metric, points)
    assert (term.midst is None) == (spread == 1)
    assert term.columns32 is not None
    assert term.columns32.dtype == torch.float32
    rows = term.rows(points[:7])
    index = torch.randint(0, 60, (7, 11))
    products = term.gap(rows, rows.vectors @ term.columns(slice(0, 60), torch.float64).mT)
    error = term.slack(rows, torch.float64)[:, None]
    assert ((term.gathered(rows, index) - products.gather(1, index)).abs() <= 2 * error).all()

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from hyplearn.evaluation.metric import Metric
from hyplearn.geometry import lorentz, poincare
from hyplearn.geometry.isometry import lorentz_to_poincare
from hyplearn.plots.classes import SHOWN, groups
from hyplearn.plots.disk import draw_disk, geodesic, neighbours, place, ring_radii, window


def cloud(count: int = 60, *, dim: int = 2, c: float = 1.0, spread: float = 1.0) -> torch.Tensor:
    """Points of the hyperboloid up to distance 3 spread / sqrt(c)."""
    v = torch.randn(count, dim, dtype=torch.float64)
    return lorentz.expmap0(spread * v / math.sqrt(c), c=c)


@pytest.mark.parametrize("c", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("kind", ["lorentz", "poincare"])
@pytest.mark.parametrize("dim", [1, 2])
def test_up_to_two_dimensions_distances_are_those_of_the_manifold(kind: str, c: float, dim: int) -> None:
    x = cloud(dim=dim, c=c)
    points = x if kind == "lorentz" else lorentz_to_poincare(x, c=c)
    disk = place(points.float(), Metric(kind, c))  # type: ignore[arg-type]
    assert disk.exact and str(disk) == f"exact: the embedding is {dim}-dimensional"
    expected = lorentz.dist(x[:, None], x, c=c)
    assert_close(disk.distances(torch.arange(60)), expected, rtol=1e-5, atol=1e-6)
    assert_close(place(points, Metric(kind, c)).distances(torch.arange(60)), expected, rtol=1e-9, atol=1e-9)  # type: ignore[arg-type]


def test_in_more_dimensions_distances_to_the_origin_are_kept_and_the_picture_says_what_is_lost() -> None:
    c = 0.5
    x = cloud(dim=7, c=c)
    disk = place(x, Metric("lorentz", c), centre="origin")
    assert_close(poincare.dist0(disk.points, c=1.0) / math.sqrt(c), lorentz.dist0(x, c=c))
    v = lorentz.logmap0(x, c=c)
    values = torch.linalg.svdvals(v).square()
    assert disk.share == pytest.approx((values[:2].sum() / values.sum()).item())
    assert not disk.exact and 0 < disk.correlation < 1
    text = str(disk)
    assert text.startswith("approximation: 7 dimensions to 2 by tangent PCA at the origin")
    assert f"{100 * disk.share:.0f} % of the squared length" in text and f"{disk.correlation:.2f}" in text


def test_a_cloud_far_from_the_origin_is_seen_from_its_centroid() -> None:
    """From the origin it has one direction, and what it spreads in is squeezed into the other."""
    c = 0.5
    far = torch.zeros(8, dtype=torch.float64)
    far[0] = 10
    x = lorentz.boost(cloud(dim=8, c=c, spread=0.3), far, c=c)
    disk = place(x, Metric("lorentz", c))
    assert disk.centre == "centroid" and "tangent PCA at the centroid, distances to the centroid kept" in str(disk)
    middle = lorentz.centroid(x, c=c)
    assert_close(poincare.dist0(disk.points, c=1.0) / math.sqrt(c), lorentz.dist(x, middle, c=c), rtol=1e-6, atol=1e-8)
    assert disk.correlation > place(x, Metric("lorentz", c), centre="origin").correlation


def test_a_plane_through_the_origin_of_many_dimensions_is_exact() -> None:
    x = cloud()
    turn, _ = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))
    disk = place(x @ turn[:2], Metric("lorentz", 1.0))
    assert disk.share == pytest.approx(1) and disk.correlation == pytest.approx(1)
    assert_close(disk.distances(torch.arange(60)), lorentz.dist(x[:, None], x, c=1.0), rtol=1e-6, atol=1e-6)


def test_the_origin_stays_where_it_is() -> None:
    x = torch.cat([torch.zeros(1, 5, dtype=torch.float64), cloud(9, dim=5)])
    assert place(x, Metric("lorentz", 1.0), centre="origin").points[0].tolist() == [0.0, 0.0]


def test_a_geodesic_is_as_long_as_the_distance_of_its_ends() -> None:
    a, b = torch.tensor([0.9, 0.1]).double(), torch.tensor([-0.2, 0.95]).double()
    points = geodesic(a, b, steps=200)
    assert_close(points[0], a)
    assert_close(points[-1], b)
    steps = poincare.dist(points[1:], points[:-1], c=1.0)
    assert steps.sum().item() == pytest.approx(poincare.dist(a, b, c=1.0).item(), rel=1e-6)
    assert_close(steps, steps.mean().expand_as(steps), rtol=1e-4, atol=0)


def test_rings_stand_at_round_distances_apart() -> None:
    assert ring_radii(1.0, 0.0, 1.0, 0.035) == [1.0, 2.0, 3.0, 4.0]
    assert ring_radii(1.0, 0.0, math.tanh(0.25), 0.0) == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5], rel=1e-12)
    assert ring_radii(4.0, 0.0, math.tanh(3.0), 0.0) == [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]


def test_edges_are_the_shortest_tree() -> None:
    line = torch.tensor([0.0, 5.0, 1.0, 3.0]).double()
    edges = {frozenset(edge) for edge in neighbours((line[:, None] - line).abs())}
    assert edges == {frozenset({0, 2}), frozenset({2, 3}), frozenset({1, 3})}


def test_a_small_cloud_is_seen_close() -> None:
    assert window(0.9 * torch.tensor([[1.0, 0.0], [-1.0, 0.0]])).whole
    seen = window(torch.tensor([[0.5, 0.5], [0.6, 0.52]]))
    assert not seen.whole and (seen.x, seen.y) == pytest.approx((0.55, 0.51)) and 0.05 < seen.half < 0.1


def test_the_picture_is_the_same_every_time_and_its_points_stand_beside_it(tmp_path: Path) -> None:
    x = cloud(dim=3)
    labels = torch.arange(60) % 11
    disk = place(x, Metric("lorentz", 1.0))
    classes = groups(labels, [f"class {label}" for label in range(11)])
    shown = torch.arange(0, 60, 2)
    rows = [{"id": int(position)} for position in shown]
    between = torch.ones(SHOWN, SHOWN).fill_diagonal_(0.0)
    paths = [
        draw_disk(tmp_path / name / "disk.png", disk, shown, classes, between, title="t", rows=rows) for name in "ab"
    ]
    assert paths[0][0].read_bytes() == paths[1][0].read_bytes()
    lines = paths[0][1].read_text().splitlines()
    assert lines[0] == "id,x,y" and len(lines) == 31
    assert [float(cell) for cell in lines[3].split(",")] == pytest.approx([4, *disk.points[4].tolist()], rel=1e-5)


def test_the_most_frequent_classes_are_shown_and_all_others_are_counted() -> None:
    labels = torch.cat([torch.full((20 - label,), label) for label in range(12)])
    found = groups(labels, None)
    assert [group.name for group in found] == [*map(str, range(8)), "4 other classes"]
    assert sum(int(group.rows.sum()) for group in found) == len(labels)
    assert int(found[-1].rows.sum()) == 12 + 11 + 10 + 9
    assert len({(group.colour, group.marker) for group in found}) == 9

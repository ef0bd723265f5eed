from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from hyplearn.evaluation.delta import Draw, distance_matrix, drawn, gromov_delta, hyperbolicity
from hyplearn.evaluation.metric import Metric
from hyplearn.geometry import lorentz, sphere
from hyplearn.geometry.isometry import lorentz_to_poincare


def seen_from(distances: Tensor, w: int) -> float:
    """delta_w by its definition, as loops."""
    d = distances.tolist()

    def product(x: int, y: int) -> float:
        return (d[x][w] + d[y][w] - d[x][y]) / 2

    triples = itertools.product(range(len(d)), repeat=3)
    return max(min(product(x, z), product(z, y)) - product(x, y) for x, y, z in triples)


def of_quadruples(distances: Tensor) -> float:
    """Half the largest difference of the two largest of the three sums of opposite sides: the four-point condition."""
    d = distances.tolist()
    gaps = [0.0]
    for x, y, z, w in itertools.combinations(range(len(d)), 4):
        _, middle, largest = sorted((d[x][y] + d[z][w], d[x][z] + d[y][w], d[x][w] + d[y][z]))
        gaps.append((largest - middle) / 2)
    return max(gaps)


def euclidean(*points: tuple[float, ...]) -> Tensor:
    x = torch.tensor(points, dtype=torch.float64)
    return (x[:, None] - x).square().sum(-1).sqrt()


def of_graph(count: int, edges: list[tuple[int, int, float]]) -> Tensor:
    """Lengths of the shortest paths."""
    d = torch.full((count, count), math.inf, dtype=torch.float64).fill_diagonal_(0.0)
    for x, y, length in edges:
        d[x, y] = d[y, x] = length
    for z in range(count):
        d = torch.minimum(d, d[:, z : z + 1] + d[z])
    return d


@given(seed=st.integers(0, 10**6), count=st.integers(4, 9), dim=st.integers(1, 4))
def test_from_every_base_point_it_is_the_definition_and_the_largest_is_that_of_the_four_point_condition(
    seed: int, count: int, dim: int
) -> None:
    points = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    distances = distance_matrix(points, Metric("euclidean"))
    found = [gromov_delta(distances, base=w) for w in range(count)]
    for w, delta in enumerate(found):
        assert delta == pytest.approx(seen_from(distances, w), rel=1e-12, abs=1e-12)
    assert max(found) == pytest.approx(of_quadruples(distances), rel=1e-9, abs=1e-9)
    assert max(found) <= 2 * min(found) + 1e-9


@given(seed=st.integers(0, 10**6), scale=st.sampled_from([1e-60, 1.0, 1e60]))
def test_rounding_of_the_first_look_never_loses_the_largest(seed: int, scale: float) -> None:
    """Distances that float32 cannot tell apart."""
    noise = torch.rand(12, 12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    distances = scale * (1 + 1e-9 * (noise + noise.mT)).fill_diagonal_(0.0)
    assert gromov_delta(distances) == pytest.approx(seen_from(distances, 0), rel=1e-14)


@given(seed=st.integers(0, 10**6))
def test_a_tree_has_none(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    parents = [int(torch.randint(0, child, (), generator=generator)) for child in range(1, 30)]
    lengths = (0.1 + torch.rand(29, generator=generator)).tolist()
    tree = of_graph(30, list(zip(range(1, 30), parents, lengths, strict=True)))
    assert gromov_delta(tree, base=int(torch.randint(0, 30, (), generator=generator))) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("count", "delta"), [(4, 1.0), (5, 0.5), (6, 1.0), (7, 1.0), (8, 2.0), (12, 3.0)])
def test_a_cycle_has_a_quarter_of_its_length(count: int, delta: float) -> None:
    """C_n: n/4 for n = 0 mod 4, (n-1)/4 - 1/2 for n = 1 mod 4, n/4 rounded down to halves otherwise (Wu and Zhang)."""
    cycle = of_graph(count, [(x, (x + 1) % count, 1.0) for x in range(count)])
    assert max(gromov_delta(cycle, base=w) for w in range(count)) == delta


def test_a_square_has_the_side_less_than_its_diagonal() -> None:
    square = euclidean((0, 0), (1, 0), (1, 1), (0, 1))
    delta = gromov_delta(square)
    assert delta == pytest.approx(math.sqrt(2) - 1, rel=1e-15)
    assert Draw(delta, square.max().item()).ratio("relative") == pytest.approx(2 - math.sqrt(2), rel=1e-15)
    assert Draw(delta, square.max().item()).ratio("half") == pytest.approx(1 - math.sqrt(0.5), rel=1e-15)


@pytest.mark.parametrize("c", [0.1, 1.0, 4.0])
def test_far_points_of_hyperbolic_space_come_near_a_tree(c: float) -> None:
    """The whole plane has delta = log(2) / sqrt(c), so that the ratio to the diameter falls with it."""
    directions = sphere.proj(torch.randn(60, 2, dtype=torch.float64))
    for radius in (4.0, 12.0):
        points = lorentz.expmap0(radius / math.sqrt(c) * directions, c=c)
        distances = distance_matrix(points, Metric("lorentz", c))
        assert gromov_delta(distances) <= math.log(2) / math.sqrt(c) + 1e-9
    assert 2 * gromov_delta(distances) / distances.max() < 0.1


def test_distances_are_those_of_the_metric() -> None:
    x = torch.randn(40, 3, dtype=torch.float64)
    c = 0.7
    expected = lorentz.dist(x[:, None], x, c=c).fill_diagonal_(0.0)
    assert_close(distance_matrix(x, Metric("lorentz", c)), expected, rtol=1e-9, atol=1e-9)
    ball = lorentz_to_poincare(x, c=c)
    assert_close(distance_matrix(ball, Metric("poincare", c)), expected, rtol=1e-9, atol=1e-9)
    unit = sphere.proj(x)
    angles = (unit @ unit.mT).clamp(-1, 1).acos().fill_diagonal_(0.0)
    assert_close(distance_matrix(3 * x, Metric("sphere")), angles, rtol=1e-6, atol=1e-6)
    wide = torch.randint(0, 256, (10, 9000), dtype=torch.uint8)  # more coordinates than are converted at once
    assert_close(distance_matrix(wide, Metric("euclidean")), torch.cdist(wide.double(), wide.double()))
    assert_close(distance_matrix(1e6 + x, Metric("euclidean")), torch.cdist(x, x), rtol=1e-5, atol=1e-6)


def test_draws_are_without_replacement_and_repeatable() -> None:
    first = list(drawn(50, samples=20, draws=3, seed=5))
    for positions in first:
        assert len(positions.unique()) == 20 and set(positions.tolist()) <= set(range(50))
    assert not torch.equal(first[0], first[1])
    assert all(map(torch.equal, first, drawn(50, samples=20, draws=3, seed=5)))
    assert not torch.equal(first[0], next(drawn(50, samples=20, draws=3, seed=6)))


def test_mean_spread_and_suggestion() -> None:
    points = torch.randn(100, 5)
    found = hyperbolicity(points.__getitem__, 100, Metric("euclidean"), samples=30, draws=4, seed=0)
    ratios = torch.tensor([2 * draw.delta / draw.diameter for draw in found.draws])
    assert (found.samples, found.total, found.width, len(found.draws)) == (30, 100, 5, 4)
    assert found.mean() == pytest.approx(ratios.mean().item())
    assert found.std() == pytest.approx(ratios.std().item())
    assert (found.mean("half"), found.std("half")) == pytest.approx((found.mean() / 2, ratios.std().item() / 2))
    assert found.suggested_c == pytest.approx((0.144 / found.mean()) ** 2)
    single = hyperbolicity(points.__getitem__, 100, Metric("euclidean"), samples=200, draws=1, seed=0)
    assert single.samples == 100 and single.std() is None
    line = torch.arange(9.0).unsqueeze(1)
    assert hyperbolicity(line.__getitem__, 9, Metric("euclidean"), samples=9, draws=2, seed=0).suggested_c > 1e6


def test_too_few_points_and_points_that_coincide() -> None:
    points = torch.ones(5, 2)
    with pytest.raises(ValueError, match="3 points have no delta-hyperbolicity: it needs at least 4"):
        hyperbolicity(points.__getitem__, 3, Metric("euclidean"), samples=9, draws=1, seed=0)
    with pytest.raises(ValueError, match="all 5 points of a draw coincide"):
        hyperbolicity(points.__getitem__, 5, Metric("euclidean"), samples=9, draws=1, seed=0)

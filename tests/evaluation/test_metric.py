from __future__ import annotations

import re

import mpmath as mp
import pytest
import torch
from torch.testing import assert_close

from hyplearn.evaluation.metric import Embeddings, Metric, concatenate, from_ambient
from hyplearn.geometry import lorentz
from hyplearn.manifolds import Euclidean, Lorentz, PoincareBall, Sphere
from hyplearn.nn.space import Space

METRICS = [Metric("lorentz", 0.7), Metric("poincare", 0.1), Metric("sphere"), Metric("euclidean")]


def valid(metric: Metric, count: int = 20, dim: int = 5) -> torch.Tensor:
    x = torch.randn(count, dim, dtype=torch.float64)
    return x / x.norm(dim=-1, keepdim=True) * 1.3 if metric.kind in ("poincare",) else x


@pytest.mark.parametrize("metric", METRICS, ids=str)
def test_inner_product_form_equals_the_direct_one(metric: Metric) -> None:
    x, y = valid(metric), valid(metric)
    query, gallery = metric.form.query(x), metric.form.gallery(y)
    gap = metric.form.scale * (query.offset[:, None] - query.vectors @ gallery.vectors.mT)
    pairs = torch.cartesian_prod(torch.arange(20), torch.arange(20)).T
    direct = metric.form.direct(x[pairs[0]], y[pairs[1]]).view(20, 20)
    assert_close(metric.form.distance(gap), direct, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("metric", METRICS, ids=str)
def test_direct_form_of_a_pair_does_not_depend_on_other_pairs(metric: Metric) -> None:
    x, y = valid(metric, 300, 37), valid(metric, 300, 37)
    together = metric.form.direct(x, y)
    assert torch.equal(together, torch.cat([metric.form.direct(x[i, None], y[i, None]) for i in range(300)]))


@pytest.mark.parametrize(
    ("metric", "manifold"),
    [
        (Metric("lorentz", 0.7), Lorentz(c=0.7)),
        (Metric("poincare", 0.1), PoincareBall(c=0.1)),
        (Metric("sphere"), Sphere()),
        (Metric("euclidean"), Euclidean()),
    ],
)
def test_it_is_the_distance_that_losses_use(metric: Metric, manifold) -> None:
    x, y = valid(metric), valid(metric)
    if metric.kind == "sphere":
        x, y = x / x.norm(dim=-1, keepdim=True), y / y.norm(dim=-1, keepdim=True)
    expected = Space(manifold).double().distance(x, y).diagonal()
    assert_close(metric.form.direct(x, y), expected, rtol=1e-6, atol=1e-6)


def test_fused_dissimilarity_is_the_weighted_sum() -> None:
    sphere, ball = Metric("sphere", weight=0.7), Metric("poincare", 0.1, weight=0.2)
    x, p = valid(sphere), valid(ball)
    both, rows, columns = Embeddings((x, p), (sphere, ball)), torch.arange(19), torch.arange(1, 20)
    expected = 0.7 * sphere.form.direct(x[:-1], x[1:]) + 0.2 * ball.form.direct(p[:-1], p[1:])
    assert_close(both.direct(rows, both, columns), expected)


def test_points_at_the_edge_of_the_ball_keep_their_digits() -> None:
    p = torch.tensor([[1 - 1e-7, 0.0], [0.0, 1 - 1e-7]], dtype=torch.float64)
    a, b = (mp.mpf(value) for value in (p[0, 0].item(), p[1, 1].item()))
    exact = 2 * mp.asinh(mp.sqrt((a**2 + b**2) / ((1 - a**2) * (1 - b**2))))
    assert Metric("poincare", 1.0).form.direct(p[:1], p[1:]).item() == pytest.approx(float(exact), rel=1e-8)


def test_a_zero_vector_has_cosine_0() -> None:
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=torch.float64)
    form = Metric("sphere").form
    assert form.direct(x[[0, 0, 1]], x[[0, 1, 1]]).tolist() == [2, 2, 0]
    assert form.query(x).vectors.tolist()[0] == [0, 0]


def test_select_concatenate_and_move() -> None:
    embeddings = Embeddings((torch.randn(6, 2), torch.randn(6, 3)), (Metric("sphere"), Metric("euclidean")))
    mask = torch.tensor([True, False, True, False, True, False])
    joined = concatenate([embeddings.select(mask), embeddings.select(~mask)])
    assert len(joined) == 6
    assert torch.equal(joined.points[1], embeddings.points[1][[0, 2, 4, 1, 3, 5]])
    assert (embeddings.width, str(embeddings)) == (5, "sphere + euclidean")
    assert embeddings.to("cpu").device.type == "cpu"
    with pytest.raises(ValueError, match="parts have different metrics"):
        concatenate([embeddings, Embeddings(torch.randn(6, 2), Metric("sphere"))])


def test_ambient_points_are_checked_against_the_curvature() -> None:
    x = torch.randn(7, 3)
    ambient = lorentz.to_ambient(x, c=0.5)
    assert torch.equal(from_ambient(ambient, c=0.5), x)
    assert torch.equal(from_ambient(ambient.half(), c=0.5), x.half())
    with pytest.raises(ValueError, match="do not lie on the hyperboloid of c=2"):
        from_ambient(ambient, c=2.0)
    with pytest.raises(ValueError, match="does time come first"):
        from_ambient(ambient.roll(-1, -1), c=0.5)
    with pytest.raises(ValueError, match=re.escape("shape (7, 1) must have shape (N, n + 1)")):
        from_ambient(ambient[:, :1], c=0.5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Metric("hyperbolic"), "kind='hyperbolic' must be one of 'lorentz', 'poincare', 'euclidean', 'sphere'"),
        (lambda: Metric("lorentz"), "c=None must be > 0 with kind='lorentz'"),
        (lambda: Metric("poincare", -1.0), "c=-1.0 must be > 0"),
        (lambda: Metric("sphere", 1.0), "c=1.0 must be None with kind='sphere'"),
        (lambda: Metric("sphere", weight=0.0), "weight=0.0 must be > 0"),
        (lambda: Embeddings(torch.ones(4), Metric("sphere")), "sphere points of shape (4,) and torch.float32"),
        (lambda: Embeddings(torch.ones(4, 2).long(), Metric("sphere")), "torch.int64 must have shape (N, n)"),
        (lambda: Embeddings(torch.tensor([[0.0], [torch.nan]]), Metric("euclidean")), "the first in row 1"),
        (
            lambda: Embeddings(torch.tensor([[0.0], [1.5]]), Metric("poincare", 1.0)),
            "1 of 2 points lie outside the ball of c=1, the first in row 1 with |p|=1.5",
        ),
        (lambda: Embeddings((), ()), "0 tensors of points and 0 metrics"),
        (lambda: Embeddings((torch.ones(2, 1),), (Metric("sphere"),) * 2), "1 tensors of points and 2 metrics"),
        (
            lambda: Embeddings((torch.ones(2, 1), torch.ones(3, 1)), (Metric("sphere"),) * 2),
            "every space must hold the same images",
        ),
        (lambda: concatenate([]), "must hold at least one Embeddings"),
    ],
)
def test_what_is_no_embedding_is_said(make, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


@pytest.mark.parametrize("metric", METRICS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("wrong", [float("inf"), float("-inf"), float("nan")])
def test_points_that_are_not_finite_are_refused_in_every_precision(
    metric: Metric, dtype: torch.dtype, wrong: float
) -> None:
    points = valid(metric).to(dtype)
    points[3, 0] = wrong
    with pytest.raises(ValueError, match=r"1 of 20 .* points are NaN, infinite .* the first in row 3"):
        metric.check(points)

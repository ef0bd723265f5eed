"""float32 values and gradients are finite everywhere a network can go: the origin, underflow, coincidence, d_max."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from hyplearn.geometry import lorentz, poincare, sphere
from hyplearn.geometry.isometry import lorentz_to_poincare, lorentz_to_poincare_tangent
from tests.support import fifty_digits as exact


def functions(g: ModuleType, x: Tensor, y: Tensor, v: Tensor, c: Tensor) -> dict[str, Tensor]:
    return {
        "dist": g.dist(x, y, c=c),
        "dist0": g.dist0(x, c=c),
        "cdist": g.cdist(x, y, c=c),
        "inner": g.inner(v, y, x, c=c),
        "norm": g.norm(v, x, c=c),
        "egrad2rgrad": g.egrad2rgrad(x, v, c=c),
        "expmap0": g.expmap0(v, c=c),
        "logmap0": g.logmap0(x, c=c),
        "expmap": g.expmap(x, v, c=c),
        "logmap": g.logmap(x, y, c=c),
        "transp": g.transp(x, y, v, c=c),
        "transp0": g.transp0(x, v, c=c),
        "transp0back": g.transp0back(x, v, c=c),
        "boost": g.boost(x, y, c=c),
        "centroid": g.centroid(torch.stack([x, y, x]), c=c, dim=0),
        "rescale0": g.rescale0(v, c=c, s=2.0),
        "rescale": g.rescale(x, c=c, s=2.0),
        "change_curvature": g.change_curvature(x, c_old=c, c_new=0.9 * c),
        "change_curvature_tangent": g.change_curvature_tangent(x, v, c_old=c, c_new=0.9 * c),
        "mlr": g.mlr(x, y, v[:, 0], c=c),
    }


@pytest.mark.parametrize("geometry", [lorentz, poincare])
@pytest.mark.parametrize("value", [0.05, 1.0, 20.0])
@pytest.mark.parametrize("distance", [0.0, 1e-38, 1e-22, 1e-10, 1e-3, 1.0, "d_max"])
@pytest.mark.parametrize("layout", ["apart", "coincident", "opposite", "one at the origin"])
def test_values_and_gradients_are_finite(
    geometry: ModuleType, value: float, distance: float | str, layout: str
) -> None:
    limit = lorentz.d_max(c=value).item()
    radius = (limit if distance == "d_max" else float(distance)) / (1 if geometry is lorentz else 2)
    u, w = torch.nn.functional.normalize(torch.randn(2, 3, 4), dim=-1) * radius
    x = geometry.expmap0(u, c=value)
    y = {"apart": geometry.expmap0(w, c=value), "coincident": x, "opposite": -x, "one at the origin": 0 * x}[layout]
    v = torch.randn(3, 4)
    v[0] = 0
    inputs = [t.detach().clone().requires_grad_() for t in (x, y, v, torch.tensor(value))]
    for name, output in functions(geometry, *inputs).items():
        assert output.isfinite().all(), name
        gradients = torch.autograd.grad(output.sum(), inputs, allow_unused=True)
        assert all(gradient is None or gradient.isfinite().all() for gradient in gradients), name


FAR = ("apart", "opposite", "one near the origin", "the other near the origin", "on a ray", "coincident")


def far_pair(layout: str, radius: float, c: float, dtype: torch.dtype) -> list[Tensor]:
    """Return x, y and short tangent vectors v, (5, 4) each, as leaves."""
    generator = torch.Generator().manual_seed(0)
    x, y, v = torch.nn.functional.normalize(torch.randn(3, 5, 4, generator=generator, dtype=torch.float64), dim=-1)
    x, y = {
        "apart": (radius * x, radius * y),
        "opposite": (radius * x, -radius * x),
        "one near the origin": (radius * x, 0.5 * y),
        "the other near the origin": (0.5 * y, radius * x),
        "on a ray": (radius * x, 0.5 * radius * x),
        "coincident": (radius * x, radius * x),
    }[layout]
    return [t.to(dtype).requires_grad_() for t in (x, y, v)]


def of_far_points(x: Tensor, y: Tensor, v: Tensor, c: float) -> dict[str, Tensor]:
    """Every function of points of the hyperboloid; those of tangent vectors with short ones."""
    return {
        "time": lorentz.time(x, c=c),
        "to_ambient": lorentz.to_ambient(x, c=c),
        "from_ambient": lorentz.from_ambient(lorentz.to_ambient(x, c=c)),
        "squared_chord": lorentz.squared_chord(x, y, c=c),
        "dist": lorentz.dist(x, y, c=c),
        "dist0": lorentz.dist0(x, c=c),
        "cdist": lorentz.cdist(x, y, c=c),
        "logmap": lorentz.logmap(x, y, c=c),
        "logmap0": lorentz.logmap0(x, c=c),
        "expmap": lorentz.expmap(x, v, c=c),
        "egrad2rgrad": lorentz.egrad2rgrad(x, v, c=c),
        "inner": lorentz.inner(v, v, x, c=c),
        "norm": lorentz.norm(v, x, c=c),
        "transp": lorentz.transp(x, y, v, c=c),
        "transp0": lorentz.transp0(x, v, c=c),
        "transp0back": lorentz.transp0back(x, v, c=c),
        "centroid": lorentz.centroid(torch.stack([x, y, x]), c=c, dim=0),
        "rescale": lorentz.rescale(x, c=c, s=2.0, x_t_max=2e3),
        "change_curvature": lorentz.change_curvature(x, c_old=c, c_new=0.9 * c),
        "change_curvature, scale": lorentz.change_curvature(x, c_old=c, c_new=0.9 * c, mode="scale"),
        "change_curvature_tangent": lorentz.change_curvature_tangent(x, v, c_old=c, c_new=1.1 * c),
        "mlr": lorentz.mlr(x, v, v[:, 0], c=c),
        "lorentz_to_poincare": lorentz_to_poincare(x, c=c),
        "lorentz_to_poincare_tangent": lorentz_to_poincare_tangent(x, v, c=c),
    }


def of_long_vectors(x: Tensor, v: Tensor, c: float) -> dict[str, Tensor]:
    """Functions whose vectors may have any length, the hyperboloid's exponential not being one."""
    point = v / (2 * c**0.5)
    return {
        "lorentz.rescale0": lorentz.rescale0(x, c=c, s=2.0, x_t_max=2e3),
        "lorentz.mlr": lorentz.mlr(v, x, v[:, 0], c=c),
        "poincare.rescale0": poincare.rescale0(x, c=c, s=2.0, x_t_max=2e3),
        "poincare.expmap0": poincare.expmap0(x, c=c),
        "poincare.expmap": poincare.expmap(point, x, c=c),
        "poincare.proj": poincare.proj(x, c=c, x_t_max=2e3),
        "poincare.norm": poincare.norm(x, point, c=c),
        "poincare.mlr": poincare.mlr(point, x, v[:, 0], c=c),
        "sphere.proj": sphere.proj(x),
        "sphere.mlr": sphere.mlr(sphere.proj(v), x),
    }


@pytest.mark.parametrize("c", [0.05, 1.0, 20.0])
@pytest.mark.parametrize(("dtype", "largest"), [(torch.float32, 1e18), (torch.float64, 1e152)])
@pytest.mark.parametrize("share", [1e-1, 0.3, 0.5, 0.7, 0.9, 1.0])  # of the exponent
@pytest.mark.parametrize("layout", FAR)
def test_no_product_overflows_before_the_square_of_a_time(
    c: float, dtype: torch.dtype, largest: float, share: float, layout: str
) -> None:
    """Radii up to a tenth of the root of the largest number of the type."""
    radius = largest**share / max(1, c) ** 0.5  # c |x|^2, too, is formed
    x, y, v = far_pair(layout, radius, c, dtype)
    results = of_far_points(x, y, v, c) | of_long_vectors(x, v, c)
    if layout.endswith("near the origin"):  # else the result is about as far as a product of radii
        results["boost"] = lorentz.boost(x, y, c=c)
    for name, found in results.items():
        assert found.isfinite().all(), f"{name} at {radius}"
        # Slopes of a square of a time, and of a transport along a ray, are products of three radii on their way.
        if name in ("squared_chord", "transp"):
            continue
        gradients = torch.autograd.grad(found.sum(), (x, y, v), allow_unused=True, retain_graph=True)
        assert all(g is None or g.isfinite().all() for g in gradients), f"gradient of {name} at {radius}"


@pytest.mark.parametrize("c", [0.05, 1.0, 20.0])
@pytest.mark.parametrize("radius", [1e3, 1e6, 1e9, 1e12, 1e18])
@pytest.mark.parametrize("count", [1, 3, 50])
def test_pairwise_distances_of_far_points_from_many_near_the_origin(count: int, radius: float, c: float) -> None:
    """The midst of both is then far out too, and seen from there every pair is close beside the spread of all."""
    x = torch.nn.functional.normalize(torch.randn(count, 5), dim=1) * radius / max(1, c) ** 0.5
    y, curvature = torch.randn(300, 5), torch.tensor(c)
    inputs = [t.requires_grad_() for t in (x, y, curvature)]
    wide = [t.detach().double().requires_grad_() for t in inputs]
    found, expected = lorentz.cdist(x, y, c=curvature), lorentz.dist(wide[0][:, None], wide[1], c=wide[2])
    assert_close(found.double(), expected, rtol=2e-5, atol=0)
    if radius > 1e12:  # where float32 has no digit left of the others' places as seen from the midst
        return
    of_x, *others = torch.autograd.grad(found.sum(), inputs)
    assert of_x.isfinite().all()  # of size 1/radius, which the difference of two points does not resolve
    for got, right in zip(others, torch.autograd.grad(expected.sum(), wide[1:]), strict=True):
        assert (got - right).norm() < 1e-4 * right.norm()


def test_pairwise_distances_whose_cosine_has_no_square_match_fifty_digits() -> None:
    x = torch.tensor([[3e18, 1e17], [1e15, -2e14], [1.0, 2.0]])
    y = torch.tensor([[-2e18, 5e16], [3e12, 4e12], [-1e18, -1e18]])
    distances = lorentz.cdist(x, y, c=0.7)
    c = exact.number(torch.tensor(0.7))
    for i in range(3):
        for j in range(3):
            truth = exact.dist(exact.vector(x[i]), exact.vector(y[j]), c)
            assert exact.error(distances[i, j], truth) < 3e-7

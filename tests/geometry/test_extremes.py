"""float32 values and gradients are finite everywhere a network can go: the origin, underflow, coincidence, d_max."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

from hyplearn.geometry import lorentz, poincare


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


@pytest.mark.parametrize("c", [0.05, 1.0, 20.0])
@pytest.mark.parametrize(("dtype", "largest"), [(torch.float32, 1e18), (torch.float64, 1e150)])
@pytest.mark.parametrize("share", [1e-1, 0.3, 0.5, 0.7, 0.9, 1.0])  # of the exponent: 10^(18 share)
@pytest.mark.parametrize("layout", ["apart", "opposite", "one near the origin"])
def test_no_product_overflows_before_the_square_of_a_time(
    c: float, dtype: torch.dtype, largest: float, share: float, layout: str
) -> None:
    """Radii up to a tenth of the root of the largest number of the type."""
    radius = largest**share / max(1, c) ** 0.5  # c |x|^2, too, is formed
    generator = torch.Generator().manual_seed(0)
    x, y, v = torch.nn.functional.normalize(torch.randn(3, 5, 4, generator=generator, dtype=torch.float64), dim=-1)
    x, y = radius * x, {"apart": radius * y, "opposite": -radius * x, "one near the origin": 0.5 * y}[layout]
    scales = (x.abs().max().item(), y.abs().max().item())
    x, y, v = (t.to(dtype).requires_grad_() for t in (x, y, v))
    results = {
        "chord": lorentz.squared_chord(x, y, c=c),
        "dist": lorentz.dist(x, y, c=c),
        "logmap": lorentz.logmap(x, y, c=c),
        "logmap0": lorentz.logmap0(x, c=c),
        "expmap": lorentz.expmap(x, v, c=c),
        "egrad2rgrad": lorentz.egrad2rgrad(x, v, c=c),
        "inner": lorentz.inner(v, v, x, c=c),
        "transp": lorentz.transp(x, y, v, c=c),
        "transp0": lorentz.transp0(x, v, c=c),
        "transp0back": lorentz.transp0back(x, v, c=c),
        "centroid": lorentz.centroid(torch.stack([x, y, x]), c=c, dim=0),
        "rescale": lorentz.rescale(x, c=c, s=2.0, x_t_max=2e3),
    }
    if c * scales[0] * scales[1] < largest / 10:  # cosh d is squared there, see its docstring
        results["cdist"] = lorentz.cdist(x, y, c=c)
    if layout == "one near the origin":
        results["boost"] = lorentz.boost(x, y, c=c)
        results["boost to far"] = lorentz.boost(y, x, c=c)
    for name, found in results.items():
        assert found.isfinite().all(), f"{name} at {scales}"
        gradients = torch.autograd.grad(found.sum(), (x, y, v), allow_unused=True, retain_graph=True)
        assert all(g is None or g.isfinite().all() for g in gradients), f"gradient of {name} at {scales}"

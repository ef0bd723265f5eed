"""Points of the ball stay inside, in every precision and through every map; derivatives at kinks are finite."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hyplearn.geometry import lorentz, poincare
from hyplearn.geometry.isometry import lorentz_to_poincare
from hyplearn.manifolds import Lorentz, Manifolds, PoincareBall
from hyplearn.models.resnet import ResNet

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
LENGTHS = (1e-3, 1.0, 5.0, 9.0, 10.0, 20.0, 100.0)  # of tangent vectors, in units of k
CURVATURES = (0.05, 1.0, 7.0)
MAPS = {
    "expmap0": lambda v, p, c: poincare.expmap0(v, c=c),
    "expmap": lambda v, p, c: poincare.expmap(p, 0.1 * v, c=c),
    "mobius_add": lambda v, p, c: poincare.mobius_add(poincare.expmap0(v, c=c), p, c=c),
    "boost": lambda v, p, c: poincare.boost(poincare.expmap0(v, c=c), poincare.expmap0(v, c=c), c=c),
    "change_curvature": lambda v, p, c: poincare.change_curvature(poincare.expmap0(v, c=c), c_old=c, c_new=c),
    "from the hyperboloid": lambda v, p, c: lorentz_to_poincare(1e4 * v, c=c),
}


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("c", CURVATURES)
def test_points_stay_inside_with_finite_distances(c: float, dtype: torch.dtype, name: str) -> None:
    if name == "from the hyperboloid" and dtype == torch.float16:
        pytest.skip("squares of such coordinates are beyond float16: X_T_MAX is 22 there")
    directions = torch.nn.functional.normalize(torch.randn(len(LENGTHS), 16, dtype=torch.float64), dim=1)
    v = (directions * torch.tensor(LENGTHS, dtype=torch.float64)[:, None] / c**0.5).to(dtype).requires_grad_()
    p = poincare.expmap0(directions.flip(0) / c**0.5, c=c).to(dtype)
    x = MAPS[name](v, p, c)
    assert (c * x.detach().double().square().sum(1) < 1).all()
    found = {
        "dist0": poincare.dist0(x, c=c),
        "dist": poincare.dist(x, -x, c=c),
        "logmap0": poincare.logmap0(x, c=c),
    }
    if dtype in (torch.float64, torch.float32):
        found["cdist"] = poincare.cdist(x, -x, c=c)
    for what, value in found.items():
        assert value.isfinite().all(), what
        if dtype in (torch.float64, torch.float32):  # slopes at the edge are beyond half precision
            (gradient,) = torch.autograd.grad(value.sum(), v, retain_graph=True)
            assert gradient.isfinite().all(), what


@pytest.mark.parametrize("c", CURVATURES)
def test_points_further_in_are_left_as_they_are(c: float) -> None:
    v = torch.randn(50, 8) / c**0.5
    t = c * v.square().sum(-1, keepdim=True)
    assert torch.equal(poincare.expmap0(v, c=c), poincare.tanhc(t) * v)


@pytest.mark.parametrize("manifold", [PoincareBall(c=0.7), Lorentz(c=0.7)], ids=["poincare", "lorentz"])
def test_second_derivatives_at_kinks_are_finite(manifold: PoincareBall | Lorentz) -> None:
    other = torch.full((2, 3), 0.2)
    cases = {"dist0": (manifold.dist0, torch.zeros(2, 3)), "dist": (lambda x: manifold.dist(x, other), other.clone())}
    for name, (distance, at) in cases.items():
        x = at.requires_grad_()
        (gradient,) = torch.autograd.grad(distance(x).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(gradient.square().sum(), x)
        assert gradient.isfinite().all(), name
        assert second.isfinite().all(), name


def test_second_derivatives_are_right_elsewhere() -> None:
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradgradcheck(lambda x: lorentz.dist0(x, c=0.7), x)
    torch.autograd.gradgradcheck(lambda x: poincare.dist0(0.3 * torch.tanh(x), c=0.7), x)


def test_a_gradient_penalty_of_a_poincare_network_is_finite() -> None:
    network = ResNet(
        depth=18, in_channels=3, num_classes=4, image_size=16, width=4, manifold=Manifolds("poincare"), stem="poincare",
        stages=("poincare",) * 4, head="poincare_mlr",
    ).eval()  # fmt: skip
    x = torch.randn(3, 3, 16, 16, requires_grad=True)
    (gradient,) = torch.autograd.grad(network(x).sum(), x, create_graph=True)
    (gradient.flatten(1).norm(dim=1) - 1).square().mean().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)


@pytest.mark.parametrize("c", [-1.0, 0.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["expmap0", "logmap0", "dist0", "dist"])
@pytest.mark.parametrize("geometry", [lorentz, poincare], ids=["lorentz", "poincare"])
def test_a_number_that_is_no_curvature_is_refused(geometry: Any, name: str, c: float) -> None:
    x = torch.zeros(2, 3)
    points = (x, x) if name == "dist" else (x,)
    with pytest.raises(ValueError, match=f"c={c} must be a finite number > 0"):
        getattr(geometry, name)(*points, c=c)

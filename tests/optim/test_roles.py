from __future__ import annotations

import torch
from torch import nn

from hyplearn.manifolds import Curvature, Euclidean, Lorentz, ManifoldParameter
from hyplearn.manifolds.interop import geoopt
from hyplearn.optim.roles import curvatures_among, is_point, manifold_of, manifolds_of


def test_points_are_told_by_type() -> None:
    manifold = Lorentz()
    assert is_point(ManifoldParameter(torch.zeros(3), manifold=manifold))
    for flat in (Euclidean(), geoopt.Euclidean()):
        assert not is_point(ManifoldParameter(torch.zeros(3), manifold=flat))
    assert not is_point(nn.Parameter(torch.zeros(3)))
    assert not is_point(manifold.curvature.raw)


def test_manifolds_are_found_once_each() -> None:
    first, second = Lorentz(), Lorentz()
    points = [ManifoldParameter(torch.zeros(3), manifold=m) for m in (first, second, first)]
    assert [m is n for m, n in zip(manifolds_of([nn.Parameter(torch.zeros(1)), *points]), (first, second), strict=True)]
    assert manifold_of(points[1]) is second


def test_curvatures_are_marked_or_owned() -> None:
    lone, manifold = Curvature(), geoopt.Lorentz(learnable=True)
    point = ManifoldParameter(manifold.origin(3).detach().clone(), manifold=manifold)
    weight = nn.Parameter(torch.zeros(()))
    assert curvatures_among([weight, lone.raw, point, manifold.k]) == {lone.raw, manifold.k}
    assert curvatures_among([weight, manifold.k]) == set()  # no point tells what it is

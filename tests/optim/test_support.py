from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import nn

from hyplearn.manifolds import Euclidean, Lorentz, ManifoldParameter
from hyplearn.manifolds.interop import geoopt
from hyplearn.optim import RiemannianAdam, RiemannianAdamW, RiemannianSGD, check_supports

OURS = [RiemannianSGD, RiemannianAdam, RiemannianAdamW]
PLAIN = [torch.optim.SGD, torch.optim.AdamW]
GEOOPT = [geoopt.optim.RiemannianSGD, geoopt.optim.RiemannianAdam]


def flat() -> nn.Module:
    model = nn.Linear(2, 2)
    model.shift = ManifoldParameter(torch.zeros(3), manifold=Euclidean())
    return model


def pointed(manifold: Any) -> nn.Module:
    model = nn.Module()
    model.manifold = manifold
    model.shift = ManifoldParameter(manifold.origin(3).detach().clone(), manifold=manifold)
    return model


@pytest.mark.parametrize("optimizer", [*OURS, *PLAIN, *GEOOPT])
def test_every_optimizer_trains_flat_models(optimizer: Any) -> None:
    check_supports(optimizer, flat())


@pytest.mark.parametrize("optimizer", OURS)
def test_ours_train_everything(optimizer: Any) -> None:
    for manifold in (Lorentz(), geoopt.Lorentz(learnable=True)):
        check_supports(functools.partial(functools.partial(optimizer, lr=0.1), weight_decay=0.0), pointed(manifold))


@pytest.mark.parametrize("optimizer", PLAIN)
def test_euclidean_optimizers_take_no_points(optimizer: Any) -> None:
    message = rf"{optimizer.__name__} cannot train 'shift', points on Lorentz.*optim=rsgd, radam or radamw"
    with pytest.raises(ValueError, match=message):
        check_supports(functools.partial(optimizer, lr=0.1), pointed(Lorentz(learned=False)))


@pytest.mark.parametrize("optimizer", [*PLAIN, *GEOOPT])
def test_only_ours_learn_curvature(optimizer: Any) -> None:
    with pytest.raises(ValueError, match=r"cannot train the curvature 'curvature\.raw'.*manifold\.learned=false"):
        check_supports(optimizer, Lorentz())


@pytest.mark.parametrize("optimizer", GEOOPT)
def test_only_ours_learn_the_curvature_of_geoopt(optimizer: Any) -> None:
    with pytest.raises(ValueError, match=r"cannot train the curvature 'manifold\.isp_c'"):
        check_supports(optimizer, pointed(geoopt.PoincareBall(learnable=True)))


@pytest.mark.parametrize("optimizer", GEOOPT)
def test_optimizers_of_geoopt_take_points(optimizer: Any) -> None:
    check_supports(optimizer, pointed(Lorentz(learned=False)))


@pytest.mark.parametrize("optimizer", PLAIN)
def test_frozen_points_are_no_matter(optimizer: Any) -> None:
    model = pointed(Lorentz(learned=False))
    model.shift.requires_grad_(False)
    check_supports(optimizer, model)

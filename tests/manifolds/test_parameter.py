"""Parameters on manifolds: what they check, copy and promote."""

from __future__ import annotations

import pytest
import torch

from hyplearn.manifolds import Lorentz, ManifoldParameter, PoincareBall, Sphere, manifold_parameter


def test_it_is_a_copy_in_float32_or_better() -> None:
    data, manifold = torch.randn(3, 4), Lorentz()
    parameter = manifold_parameter(data, manifold)
    assert isinstance(parameter, ManifoldParameter)
    assert parameter.requires_grad
    assert parameter.manifold is manifold
    data.zero_()
    assert parameter.abs().sum() > 0
    assert manifold_parameter(torch.zeros(3, 4, dtype=torch.bfloat16), manifold).dtype == torch.float32
    assert manifold_parameter(torch.zeros(3, 4, dtype=torch.float64), manifold).dtype == torch.float64
    assert not manifold_parameter(data, manifold, requires_grad=False).requires_grad


def test_points_off_the_manifold_are_refused() -> None:
    with pytest.raises(ValueError, match=r"not lying on PoincareBall"):
        manifold_parameter(torch.ones(2, 3), PoincareBall())
    with pytest.raises(ValueError, match=r"not lying on Sphere"):
        manifold_parameter(torch.ones(2, 3), Sphere())
    with pytest.raises(ValueError, match=r"not lying on Lorentz"):
        manifold_parameter(torch.full((2, 3), torch.inf), Lorentz())
    with pytest.raises(ValueError, match=r"requires more than 1 dim"):
        manifold_parameter(torch.tensor(1.0), Lorentz())


def test_integers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"data has dtype torch\.int64"):
        manifold_parameter(torch.zeros(2, 3, dtype=torch.int64), Lorentz())

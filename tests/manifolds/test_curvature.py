"""The curvature scalar: parametrizations, bounds, gradient, copies."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from hyplearn.manifolds import Curvature, CurvatureParameter


@pytest.mark.parametrize("parametrization", ["K", "log_c"])
@pytest.mark.parametrize("c", [0.05, 0.7, 1.0, 20.0])
@pytest.mark.parametrize("learned", [True, False])
def test_c_is_c_in_every_parametrization(parametrization: Any, c: float, learned: bool) -> None:
    curvature = Curvature(c, parametrization=parametrization, learned=learned)
    assert curvature.c.shape == ()
    assert curvature.c.dtype == torch.float32
    assert curvature.c.item() == pytest.approx(c, rel=1e-6)
    assert curvature.c.requires_grad == learned
    assert len(list(curvature.parameters())) == learned
    assert "raw" in curvature.state_dict()


@pytest.mark.parametrize(("parametrization", "slope"), [("K", -0.49), ("log_c", 0.7)])
def test_gradient_reaches_the_raw_value(parametrization: Any, slope: float) -> None:
    """dc/dK = -c^2, dc/dlog c = c."""
    curvature = Curvature(0.7, parametrization=parametrization)
    curvature.c.backward()
    assert curvature.raw.grad is not None
    assert curvature.raw.grad.item() == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("parametrization", ["K", "log_c"])
@pytest.mark.parametrize(("step", "end"), [(1e3, "low"), (-1e3, "high")])
def test_projection_ends_at_the_bounds(parametrization: Any, step: float, end: str) -> None:
    curvature = Curvature(1.0, parametrization=parametrization, bounds=(0.1, 9.0))
    assert not curvature.at_bound
    curvature.project_()
    assert curvature.c.item() == 1.0
    step = step if parametrization == "K" else -step
    with torch.no_grad():
        curvature.raw += step
    assert curvature.at_bound
    curvature.project_()
    assert curvature.at_bound
    assert curvature.c.item() == pytest.approx(0.1 if end == "low" else 9.0, rel=1e-6)
    assert curvature.raw.requires_grad


def test_the_parameter_type_marks_it_and_survives_copies() -> None:
    curvature = Curvature(0.5)
    assert isinstance(curvature.raw, CurvatureParameter)
    assert not isinstance(nn.Parameter(torch.zeros(())), CurvatureParameter)
    for twin in (copy.deepcopy(curvature), pickle.loads(pickle.dumps(curvature))):
        assert isinstance(twin.raw, CurvatureParameter)
        assert twin.raw.requires_grad
        assert twin.raw.item() == 2.0
    frozen = copy.deepcopy(curvature).requires_grad_(False)
    assert not pickle.loads(pickle.dumps(frozen)).raw.requires_grad


def test_half_precision_modules_still_give_a_float32_curvature() -> None:
    assert Curvature(0.5).bfloat16().c.dtype == torch.float32
    assert Curvature(0.5).double().c.dtype == torch.float64


def test_representation_shows_what_a_user_asks_for() -> None:
    assert repr(Curvature(0.5)) == "Curvature(c=0.5, learned as K, bounds=(0.05, 20.0))"
    assert "fixed" in repr(Curvature(0.5, learned=False))


def test_a_state_dict_moves_between_learned_and_fixed() -> None:
    learned, fixed = Curvature(0.5), Curvature(2.0, learned=False)
    fixed.load_state_dict(learned.state_dict())
    assert_close(fixed.c, learned.c.detach())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"c": 0.0}, r"c=0\.0 must lie in bounds=\[0\.05, 20\.0\]"),
        ({"c": 21.0}, r"c=21\.0 must lie in bounds"),
        ({"c": float("nan")}, "c=nan must lie in bounds"),
        ({"bounds": (0.0, 1.0)}, r"bounds=\(0\.0, 1\.0\) must satisfy 0 < low < high"),
        ({"bounds": (2.0, 0.5)}, "must satisfy 0 < low < high"),
        ({"bounds": (0.5, float("inf"))}, "must satisfy 0 < low < high"),
        ({"parametrization": "k"}, "parametrization='k' must be one of"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Curvature(**arguments)

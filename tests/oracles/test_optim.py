"""RiemannianAdamW and RiemannianSGD with moving curvature against 20 steps of the authors' library, in float64.

As published, the momentum is not moved with the curvature (and RSGD starts its buffer as the raw gradient, which the
same step counts again): those entries differ by a documented amount, so they bound the tests from both sides.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hyplearn.manifolds import Lorentz, ManifoldParameter
from hyplearn.optim import RiemannianAdamW, RiemannianSGD, parameter_groups
from tests.support.oracles import oracle, tensor

STEPS = 20


class Points(nn.Module):
    """Points on a hyperboloid of K = 1, in the bounds of the authors' library."""

    def __init__(self, points: Tensor, *, learned: bool) -> None:
        super().__init__()
        self.manifold = Lorentz(1.0, learned=learned, bounds=(1 / 9, 20.0)).double()
        self.x = ManifoldParameter(points, manifold=self.manifold)

    @property
    def k(self) -> Tensor:
        return 1 / self.manifold.c.detach()


def groups(model: Points, inputs: dict[str, Any], decay: float, curvature_lr: float) -> list[dict[str, Any]]:
    return parameter_groups(model, lr=inputs["lr_points"], weight_decay=decay, curvature_lr=curvature_lr)


def largest_difference(
    model: Points,
    optimizer: torch.optim.Optimizer,
    inputs: dict[str, Any],
    expected: dict[str, Any],
    *,
    imitate: float | None = None,
) -> tuple[float, float]:
    """Of points and of K at the listed steps. imitate: a decay that acts on space coordinates once more."""
    points, curvatures = [], []
    gradients = tensor(inputs["gradients_by_space_coordinates"])
    for step in range(STEPS):
        model.x.grad = gradients[step].clone()
        if imitate is not None:
            model.x.grad += imitate * model.x.detach()
        for raw in (p for p in model.parameters() if p is not model.x):
            raw.grad = tensor(inputs["gradients_by_K"][step]).reshape(raw.shape)
        optimizer.step()
        listed = expected.get(f"step{step + 1}")
        if listed is not None:
            points.append((model.x.detach() - tensor(listed["points_space"])).abs().max().item())
            curvatures.append(abs(model.k.item() - listed["K"]))
    assert len(points) >= 3
    return max(points), max(curvatures)


ADAMW_MET = {
    "learned_K_decay0_momentum_carried": 1e-6,
    "fixed_K_decay0_as_published": 1e-6,
    "learned_K_decay0.01_momentum_carried_and_transported_at_decay": 1e-6,
    "fixed_K_decay0.01_momentum_carried_and_transported_at_decay": 1e-6,
    "learned_K_decay0_momentum_carried_fast_K_hits_bound": 1e-6,
}
ADAMW_DIFFERENT = {  # the momentum left behind by a move of K, or by the decay
    "learned_K_decay0_as_published": (1e-5, 3e-4),
    "learned_K_decay0.01_as_published": (1e-5, 1e-3),
    "learned_K_decay0.01_momentum_carried": (1e-5, 1e-3),
    "fixed_K_decay0.01_as_published": (1e-5, 1e-3),
}


def adamw_difference(case: str) -> tuple[float, float]:
    inputs, outputs = oracle("radamw_moving_curvature")
    model = Points(tensor(inputs["points_space"]), learned="learned_K" in case)
    decay = 0.01 if "decay0.01" in case else 0.0
    rate = inputs["lr_K_of_fast_case"] if "fast" in case else inputs["lr_K"]
    optimizer = RiemannianAdamW(groups(model, inputs, decay, rate), betas=tuple(inputs["betas"]), eps=inputs["eps"])
    return largest_difference(model, optimizer, inputs, outputs[case])


@pytest.mark.parametrize(("case", "tolerance"), ADAMW_MET.items())
def test_radamw(case: str, tolerance: float) -> None:
    points, k = adamw_difference(case)
    assert points < tolerance
    assert k < 1e-12


@pytest.mark.parametrize(("case", "bounds"), ADAMW_DIFFERENT.items())
def test_radamw_leaves_the_published_momentum_behind(case: str, bounds: tuple[float, float]) -> None:
    points, k = adamw_difference(case)
    assert bounds[0] < points < bounds[1]
    assert k < 1e-12


def rsgd_cases() -> dict[str, tuple[float, bool]]:
    """Cases that are met: those with torch's start and a carried momentum, or no momentum."""
    _, outputs = oracle("rsgd_moving_curvature")
    return {
        case: (0.01 if "decay0.01" in case else 0.0, "learned_K" in case)
        for case in outputs
        if "torch_start" in case or "momentum0_" in case
    }


def rsgd_of(case: str, decay: float, learned: bool) -> tuple[Points, RiemannianSGD, dict[str, Any], dict[str, Any]]:
    inputs, outputs = oracle("rsgd_moving_curvature")
    start = "origin" if case.startswith("start_origin") else "points"
    model = Points(tensor(inputs["starts"][start]), learned=learned)
    momentum = 0.9 if "momentum0.9" in case else 0.0
    optimizer = RiemannianSGD(
        groups(model, inputs, decay, inputs["lr_K"]), momentum=momentum, nesterov="nesterov" in case
    )
    return model, optimizer, inputs, outputs[case]


@pytest.mark.parametrize(("case", "options"), rsgd_cases().items())
def test_rsgd(case: str, options: tuple[float, bool]) -> None:
    """Their decay acts on ambient coordinates, which pulls twice as hard: imitated where there is one."""
    decay, learned = options
    model, optimizer, inputs, expected = rsgd_of(case, decay, learned)
    points, k = largest_difference(model, optimizer, inputs, expected, imitate=decay or None)
    assert points < 5e-6
    assert k < 1e-12
    if decay:
        model, optimizer, inputs, expected = rsgd_of(case, decay, learned)
        assert 1e-4 < largest_difference(model, optimizer, inputs, expected)[0] < 0.2


@pytest.mark.parametrize("learned", [True, False])
def test_rsgd_with_the_published_first_step(learned: bool) -> None:
    """From the origin: the buffer set to the first gradient before the first step gives the published points."""
    rest = "learned_K_decay0_momentum_carried" if learned else "fixed_K_decay0_as_published"
    case = f"start_origin_momentum0.9_nesterov_{rest}"
    model, optimizer, inputs, expected = rsgd_of(case, 0.0, learned)
    first = tensor(inputs["gradients_by_space_coordinates"])[0]
    optimizer.state[model.x]["momentum_buffer"] = first.clone()
    points, k = largest_difference(model, optimizer, inputs, expected)
    assert points < 5e-6
    assert k < 1e-12
    model, optimizer, inputs, expected = rsgd_of(case, 0.0, learned)
    assert 1e-3 < largest_difference(model, optimizer, inputs, expected)[0] < 0.3


@pytest.mark.parametrize(
    ("case", "first_step", "bounds"),
    [
        # the momentum left behind by a move of K
        ("start_origin_momentum0.9_nesterov_learned_K_decay0_as_published", True, (5e-5, 1e-3)),
        # away from the origin the raw gradient is not even tangent
        ("start_points_momentum0.9_nesterov_learned_K_decay0_as_published", False, (1e-2, 0.3)),
        ("start_points_momentum0.9_nesterov_fixed_K_decay0_as_published", False, (1e-2, 0.3)),
    ],
)
def test_rsgd_as_published_differs_within_bounds(case: str, first_step: bool, bounds: tuple[float, float]) -> None:
    model, optimizer, inputs, expected = rsgd_of(case, 0.0, "learned_K" in case)
    if first_step:
        optimizer.state[model.x]["momentum_buffer"] = tensor(inputs["gradients_by_space_coordinates"])[0]
    points, k = largest_difference(model, optimizer, inputs, expected)
    assert bounds[0] < points < bounds[1]
    assert k < 1e-12


def test_first_step_is_2_7_gradients_as_published_and_1_9_here() -> None:
    """Near the origin, at fixed K, a step is that many gradients: 1 + 0.9 (1 + 0.9) against 1 + 0.9."""
    case = "start_origin_momentum0.9_nesterov_fixed_K_decay0_as_published"
    model, optimizer, inputs, expected = rsgd_of(case, 0.0, learned=False)
    g = tensor(inputs["gradients_by_space_coordinates"])[0]
    model.x.grad = g.clone()
    optimizer.step()
    scale = inputs["lr_points"] * g.norm()
    assert model.x.detach().norm() / scale == pytest.approx(1.9, rel=1e-3)
    assert tensor(expected["step1"]["points_space"]).norm() / scale == pytest.approx(2.71, rel=1e-3)

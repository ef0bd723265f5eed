from __future__ import annotations

import io
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from hyplearn.manifolds import Lorentz, ManifoldParameter
from hyplearn.optim import RiemannianSGD, build_schedule, parameter_groups
from hyplearn.optim.schedule import Schedule

PAPER = {"name": "multistep", "milestones": [0.3, 0.6, 0.8], "gamma": 0.2, "manifold_skips_first_drop": True}


def optimizer() -> Optimizer:
    model = nn.Sequential(nn.Linear(2, 2))
    model.manifold = Lorentz()
    model.shift = ManifoldParameter(torch.zeros(3), manifold=model.manifold)
    return RiemannianSGD(parameter_groups(model, lr=0.1, manifold_lr_scale=0.2, curvature_lr=1e-3), lr=0.1)


def rates(schedule: Schedule, steps: int) -> list[list[float]]:
    """The rates during each step, by group."""
    found = []
    for _ in range(steps):
        found.append([group["lr"] for group in schedule.optimizer.param_groups])
        schedule.optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize("milestones", [[0.3, 0.6, 0.8], [60, 120, 160]])
def test_recipe_of_the_papers(milestones: list[float]) -> None:
    """HCNN: weights 0.1, 0.02, 0.004, 0.0008; points 0.02, 0.02, 0.004, 0.0008, over 200 epochs."""
    found = rates(build_schedule(optimizer(), {**PAPER, "milestones": milestones}, total_epochs=200), 200)
    for epochs, expected in (
        (range(60), [0.1, 0.02, 1e-3]),
        (range(60, 120), [0.02, 0.02, 2e-4]),
        (range(120, 160), [0.004, 0.004, 4e-5]),
        (range(160, 200), [0.0008, 0.0008, 8e-6]),
    ):
        assert all(found[epoch] == pytest.approx(expected, rel=1e-12) for epoch in epochs)


def test_every_group_drops_at_every_milestone_unless_told() -> None:
    settings = {key: value for key, value in PAPER.items() if key != "manifold_skips_first_drop"}
    found = rates(build_schedule(optimizer(), settings, total_epochs=10), 10)
    assert found[3] == pytest.approx([0.02, 0.004, 2e-4])


def test_milestones_count_in_optimizer_steps_too() -> None:
    by_step = rates(build_schedule(optimizer(), PAPER, total_epochs=10, steps_per_epoch=7), 70)
    by_epoch = rates(build_schedule(optimizer(), PAPER, total_epochs=10), 10)
    assert by_step == [rate for rate in by_epoch for _ in range(7)]


def test_a_milestone_never_comes_before_its_time() -> None:
    """A run of one epoch keeps its rate; a fraction that falls inside an epoch drops after it."""
    assert rates(build_schedule(optimizer(), PAPER, total_epochs=1), 1)[0][0] == 0.1
    assert [r[0] for r in rates(build_schedule(optimizer(), PAPER, total_epochs=4), 4)] == pytest.approx(
        [0.1, 0.1, 0.02, 0.004]
    )


def test_cosine_with_warmup() -> None:
    settings = {"name": "cosine", "warmup": 0.1, "final": 0.5}
    found = rates(build_schedule(optimizer(), settings, total_epochs=10, steps_per_epoch=10), 101)
    weights, points, curvatures = zip(*found, strict=True)
    assert weights[:10] == pytest.approx([0.1 * (step + 1) / 11 for step in range(10)])
    assert weights[10] == pytest.approx(0.1)
    assert weights[55] == pytest.approx(0.075)
    assert weights[100] == pytest.approx(0.05)
    assert all(a > b for a, b in pairwise(weights[10:]))
    assert points == pytest.approx([0.2 * rate for rate in weights])
    assert curvatures == pytest.approx([0.01 * rate for rate in weights])


def test_cosine_stays_at_its_end() -> None:
    schedule = build_schedule(optimizer(), {"name": "cosine"}, total_epochs=3)
    assert rates(schedule, 6)[-1] == [0, 0, 0]


def test_warmup_in_epochs() -> None:
    settings = {"name": "cosine", "warmup": 2}
    assert [r[0] for r in rates(build_schedule(optimizer(), settings, total_epochs=8), 3)] == pytest.approx(
        [0.1 / 3, 0.2 / 3, 0.1]
    )


def test_constant() -> None:
    assert rates(build_schedule(optimizer(), {"name": "constant"}, total_epochs=3), 3) == [[0.1, 0.1 * 0.2, 1e-3]] * 3


@pytest.mark.parametrize("settings", [PAPER, {"name": "cosine", "warmup": 0.2}])
def test_state_dict_round_trip(settings: dict[str, Any]) -> None:
    schedule = build_schedule(optimizer(), settings, total_epochs=10)
    rates(schedule, 4)
    buffer = io.BytesIO()
    torch.save([schedule.state_dict(), schedule.optimizer.state_dict()], buffer)
    buffer.seek(0)
    resumed = build_schedule(optimizer(), settings, total_epochs=10)
    states = torch.load(buffer, weights_only=True)
    resumed.load_state_dict(states[0])
    resumed.optimizer.load_state_dict(states[1])
    resumed.optimizer.step()
    assert rates(resumed, 6) == rates(schedule, 6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "cosin"}, "schedule.name: 'cosin' is unknown; did you mean 'cosine'"),
        ({}, "schedule.name: None is unknown; choose from constant, step, multistep, cosine"),
        ({**PAPER, "gama": 0.1}, "key of schedule.name=multistep: 'gama' is unknown; did you mean 'gamma'"),
        ({"name": "constant", "gamma": 0.1}, "'gamma' is unknown; choose from none"),
        ({"name": "multistep", "milestones": [0.5]}, "schedule.name=multistep needs schedule.gamma"),
        ({**PAPER, "gamma": 0.0}, r"schedule.gamma=0.0 must be in \(0, 1\]"),
        ({**PAPER, "milestones": []}, "schedule.milestones must not be empty"),
        ({**PAPER, "milestones": [0.6, 0.3]}, r"schedule.milestones=\[0.6, 0.3\] must increase"),
        ({**PAPER, "milestones": [0]}, "schedule.milestones=0 must be > 0"),
        ({"name": "cosine", "final": 2.0}, r"schedule.final=2.0 must be in \[0, 1\]"),
        ({"name": "cosine", "warmup": -0.1}, "schedule.warmup=-0.1 must be > 0"),
        ({"name": "cosine", "warmup": 10}, "schedule.warmup=10 must be shorter than the run of 10 epochs"),
    ],
)
def test_settings_out_of_range_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_schedule(optimizer(), settings, total_epochs=10)


@pytest.mark.parametrize("option", ["total_epochs", "steps_per_epoch"])
def test_length_of_the_run_is_checked(option: str) -> None:
    with pytest.raises(ValueError, match=f"{option}=0 must be >= 1"):
        build_schedule(optimizer(), PAPER, **{"total_epochs": 10, option: 0})


def test_step_drops_every_so_many_epochs() -> None:
    schedule = build_schedule(optimizer(), {"name": "step", "every": 2, "gamma": 0.5}, total_epochs=5)
    assert [r[0] for r in rates(schedule, 5)] == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.025])


def test_groups_that_are_held_stand_still_at_first() -> None:
    settings = {**PAPER, "hold": {"manifold": 2}}
    schedule = build_schedule(optimizer(), settings, total_epochs=200)
    free = rates(build_schedule(optimizer(), PAPER, total_epochs=200), 4)
    assert rates(schedule, 4) == [[r[0], 0.0 if step < 2 else r[1], r[2]] for step, r in enumerate(free)]
    with pytest.raises(ValueError, match=r"group in schedule.hold: 'manifld' is unknown; did you mean 'manifold'"):
        build_schedule(optimizer(), {**PAPER, "hold": {"manifld": 2}}, total_epochs=200)

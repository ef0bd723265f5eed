"""Every recipe in configs/optim builds its optimizer, groups and schedule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from hyplearn.manifolds import Lorentz, ManifoldParameter
from hyplearn.optim import build_schedule, check_groups, check_supports, parameter_groups
from hyplearn.optim.settings import SCHEDULES
from hyplearn.training.module import PARTS

DIRECTORY = Path(__file__).parents[2] / "configs" / "optim"
NAMES = sorted(path.stem for path in DIRECTORY.glob("*.yaml"))


def model(name: str) -> nn.Module:
    made = nn.Sequential(nn.Linear(2, 2))
    if name.startswith("r"):
        made.manifold = Lorentz()
        made.shift = ManifoldParameter(torch.zeros(3), manifold=made.manifold)
    return made


def settings(name: str) -> dict[str, Any]:
    loaded = OmegaConf.to_container(OmegaConf.load(DIRECTORY / f"{name}.yaml"))
    assert isinstance(loaded, dict)
    return {str(key): value for key, value in loaded.items()}


def test_names() -> None:
    assert NAMES == ["adamw", "radam", "radamw", "radamw_hier", "radamw_retrieval", "rsgd", "sgd"]


@pytest.mark.parametrize("name", NAMES)
def test_recipe_takes_a_step(name: str) -> None:
    recipe, network = settings(name), model(name)
    partial = hydra.utils.instantiate(recipe.pop("optimizer"), _convert_="all")
    schedule, scales = recipe.pop("schedule"), recipe.pop("scales", {})
    changing = SCHEDULES[schedule["name"]](**schedule)
    parts = {"backbone": [network[0].weight]} if scales else {}  # which only a retrieval run has
    assert set(scales) <= set(PARTS)
    check_supports(partial, network)
    extra = {name: {"params": members, "lr": recipe["lr"]} for name, members in parts.items()}
    groups = parameter_groups(network, **recipe, extra_groups=extra)
    check_groups(groups, network)
    optimizer = partial(groups, lr=recipe["lr"])
    scheduler = build_schedule(optimizer, changing, total_epochs=10)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    held = {parameter for name in schedule.get("hold", {}) for parameter in parts[name]}
    moving = [parameter for parameter in network.parameters() if parameter not in held]
    before = [parameter.detach().clone() for parameter in moving]
    optimizer.step()
    scheduler.step()
    assert not any(map(torch.equal, moving, before))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_plain_optimizers_refuse_hyperbolic_models(name: str) -> None:
    partial = hydra.utils.instantiate(settings(name)["optimizer"])
    with pytest.raises(ValueError, match="choose optim=rsgd"):
        check_supports(partial, model("rsgd"))

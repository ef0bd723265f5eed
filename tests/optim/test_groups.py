from __future__ import annotations

import pytest
import torch
from torch import nn

from hyplearn.manifolds import Euclidean, Lorentz, ManifoldParameter
from hyplearn.manifolds.interop import geoopt
from hyplearn.optim import RiemannianSGD, check_groups, describe_groups, parameter_groups


class Net(nn.Module):
    """Two manifolds of ours, of which one has no point, and one of geoopt's."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder, self.ball = Lorentz(), Lorentz(), geoopt.PoincareBall(learnable=True)
        self.backbone = nn.Linear(4, 3)
        self.curvature_key = nn.Parameter(torch.zeros(2))  # a name says nothing
        self.flat = ManifoldParameter(torch.zeros(5), manifold=Euclidean())
        self.shift = ManifoldParameter(torch.zeros(3), manifold=self.encoder)
        self.proxies = ManifoldParameter(torch.zeros(7, 3), manifold=self.ball)


def names(model: nn.Module, **options: object) -> dict[str, list[str]]:
    return {group["name"]: group["param_names"] for group in parameter_groups(model, lr=0.1, **options)}


def test_groups_by_type() -> None:
    assert names(Net()) == {
        "euclidean": ["curvature_key", "flat", "backbone.weight", "backbone.bias"],
        "manifold": ["shift", "proxies"],
        "curvature": ["encoder.curvature.raw", "decoder.curvature.raw", "ball.isp_c"],
    }


def test_rates_of_the_groups() -> None:
    groups = parameter_groups(
        Net(), lr=0.1, weight_decay=5e-4, manifold_lr_scale=0.2, manifold_weight_decay=0.0, curvature_lr=1e-3
    )
    rates = [(group["lr"], group["weight_decay"]) for group in groups]
    assert rates == [(0.1, 5e-4), (0.1 * 0.2, 0.0), (1e-3, 0.0)]
    assert parameter_groups(Net(), lr=0.1, weight_decay=5e-4)[1]["weight_decay"] == 5e-4


def test_curvatures_decay_only_where_it_is_asked_for() -> None:
    for decay, expected in ((0.0, None), (0.1, 0.1)):
        groups = parameter_groups(Net(), lr=0.1, weight_decay=0.5, curvature_weight_decay=decay)
        assert [group.get("curvature_weight_decay") for group in groups] == [None, None, expected]


def test_a_euclidean_model_has_one_group() -> None:
    assert list(names(nn.Linear(2, 2))) == ["euclidean"]


def test_fixed_curvature_has_no_group() -> None:
    model = nn.Module()
    model.manifold = Lorentz(learned=False)
    model.shift = ManifoldParameter(torch.zeros(3), manifold=model.manifold)
    assert names(model) == {"manifold": ["shift"]}


def test_frozen_parameters_are_left_out_but_points_follow_their_curvature() -> None:
    model = Net()
    for parameter in (model.backbone.weight, model.shift, model.flat, model.ball.isp_c, model.proxies):
        parameter.requires_grad_(False)
    assert names(model) == {
        "euclidean": ["curvature_key", "backbone.bias"],
        "manifold": ["shift"],
        "curvature": ["encoder.curvature.raw", "decoder.curvature.raw"],
    }


def test_shared_parameters_are_in_one_group_once() -> None:
    model = Net()
    model.tied = model.backbone
    model.again = model.encoder
    assert names(model) == names(Net())


def test_names_are_those_of_the_model_before_compilation() -> None:
    wrapped = nn.Module()
    wrapped._orig_mod = Net()
    assert names(wrapped) == names(Net())


def test_extra_groups_take_their_parameters_out() -> None:
    model = Net()
    found = names(
        model,
        extra_groups={
            "backbone": {"params": model.backbone.parameters(), "lr": 0.01},
            "proxies": {"params": [model.proxies, model.ball.isp_c], "lr": 5.0, "weight_decay": 0.0},
        },
    )
    assert list(found) == ["backbone", "proxies", "euclidean", "manifold", "curvature"]
    assert found["backbone"] == ["backbone.weight", "backbone.bias"]
    assert found["proxies"] == ["proxies"]
    assert "ball.isp_c" in found["curvature"]


def test_extra_groups_keep_their_options() -> None:
    model = Net()
    extra = {"backbone": {"params": model.backbone.parameters(), "lr": 0.01, "momentum": 0.5}}
    group = parameter_groups(model, lr=0.1, extra_groups=extra)[0]
    assert (group["lr"], group["momentum"]) == (0.01, 0.5)
    assert "weight_decay" not in group


def test_a_parameter_in_two_extra_groups_is_named() -> None:
    model = Net()
    extra = {"a": {"params": [model.backbone.weight]}, "b": {"params": model.backbone.parameters()}}
    with pytest.raises(ValueError, match=r"'backbone\.weight' must be in one group, not in 'a' and 'b'"):
        parameter_groups(model, lr=0.1, extra_groups=extra)


def test_a_parameter_of_another_model_is_refused() -> None:
    with pytest.raises(ValueError, match=r"extra_groups\['a'\] has a parameter of shape \(9,\)"):
        parameter_groups(Net(), lr=0.1, extra_groups={"a": {"params": [nn.Parameter(torch.zeros(9))]}})


def test_an_unregistered_curvature_is_named() -> None:
    model = nn.Module()
    model.shift = ManifoldParameter(torch.zeros(3), manifold=Lorentz())
    with pytest.raises(ValueError, match=r"parameter 'shift' lies on .*not registered in the model"):
        parameter_groups(model, lr=0.1)


@pytest.mark.parametrize("option", ["lr", "weight_decay", "curvature_lr"])
def test_rates_out_of_range_are_named(option: str) -> None:
    with pytest.raises(ValueError, match="must be >= 0"):
        parameter_groups(Net(), **{"lr": 0.1, option: -1.0})


def test_check_groups_names_what_is_missing_or_doubled() -> None:
    model = Net()
    groups = parameter_groups(model, lr=0.1)
    check_groups(groups, model)
    check_groups(RiemannianSGD(groups, lr=0.1).param_groups, model)
    with pytest.raises(ValueError, match="'curvature_key' must be in exactly one parameter group, not in 0"):
        check_groups(groups[1:], model)
    with pytest.raises(ValueError, match="'curvature_key' must be in exactly one parameter group, not in 2"):
        check_groups([*groups, groups[0]], model)


def test_table_of_the_groups() -> None:
    groups = parameter_groups(Net(), lr=0.1, weight_decay=5e-4, manifold_lr_scale=0.2)
    table = "\n".join(
        [
            "group      tensors  values      lr  weight decay",
            "euclidean        4      22     0.1        0.0005",
            "manifold         2      24    0.02        0.0005",
            "curvature        3       3  0.0001             0",
        ]
    )
    assert describe_groups(groups) == table
    assert describe_groups(RiemannianSGD(groups, lr=1.0).param_groups) == table


def test_table_of_groups_without_names() -> None:
    groups = [{"params": [torch.zeros(1000, 2)]}]
    assert describe_groups(groups).splitlines()[1].split() == ["0", "1", "2,000", "default", "default"]

from __future__ import annotations

from typing import Any

import pytest
import torch

from hyplearn.optim.state import like_parameter, matched_by_name


def groups(**names: list[str]) -> list[dict[str, Any]]:
    return [{"name": group, "param_names": members, "lr": 1.0} for group, members in names.items()]


def saved(**names: list[str]) -> dict[str, Any]:
    """A state dict whose parameters are numbered in the order given; the state of each is its number."""
    indexed, count = [], 0
    for group in groups(**names):
        members = range(count, count + len(group["param_names"]))
        indexed.append({**group, "lr": 0.1 * len(indexed), "params": list(members)})
        count += len(members)
    return {"state": {i: {"step": i} for i in range(count)}, "param_groups": indexed}


def test_states_go_by_name_between_groups() -> None:
    """A parameter that changed its group takes its state along; groups keep their saved options."""
    state_dict = matched_by_name(saved(a=["w", "b"], c=["k"]), groups(c=["k", "b"], a=["w"]))
    assert [group["params"] for group in state_dict["param_groups"]] == [[2, 1], [0]]
    assert [group["param_names"] for group in state_dict["param_groups"]] == [["k", "b"], ["w"]]
    assert [group["lr"] for group in state_dict["param_groups"]] == [0.1, 0.0]


def test_states_without_names_go_by_order() -> None:
    state_dict = saved(a=["w"])
    assert matched_by_name(state_dict, [{"params": []}]) is state_dict
    unnamed = {"state": {}, "param_groups": [{"params": [0]}]}
    assert matched_by_name(unnamed, groups(a=["w"])) is unnamed


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match=r"parameters missing in it \['v'\], unexpected \['w'\]"):
        matched_by_name(saved(a=["w"]), groups(a=["v"]))
    with pytest.raises(ValueError, match=r"parameter groups missing in it \['b'\], unexpected \[\]"):
        matched_by_name(saved(a=["w"]), groups(a=["w"], b=["v"]))


def test_like_parameter_copies_only_where_the_layout_differs() -> None:
    value, parameter = torch.randn(2, 3, 4, 5), torch.empty(2, 3, 4, 5).to(memory_format=torch.channels_last)
    same = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    assert like_parameter(same, parameter) is same
    moved = like_parameter(value, parameter)
    assert moved.stride() == parameter.stride()
    assert torch.equal(moved, value)


def test_strides_of_single_elements_are_no_layout() -> None:
    """1 x 1 kernels have one memory layout under many strides."""
    value, parameter = torch.randn(8, 4, 1, 1), torch.empty(8, 4, 1, 1).to(memory_format=torch.channels_last)
    assert value.stride() != parameter.stride()
    assert like_parameter(value, parameter) is value

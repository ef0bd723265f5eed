"""Optimizer states that find their parameters: by name where names are known, in the memory layout of the parameter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import StateDict


def matched_by_name(state_dict: StateDict, groups: Sequence[dict[str, Any]]) -> StateDict:
    """The state dict in the order of `groups`, so that a model whose layers or groups changed places can resume.

    Needs `param_names` and `name` in every group on both sides, as `groups.parameter_groups` gives them; otherwise the
    state dict comes back as it is and torch matches by order. Raises a ValueError that names parameters or groups which
    only one side has.
    """
    saved = state_dict["param_groups"]
    if not all("param_names" in group and "name" in group for group in (*saved, *groups)):
        return state_dict
    _check_same("parameter groups", [group["name"] for group in saved], [group["name"] for group in groups])
    index = {name: i for group in saved for name, i in zip(group["param_names"], group["params"], strict=True)}
    _check_same("parameters", list(index), [name for group in groups for name in group["param_names"]])
    options = {group["name"]: group for group in saved}
    ordered = [
        {**options[group["name"]], "param_names": names, "params": [index[name] for name in names]}
        for group in groups
        for names in [group["param_names"]]
    ]
    return {**state_dict, "param_groups": ordered}


def _check_same(what: str, saved: list[str], present: list[str]) -> None:
    missing, unexpected = sorted(set(present) - set(saved)), sorted(set(saved) - set(present))
    if missing or unexpected:
        raise ValueError(
            f"state_dict does not fit this optimizer: {what} missing in it {missing[:5]}, unexpected {unexpected[:5]}; "
            "resume with the model and the optimizer settings of the run that wrote it"
        )


def like_parameter(value: Tensor, parameter: Tensor) -> Tensor:
    """`value` in the memory layout of `parameter`: itself where that is the case, a copy otherwise.

    torch's fused kernels walk through memory and silently pair the wrong elements of a channels-last weight and a
    gradient or a momentum that is not.
    """
    strides = value.stride(), parameter.stride()
    if strides[0] == strides[1]:
        return value
    if all(a == b or size == 1 for a, b, size in zip(*strides, parameter.shape, strict=True)):
        return value
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def aligned(state: dict[str, Any], name: str, parameter: Tensor) -> Tensor:
    """Return what the state holds under `name`, in the memory layout of the parameter from now on."""
    value: Tensor = state[name]
    if value.stride() != parameter.stride():
        value = state[name] = like_parameter(value, parameter)
    return value

"""Riemannian Adam."""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat
from typing import ClassVar

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.optimizer import ParamsT

from hyplearn.optim import update
from hyplearn.optim.curvature import CurvatureAware, Group
from hyplearn.optim.options import AT_LEAST_0, BELOW_1, check_options
from hyplearn.optim.parameter_stack import ParameterStack, State
from hyplearn.optim.state import aligned


class AdamFamily(CurvatureAware):
    """Base of Adam and AdamW. State of a point: step, exp_avg (a tangent vector), exp_avg_sq of shape (..., 1)."""

    tangent_names = ("exp_avg",)
    scalar_names = ("exp_avg_sq", "max_exp_avg_sq")
    torch_step: ClassVar[Callable[..., None]]  # torch's functional form, for Euclidean parameters

    def _check_group(self, group: Group) -> None:
        if "momentum" in group:
            raise ValueError(f"momentum={group['momentum']} is no option of {type(self).__name__}; it is betas[0] here")
        check_options(group, lr=AT_LEAST_0, betas=BELOW_1, eps=AT_LEAST_0, weight_decay=AT_LEAST_0)

    def _step_weights(self, group: Group, params: list[Tensor], gradients: list[Tensor]) -> None:
        states = [self._started(group, p) for p in params]
        type(self).torch_step(
            params,
            gradients,
            list(map(aligned, states, repeat("exp_avg"), params)),
            list(map(aligned, states, repeat("exp_avg_sq"), params)),
            list(map(aligned, states, repeat("max_exp_avg_sq"), params)) if group["amsgrad"] else [],
            [state["step"] for state in states],
            foreach=group["foreach"],
            fused=group["fused"],
            amsgrad=group["amsgrad"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=group["maximize"],
        )

    def _started(self, group: Group, parameter: Tensor) -> State:
        state: State = self.state[parameter]
        step_device = parameter.device if group["fused"] else torch.device("cpu")  # where torch's kernels look for it
        if "step" not in state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=step_device)
        elif state["step"].device != step_device:
            state["step"] = state["step"].to(step_device)
        for name in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")[: 3 if group["amsgrad"] else 2]:
            if name not in state:
                state[name] = torch.zeros_like(parameter)
        return state

    def _adapt(self, stack: ParameterStack, gradient: Tensor) -> None:
        """Adam's step of stacked points, after every kind of decay."""
        group, zero = stack.group, stack.x.new_zeros(())
        moments = update.Moments(
            first=stack.tangents.get("exp_avg", zero),
            second=stack.scalars.get("exp_avg_sq", zero),
            largest=stack.scalars.get("max_exp_avg_sq", zero) if group["amsgrad"] else None,
        )
        stack.step += 1
        stack.x, moments = update.adam(
            stack.space,
            stack.x,
            update.riemannian_gradient(stack.space, stack.x, gradient),
            moments,
            step=stack.step,
            lr=group["lr"],
            betas=group["betas"],
            eps=group["eps"],
        )
        stack.tangents["exp_avg"], stack.scalars["exp_avg_sq"] = moments.first, moments.second
        if moments.largest is not None:
            stack.scalars["max_exp_avg_sq"] = moments.largest


class RiemannianAdam(AdamFamily):
    """torch.optim.Adam whose points walk along geodesics; the second moment is one number per point.

    Options as in torch.optim.Adam; on Euclidean parameters the result is the same. A point moves by at most about lr in
    Riemannian length per step. weight_decay: an L2 gradient, see `RiemannianSGD`.
    """

    torch_step = staticmethod(adam)

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        curvature_scheme: bool = True,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": (float(betas[0]), float(betas[1])),  # whatever a config made of them
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "foreach": foreach,
            "fused": fused,
        }
        super().__init__(params, defaults, curvature_scheme=curvature_scheme)

    def _step_points(self, stack: ParameterStack, gradient: Tensor) -> None:
        penalty = stack.group["weight_decay"] * stack.space.half_square_gradient(stack.x)
        self._adapt(stack, gradient + penalty)

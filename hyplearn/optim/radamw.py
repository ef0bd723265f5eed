"""Riemannian AdamW: Adam with decoupled weight decay on curved space (Bdeir Section 3.2)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.optim.adamw import adamw
from torch.optim.optimizer import ParamsT

from hyplearn.errors import one_of
from hyplearn.optim import update
from hyplearn.optim.curvature import Group
from hyplearn.optim.parameter_stack import ParameterStack
from hyplearn.optim.radam import AdamFamily
from hyplearn.optim.spaces import ParameterSpace

Decay = Literal["centroid", "retraction", "none"]


class RiemannianAdamW(AdamFamily):
    """torch.optim.AdamW whose points decay towards the origin before the step, by w = lr weight_decay.

    decay='centroid': the Lorentzian centroid of point and origin with weights (1 - w, w), the paper's rule, by which
    the distance delta k from the origin loses w sinh(delta) k. 'retraction': a step of length w down the gradient of
    half the squared length of the coordinates; it loses w sinh(2 delta)/2 k in space coordinates, twice that in ambient
    ones. Both agree with AdamW near the origin and draw harder far out. 'none': points do not decay, Euclidean weights
    do. Points on a manifold without an origin (sphere, Stiefel) need 'none' or weight_decay=0 in their group.

    Other options as in `RiemannianAdam`; on Euclidean parameters the result is that of torch.optim.AdamW.
    """

    torch_step = staticmethod(adamw)

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        decay: Decay = "centroid",
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
            "decay": decay,
            "maximize": maximize,
            "foreach": foreach,
            "fused": fused,
        }
        super().__init__(params, defaults, curvature_scheme=curvature_scheme)

    def _check_group(self, group: Group) -> None:
        super()._check_group(group)
        one_of("decay", group["decay"], Decay)

    def _check_space(self, group: Group, space: ParameterSpace) -> None:
        if group["weight_decay"] and group["decay"] != "none" and not space.decays:
            raise ValueError(
                f"weight_decay={group['weight_decay']} must be 0 for points on {space.manifold.name}, which has no "
                "origin to decay to; put them in a parameter group with weight_decay=0 or decay='none'"
            )

    def _step_points(self, stack: ParameterStack, gradient: Tensor) -> None:
        group = stack.group
        weight = group["lr"] * group["weight_decay"]
        if weight and group["decay"] != "none":
            decay = update.towards_origin if group["decay"] == "centroid" else update.down_the_square
            momentum = stack.tangents.get("exp_avg", torch.zeros_like(stack.x))
            stack.x, stack.tangents["exp_avg"] = decay(stack.space, stack.x, momentum, weight)
        self._adapt(stack, gradient)

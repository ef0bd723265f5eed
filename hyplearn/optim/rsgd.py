"""Riemannian stochastic gradient descent."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.optim.optimizer import ParamsT
from torch.optim.sgd import sgd

from hyplearn.errors import one_of
from hyplearn.optim import update
from hyplearn.optim.curvature import CurvatureAware, Group
from hyplearn.optim.options import AT_LEAST_0, check_options
from hyplearn.optim.parameter_stack import ParameterStack
from hyplearn.optim.state import aligned

PenaltyCoordinates = Literal["stored", "ambient"]


class RiemannianSGD(CurvatureAware):
    """torch.optim.SGD whose points walk along geodesics and whose momentum is transported with them.

    Options as in torch.optim.SGD; on Euclidean parameters the result is the same. weight_decay adds the L2 gradient of
    the stored coordinates: at distance delta k of the origin it draws a point by lr weight_decay sinh(2 delta)/2 in
    space coordinates, by twice that in ambient ones, and not at all on sphere and Stiefel manifold. penalty: `stored`
    coordinates, or `ambient` ones for every point of a hyperboloid, as in HCNN. fused=None takes
    torch's fused kernels where they exist. curvature_scheme: see `CurvatureAware`.

    The momentum starts as the first gradient g, as in torch: a first step of 1.9 g with Nesterov's 0.9. The published
    HCNN starts it as the raw gradient, undecayed and not yet Riemannian, and the same step multiplies it by 0.9 and
    adds g: 2.7 g. The difference fades as 0.9 to the number of steps; after 20 it is gone.
    """

    tangent_names = ("momentum_buffer",)

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        curvature_scheme: bool = True,
        penalty: PenaltyCoordinates = "stored",
    ) -> None:
        one_of("penalty", penalty, PenaltyCoordinates)
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
            "foreach": foreach,
            "fused": fused,
            "penalty": penalty,
        }
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError(f"nesterov=True needs momentum > 0 and dampening 0, not {momentum} and {dampening}")
        super().__init__(params, defaults, curvature_scheme=curvature_scheme)

    def _check_group(self, group: Group) -> None:
        check_options(group, lr=AT_LEAST_0, momentum=AT_LEAST_0, weight_decay=AT_LEAST_0)

    def _step_weights(self, group: Group, params: list[Tensor], gradients: list[Tensor]) -> None:
        if not group["momentum"]:
            self._torch_step(group, params, gradients, [])
            return
        rows = list(zip(params, gradients, [self.state[p] for p in params], strict=True))
        known = [row for row in rows if "momentum_buffer" in row[2]]
        fresh = [row for row in rows if "momentum_buffer" not in row[2]]
        for batch in filter(None, (known, fresh)):  # torch's fused kernel takes parameters of one history
            buffers = [aligned(state, "momentum_buffer", p) if batch is known else None for p, _, state in batch]
            self._torch_step(group, [p for p, _, _ in batch], [g for _, g, _ in batch], buffers)
            for (_, _, state), buffer in zip(batch, buffers, strict=True):
                state["momentum_buffer"] = buffer

    @staticmethod
    def _torch_step(group: Group, params: list[Tensor], gradients: list[Tensor], buffers: list[Tensor | None]) -> None:
        sgd(
            params,
            gradients,
            buffers,
            has_sparse_grad=False,
            foreach=group["foreach"],
            fused=group["fused"],
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            lr=group["lr"],
            dampening=group["dampening"],
            nesterov=group["nesterov"],
            maximize=group["maximize"],
        )

    def _step_points(self, stack: ParameterStack, gradient: Tensor) -> None:
        group, space = stack.group, stack.space
        ambient = group["penalty"] == "ambient"
        half_square = space.ambient_half_square_gradient if ambient else space.half_square_gradient
        penalty = group["weight_decay"] * half_square(stack.x)
        stack.x, buffer = update.sgd(
            space,
            stack.x,
            update.riemannian_gradient(space, stack.x, gradient + penalty),
            stack.tangents.get("momentum_buffer"),
            lr=group["lr"],
            momentum=group["momentum"],
            dampening=group["dampening"],
            nesterov=group["nesterov"],
        )
        if buffer is not None:
            stack.tangents["momentum_buffer"] = buffer

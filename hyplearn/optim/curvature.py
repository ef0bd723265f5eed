"""Curvature-aware optimization (Bdeir Section 3.2, Algorithm 1) for any optimizer: the part they all share."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT, StateDict

from hyplearn.manifolds.curvature import Curvature
from hyplearn.optim.parameter_stack import ParameterStack, stacked
from hyplearn.optim.roles import curvatures_among, is_point, manifold_of, manifolds_of
from hyplearn.optim.spaces import ParameterSpace, space_of
from hyplearn.optim.state import like_parameter, matched_by_name

Group = dict[str, Any]

# Devices on which torch's fused kernels are at least as fast as its other implementations.
FUSED_ON = ("cpu", "cuda")


@dataclass(frozen=True)
class Roles:
    """The parameters of an optimizer by the part they play, each list in the order of the groups.

    owners: manifolds of points whose curvature is among the parameters, with those curvatures.
    """

    weights: list[tuple[Group, list[Tensor]]]
    points: list[tuple[Group, Tensor]]
    curvatures: list[tuple[Group, list[Tensor]]]
    owners: list[tuple[ParameterSpace, list[Tensor]]]


class CurvatureAware(Optimizer):
    """Base of the Riemannian optimizers: torch.optim's interface around Algorithm 1.

    A step (1) moves Euclidean weights and points of manifolds with the old curvature, (2) moves the curvatures by the
    Euclidean rule with the options of their group and puts them back into their bounds, (3) moves points and the
    tangent vectors kept for them to the new curvature. The part a parameter plays follows from its type, see `roles`;
    the order of groups does not matter. Points whose manifold has no curvature among the parameters only take part in
    (1); points without a gradient only in (3), frozen ones too if they are given to the optimizer.

    A curvature decays by the option `curvature_weight_decay` of its group, 0 where it is not set: under the decay of
    the weights K = 1/c would run off to infinite curvature. `.grad` is never edited. `curvature_scheme=False` leaves
    out (3): what geoopt does, and what the ablation of Bdeir Table 5 restores.

    Subclasses name what they keep for points and implement `_step_weights` and `_step_points`.
    """

    tangent_names: ClassVar[tuple[str, ...]]  # tangent vectors, which move with the point
    scalar_names: ClassVar[tuple[str, ...]] = ()  # numbers, which do not

    def __init__(self, params: ParamsT, defaults: Group, *, curvature_scheme: bool) -> None:
        self.curvature_scheme = curvature_scheme
        self._curvatures: list[Curvature] = []
        self._roles: Roles | None = None
        self._complete = False
        super().__init__(params, defaults)
        self._complete = True
        self._assigned()

    @abc.abstractmethod
    def _check_group(self, group: Group) -> None:
        """Raise a ValueError for an option out of range."""

    @abc.abstractmethod
    def _step_weights(self, group: Group, params: list[Tensor], gradients: list[Tensor]) -> None:
        """One step of Euclidean parameters by torch's own implementation."""

    @abc.abstractmethod
    def _step_points(self, stack: ParameterStack, gradient: Tensor) -> None:
        """One step of stacked points. gradient: derivatives by the coordinates of `stack.space`."""

    def _check_space(self, group: Group, space: ParameterSpace) -> None:
        """Raise a ValueError where points of a space cannot be stepped with the options of their group."""

    # Parameter groups

    def add_param_group(self, param_group: Group) -> None:
        """Add a group as in torch.optim, with one more key.

        `curvatures`, modules whose raw value is among the parameters.

        It is needed for learned curvatures that no parameter lies on; `groups.parameter_groups` fills it in.
        """
        group = dict(param_group)
        self._curvatures.extend(group.pop("curvatures", ()))
        super().add_param_group(group)
        self._check_group(group)
        _choose_implementation(group)
        self._roles = None
        if self._complete:
            self._assigned()

    def _assigned(self) -> Roles:
        """The roles of all parameters, sorted out again after a change of groups. Raises for what cannot be stepped."""
        if self._roles is None:
            everything = list(chain.from_iterable(group["params"] for group in self.param_groups))
            curvatures = curvatures_among(everything)
            points = [(group, p) for group in self.param_groups for p in group["params"] if is_point(p)]
            self._roles = Roles(
                weights=self._select(lambda p: not is_point(p) and p not in curvatures),
                points=points,
                curvatures=self._select(lambda p: p in curvatures),
                owners=self._owners(everything, curvatures),
            )
            for group, point in points:
                self._check_space(group, space_of(manifold_of(point)))
        return self._roles

    def _select(self, wanted: Callable[[Tensor], bool]) -> list[tuple[Group, list[Tensor]]]:
        return [(group, list(filter(wanted, group["params"]))) for group in self.param_groups]

    def _owners(self, everything: list[Tensor], curvatures: set[Tensor]) -> list[tuple[ParameterSpace, list[Tensor]]]:
        owned = {m: [p for p in m.parameters() if p in curvatures] for m in manifolds_of(everything)}
        known = {module.raw for module in self._curvatures}.union(*owned.values())
        if not curvatures <= known:
            raise ValueError(
                f"params holds {len(curvatures - known)} learned curvature(s) on whose manifold no parameter lies, so "
                "that their bounds are unknown here; build the groups with hyplearn.optim.parameter_groups(model, ...)"
            )
        owners = [(space_of(manifold), mine) for manifold, mine in owned.items() if mine]
        for space, _ in owners:
            if self.curvature_scheme and not space.moves:
                raise ValueError(
                    f"params holds points and the learned curvature of {space.manifold}, but no rule moves its points "
                    "to another curvature; fix the curvature, or leave them behind with curvature_scheme=False"
                )
        return owners

    # The step

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One optimization step. closure: evaluates the model again and returns the loss, which is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            self._step(self._assigned())
        return loss

    def _step(self, roles: Roles) -> None:
        changing = self._changing(roles)
        stacks = self._stacks((g, p) for g, p in roles.points if p.grad is not None or id(manifold_of(p)) in changing)
        for stack in stacks:
            if stack.gradient is not None:
                self._step_points(stack, stack.gradient)
        for group, params in roles.weights:
            self._step_euclidean(group, params)
        for group, params in roles.curvatures:
            self._step_curvatures(group, params)
        self._restore_bounds(roles)
        for stack in stacks:
            if id(stack.space.manifold) in changing:
                stack.follow()
            stack.store()

    def _changing(self, roles: Roles) -> set[int]:
        """The manifolds, by id, whose points this step takes to another curvature."""
        if not self.curvature_scheme:
            return set()
        return {id(space.manifold) for space, mine in roles.owners if any(p.grad is not None for p in mine)}

    def _stacks(self, entries: Iterable[tuple[Group, Tensor]]) -> list[ParameterStack]:
        return stacked(entries, self.state, tangent_names=self.tangent_names, scalar_names=self.scalar_names)

    def _step_euclidean(self, group: Group, params: list[Tensor]) -> None:
        params = [p for p in params if p.grad is not None]
        if params:
            gradients = [p.grad for p in params if p.grad is not None]
            if any(gradient.is_sparse for gradient in gradients):
                raise RuntimeError(f"{type(self).__name__} takes no sparse gradients; use layers with sparse=False")
            if group["fused"]:
                gradients = list(map(like_parameter, gradients, params))
            self._step_weights(group, params, gradients)

    def _step_curvatures(self, group: Group, params: list[Tensor]) -> None:
        self._step_euclidean({**group, "weight_decay": group.get("curvature_weight_decay", 0.0)}, params)

    def _restore_bounds(self, roles: Roles) -> None:
        for module in self._curvatures:
            module.project_()
        for space, _ in roles.owners:
            space.project_curvature_()

    # State

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Load the state as in torch.optim.

        Where both sides know the names of their parameters, states go by name, not by order.
        """
        super().load_state_dict(matched_by_name(state_dict, self.param_groups))

    def __getstate__(self) -> Group:
        own = {"curvature_scheme": self.curvature_scheme, "_curvatures": self._curvatures, "_complete": True}
        return super().__getstate__() | own

    def __setstate__(self, state: Group) -> None:
        super().__setstate__(state)
        self._roles = None
        for group in self.param_groups:  # a state dict of torch's optimizer of the same kind lacks our options
            for name, default in self.defaults.items():
                group.setdefault(name, default)
            _choose_implementation(group)


def _choose_implementation(group: Group) -> None:
    """Fused kernels where nothing else is asked for and they exist; torch chooses otherwise."""
    fusible = all(p.is_floating_point() and p.device.type in FUSED_ON for p in group["params"])
    if group["fused"] is None and group["foreach"] is None and fusible:
        group["fused"] = True

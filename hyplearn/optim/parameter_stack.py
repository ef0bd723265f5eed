"""Many small points as one tensor: the parameters of a model that take the same step take it together."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hyplearn.optim import update
from hyplearn.optim.roles import manifold_of
from hyplearn.optim.spaces import ParameterSpace, space_of

State = dict[str, Any]

# Parameters of at most this many numbers are padded to a common width, so that the 16 shifts of a ResNet-50 in four
# widths are one tensor; larger ones would waste memory and gain nothing.
PADDED_UP_TO = 4096


class Layout:
    """Says where each parameter's points stand among the rows of a stack.

    shapes: (*batch, *point), ndim: of a point. Rows go in and out by a constant number of kernels, whatever the number
    of parameters: joined, taken by index where widths differ, and parted into contiguous pieces.
    """

    def __init__(self, shapes: Sequence[torch.Size], ndim: int) -> None:
        self.shapes, self.ndim = shapes, ndim
        self.rows = [math.prod(shape[:-ndim]) for shape in shapes]
        self.widths = [shape[-1] for shape in shapes]

    def views(self, stacked: Tensor) -> list[Tensor]:
        """The part of each parameter in a stacked tensor (P, *point), in the parameter's shape and without padding.

        A tensor of one number per point, (P, 1), gives parts (*batch, 1).
        """
        if stacked.shape[-1] > min(self.widths) and len(set(self.widths)) > 1:
            kept = stacked.reshape(-1)[self._padding(stacked).kept]
            parts = kept.split([rows * width for rows, width in zip(self.rows, self.widths, strict=True)])
            return [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]
        return [
            block.view(*shape[: -self.ndim], *block.shape[1:])
            for block, shape in zip(stacked.split(self.rows), self.shapes, strict=True)
        ]

    def gather(self, tensors: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        """Copy one tensor per parameter into a stacked one."""
        if len({tensor.shape[-1] for tensor in tensors}) > 1:
            padding = self._padding(tensors[0])
            joined = torch.cat([padding.zero, *(tensor.reshape(-1) for tensor in tensors)])
            return joined.to(dtype)[padding.places]
        point = tensors[0].shape[tensors[0].dim() - self.ndim :]
        return torch.cat([tensor.reshape(-1, *point) for tensor in tensors]).to(dtype)

    def _padding(self, like: Tensor) -> Padding:
        return _padding(tuple(self.rows), tuple(self.widths), like.dtype, like.device)


class Padding(NamedTuple):
    """Where numbers of several widths stand in a padded stack (P, width).

    places: (P, width), of each number of the stack among [0, *all numbers of all parameters]. kept: of each number of
    all parameters in the flattened stack. zero: (1,), what pads.
    """

    places: Tensor
    kept: Tensor
    zero: Tensor


@functools.lru_cache(maxsize=64)
def _padding(rows: tuple[int, ...], widths: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Padding:
    """Made once for the parameters of a model: every step of its training takes the same places."""
    widest = max(widths)
    of_rows = [width for count, width in zip(rows, widths, strict=True) for _ in range(count)]
    starts = itertools.accumulate(of_rows, initial=1)
    places = [
        [*range(start, start + width), *[0] * (widest - width)] for start, width in zip(starts, of_rows, strict=False)
    ]
    kept = [row * widest + column for row, width in enumerate(of_rows) for column in range(width)]
    return Padding(
        torch.tensor(places, dtype=torch.long, device=device).view(len(of_rows), widest),
        torch.tensor(kept, dtype=torch.long, device=device),
        torch.zeros(1, dtype=dtype, device=device),
    )


class ParameterStack:
    """Points of parameters that share manifold, parameter group and history, and what the optimizer keeps of them.

    x, gradient, tangents and scalars are stacked, in the coordinates of `space` and in float32 or better; gradient is
    None where no parameter has one. Nothing reaches parameters or state before `store`.
    """

    def __init__(
        self,
        group: dict[str, Any],
        params: list[Tensor],
        states: list[State],
        space: ParameterSpace,
        *,
        tangent_names: Iterable[str],
        scalar_names: Iterable[str],
    ) -> None:
        self.group, self.params, self.states, self.space = group, params, states, space
        self.layout = Layout([p.shape for p in params], space.manifold.ndim)
        self.step: int = states[0].get("step", 0)
        self._dtype = torch.promote_types(params[0].dtype, torch.float32)
        self.x = space.enter_point(self._gather([p.detach() for p in params]))
        self.tangents = {name: space.enter_tangent(self._kept(name)) for name in tangent_names if name in states[0]}
        self.scalars = {name: self._kept(name) for name in scalar_names if name in states[0]}
        self.gradient = self._gradient()

    def _gather(self, tensors: Sequence[Tensor]) -> Tensor:
        return self.layout.gather(tensors, self._dtype)

    def _kept(self, name: str) -> Tensor:
        return self._gather([state[name] for state in self.states])

    def _gradient(self) -> Tensor | None:
        gradients = [p.grad for p in self.params if p.grad is not None]
        if not gradients:
            return None
        gradient = self.space.enter_gradient(self.x, self._gather(gradients))
        return -gradient if self.group["maximize"] else gradient

    def follow(self) -> None:
        """Move points and tangent vectors to the present curvature of their manifold (Bdeir Algorithm 1)."""
        new = space_of(self.space.manifold)
        self.x, moved = update.follow(self.space, self.x, list(self.tangents.values()), new)
        self.tangents, self.space = dict(zip(self.tangents, moved, strict=True)), new

    def store(self) -> None:
        """Write points, tangent vectors and scalars to parameters and state, in place where they exist."""
        torch._foreach_copy_(self.params, self.layout.views(self.space.leave_point(self.x)))
        for name, vector in self.tangents.items():
            self._keep(name, self.space.leave_tangent(self.x, vector))
        for name, scalar in self.scalars.items():
            self._keep(name, scalar)
        if self.step:
            for state in self.states:
                state["step"] = self.step

    def _keep(self, name: str, stacked: Tensor) -> None:
        views = self.layout.views(stacked)
        if name in self.states[0]:
            torch._foreach_copy_([state[name] for state in self.states], views)
        else:
            for state, parameter, view in zip(self.states, self.params, views, strict=True):
                state[name] = torch.empty_like(view, dtype=parameter.dtype).copy_(view)


def stacked(
    entries: Iterable[tuple[dict[str, Any], Tensor]],
    state: Mapping[Tensor, State],
    *,
    tangent_names: Iterable[str],
    scalar_names: Iterable[str],
) -> list[ParameterStack]:
    """Stacks of (parameter group, point parameter) pairs, in the order of their first members."""
    spaces: dict[int, ParameterSpace] = {}
    found: dict[tuple[Any, ...], tuple[dict[str, Any], list[Tensor]]] = {}
    for group, parameter in entries:
        manifold = manifold_of(parameter)
        if id(manifold) not in spaces:
            spaces[id(manifold)] = space_of(manifold)
        space = spaces[id(manifold)]
        found.setdefault(_key(group, parameter, space, state[parameter]), (group, []))[1].append(parameter)
    return [
        ParameterStack(
            group,
            params,
            [state[p] for p in params],
            spaces[id(manifold_of(params[0]))],
            tangent_names=tangent_names,
            scalar_names=scalar_names,
        )
        for group, params in found.values()
    ]


def _key(group: dict[str, Any], parameter: Tensor, space: ParameterSpace, state: State) -> tuple[Any, ...]:
    """Equal for parameters that can share a stack: the history counts because Adam's bias correction depends on it."""
    padded = space.pads and parameter.numel() <= PADDED_UP_TO
    point = () if padded else parameter.shape[parameter.dim() - space.manifold.ndim :]
    history = (parameter.grad is None, tuple(state), state.get("step", 0))
    return id(group), id(space.manifold), point, parameter.dtype, parameter.device, history

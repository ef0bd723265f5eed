"""Feature maps (B, n, H, W) in channels_last seen as rows of points (B, H*W, n), and sums over a row."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

Backward = TypeVar("Backward", bound=Callable[..., Any])

CHUNK = 1 << 20  # elements of a temporary that stays in the processor's cache


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def rows(x: Tensor) -> Tensor:
    """(B, n, H, W) -> (B, H*W, n); a view if x is in channels_last."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def feature_map(points: Tensor, like: Tensor) -> Tensor:
    """(B, H*W, n) -> (B, n, H, W) with the height and width of `like`, a channels_last view."""
    batch, _, height, width = like.shape
    return points.view(batch, height, width, points.shape[-1]).permute(0, 3, 1, 2)


def squared_norm(x: Tensor) -> Tensor:
    """|x|^2 of each position of a feature map: (B, n, H, W) -> (B, 1, H, W) in float32 or better."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    norm: Tensor = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=dtype)
    return norm.square()


def row_squares(y: Tensor) -> Tensor:
    """|y|^2 of each row: (B, L, n) -> (B, L)."""
    norm: Tensor = torch.linalg.vector_norm(y, dim=-1)
    return norm.square()


def row_dots(x: Tensor, y: Tensor) -> Tensor:
    """Dot product of each row, (B, L, n) -> (B, L), in chunks so that the product need not be kept."""
    if torch.compiler.is_compiling() or x.device.type != "cpu" or x.numel() <= CHUNK:
        return (x * y).sum(-1)
    step = max(1, CHUNK // (x.shape[1] * x.shape[2]))
    return torch.cat([(xs * ys).sum(-1) for xs, ys in zip(x.split(step), y.split(step), strict=True)])


def promoted(x: Tensor) -> Tensor:
    """Return x in float32 or better."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def outside_autocast(backward: Backward) -> Backward:
    """Run the backward pass of an autograd function without autocast, inside which it may be called.

    There the products of its float32 scalars would change their type.
    """

    @functools.wraps(backward)
    def wrapped(ctx: Any, *grads: Tensor | None) -> Any:
        device = next((grad.device.type for grad in grads if grad is not None), "cpu")
        if not torch.is_autocast_enabled(device):
            return backward(ctx, *grads)
        with torch.autocast(device, enabled=False):
            return backward(ctx, *grads)

    return cast(Backward, wrapped)

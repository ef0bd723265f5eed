"""Sums over the processes of a distributed run, with gradient."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _AllReduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        g = g.contiguous().clone()
        dist.all_reduce(g)
        return g


def total(x: Tensor) -> Tensor:
    """Sum of x over all processes of the default group; x itself where there is one process.

    Every process must call it, forward and backward, in the same order. The gradient is that of the sum of all
    processes' losses.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return x
    result: Tensor = _AllReduce.apply(x)
    return result

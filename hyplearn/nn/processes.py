"""Sums and batches over the processes of a distributed run, with gradient."""

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
    if processes() == 1:
        return x
    result: Tensor = _AllReduce.apply(x)
    return result


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        own = g.chunk(dist.get_world_size())[dist.get_rank()]
        return own * dist.get_world_size()


def processes() -> int:
    """The number of processes of the default group, 1 without one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather(x: Tensor) -> Tensor:
    """(B, ...) of every process to (P B, ...) in rank order, with gradient; x itself where there is one process.

    For a loss that every process computes from the whole batch. Its derivative by the whole batch is the same
    everywhere, so each takes its own rows of it, times P: distributed data parallel averages the weights' gradients
    over the processes, where their sum is wanted. Parameters of the loss itself get the whole gradient in every
    process, which the average leaves as it is.
    """
    if processes() == 1:
        return x
    result: Tensor = _Gather.apply(x)
    return result


_HOST_GROUPS: dict[dist.ProcessGroup, dist.ProcessGroup] = {}


def _host_group() -> dist.ProcessGroup:
    """The group over which tensors on the CPU are exchanged, without waiting for a GPU. All processes must call it."""
    default = dist.group.WORLD
    assert default is not None
    if dist.get_backend(default) == "gloo":
        return default
    if default not in _HOST_GROUPS:
        _HOST_GROUPS[default] = dist.new_group(backend="gloo")
    return _HOST_GROUPS[default]


def gather_on_host(x: Tensor) -> Tensor:
    """(B, ...) on the CPU of every process to (P B, ...) in rank order; x itself where there is one process."""
    if processes() == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(processes())]
    dist.all_gather(parts, x.contiguous(), group=_host_group())
    return torch.cat(parts)


def in_any_process(said: bool) -> bool:
    """Whether one of the processes says so. They exchange it from CPU to CPU, so that no GPU is waited for."""
    if processes() == 1:
        return said
    told = torch.tensor([said], dtype=torch.uint8)
    dist.all_reduce(told, dist.ReduceOp.MAX, group=_host_group())
    return bool(told.numpy()[0])


def gather_rows(x: Tensor, device: torch.device) -> Tensor:
    """Rows (B_r, ...) of every process to (sum B_r, ...) in rank order, each process with its own count of them.

    As tensors, by way of `device`, on which the processes talk; the result is where x is. Without gradient. All have
    one dtype; a process without rows need not know how long those of the others are.
    """
    if processes() == 1:
        return x
    # bytes, which every way of talking between processes knows
    flat = x.detach().reshape(len(x), -1).contiguous().view(torch.uint8).to(device) if len(x) else None
    width = 0 if flat is None else flat.shape[1]
    sizes = [torch.zeros(2, dtype=torch.int64, device=device) for _ in range(processes())]
    dist.all_gather(sizes, torch.tensor([len(x), width], device=device))
    longest, width = torch.stack(sizes).amax(0).tolist()
    padded = torch.zeros(longest, width, dtype=torch.uint8, device=device)
    if flat is not None:
        padded[: len(flat)] = flat
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    whole = torch.cat([part[: int(size[0])].to(x.device) for part, size in zip(parts, sizes, strict=True)])
    return whole.view(x.dtype).view(len(whole), *([-1] if x.ndim > 1 and not len(x) else x.shape[1:]))

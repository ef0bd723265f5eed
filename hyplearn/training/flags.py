"""A yes or no of the device, read when it has arrived: the host goes on meanwhile."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from hyplearn.nn.processes import processes


class Flag:
    """Whether all numbers of a tensor are finite, in every process.

    On a GPU it is computed, reduced and copied in the queue of the device; `read` waits until that much of the queue is
    done, and not for what was queued behind it. On a CPU it is there at once.
    """

    def __init__(self, value: Tensor) -> None:
        finite = value.detach().isfinite().all()
        if processes() > 1:
            told = finite.to(torch.int32)
            dist.all_reduce(told, dist.ReduceOp.MIN)
            finite = told.bool()
        self._arrived: torch.cuda.Event | None = None
        self._copy = finite
        if finite.is_cuda:
            self._copy = torch.empty((), dtype=torch.bool, pin_memory=True)
            self._copy.copy_(finite, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def read(self) -> bool:
        """The answer."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return bool(self._copy.numpy())

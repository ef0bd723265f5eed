"""Which operations would make a host wait for a GPU, counted where there is none.

On a GPU reading a value, or making a tensor whose size depends on values, stops the queue of kernels until it is empty.
A dispatch mode sees the same operations on a CPU. What is done in NumPy is host work, and no operation of torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hyplearn.losses import hier, host, pairs, triplets

READS = ("_local_scalar_dense", "is_nonzero", "equal", "item", "allclose")
SIZED_BY_VALUES = ("nonzero", "masked_select", "_unique2", "_unique", "unique_dim", "unique_consecutive")

# The close pairs of hyperbolic distances are few and computed by a formula of their own: their number is data.
HYPERBOLIC_DISTANCES = tuple(
    f"{manifold}_cdist{back}" for manifold in ("lorentz", "poincare") for back in ("", "_backward")
)


class Waits(TorchDispatchMode):
    """Counts, within its context, the operations that would wait, by name. allowed: those that may."""

    def __init__(self, *, allowed: Sequence[str] = ()) -> None:
        super().__init__()
        self.allowed, self.found = tuple(allowed), Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name not in self.allowed and _waits(name, args):
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


def _waits(name: str, args: Any) -> bool:
    if name in (*READS, *SIZED_BY_VALUES, *HYPERBOLIC_DISTANCES):
        return True
    if name.startswith("index") and len(args) > 1 and isinstance(args[1], (list, tuple)):
        return any(isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    return False


def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let losses take the way on which no value is read, whatever the device."""
    for module in (hier, host, pairs, triplets):
        monkeypatch.setattr(module, "free_to_read", lambda tensor: False)

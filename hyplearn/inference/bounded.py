"""A stored model is built no larger than its weights: its configuration may come from somebody else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

SMALLEST = 10**8  # numbers that any model may ask for in one tensor, 400 MB: buffers are in no file of weights


class BoundedTensors(TorchDispatchMode):
    """Within it, no tensor is made of more numbers than a file of weights of `size` bytes can have.

    Raises ValueError before memory is taken.
    """

    def __init__(self, size: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.largest = max(size, SMALLEST)

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Look at the size that a function of torch is asked for, and call it."""
        asked = _numbers(args)
        if asked > self.largest:
            raise ValueError(
                f"the configuration asks for a tensor of {asked:,} numbers, which its weights do not have: config.yaml "
                "and weights are not of one run"
            )
        return func(*args, **(kwargs or {}))


def _numbers(args: Sequence[Any]) -> int:
    """Return the numbers of a tensor that is made of nothing: its sizes, or the end of a range, come first."""
    first = args[0] if args else None
    if isinstance(first, (list, tuple, torch.Size)) and first and all(isinstance(n, int) for n in first):
        return math.prod(first)
    scalars = [abs(value) for value in args if isinstance(value, (int, float))]
    if isinstance(first, (int, float)) and scalars and math.isfinite(max(scalars)):
        return int(max(scalars))
    return 0

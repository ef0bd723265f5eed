"""What is known about labels without waiting for the device.

A loss that reads a value of a tensor on a GPU stops the queue of kernels. Labels come from the CPU: whoever moves them
says so with `remember`, and checks read the copy that stayed. What is computed from it there is NumPy.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

_COPIES = WeakTensorKeyDictionary()


def remember(labels: Tensor, host: Tensor) -> None:
    """Say that `host` on the CPU holds what `labels` holds, for as long as `labels` lives."""
    if labels is not host:
        _COPIES[labels] = host


def host_copy(labels: Tensor) -> Tensor:
    """The labels on the CPU. Waits for the device where nobody has said what they are."""
    host: Tensor = _COPIES.get(labels, labels)
    return host.detach().cpu()


def values(labels: Tensor) -> npt.NDArray[np.int64]:
    """The labels as an array, see `host_copy`."""
    array: npt.NDArray[np.int64] = host_copy(labels).numpy()
    return array


def free_to_read(tensor: Tensor) -> bool:
    """Whether the values of a tensor can decide the shapes of what follows: on a CPU, where nothing waits.

    Elsewhere everything is computed, and what does not count is masked.
    """
    return tensor.device.type == "cpu"


def mean_where(losses: Tensor, counted: Tensor) -> Tensor:
    """Return the mean of the losses that count, (), and 0 with gradient 0 where none does. Both have one shape."""
    if free_to_read(losses):
        packed = losses[counted]
        return packed.mean() if len(packed) else losses[:0].sum()
    return losses.masked_fill(~counted, 0).sum() / counted.sum().clamp_min(1)

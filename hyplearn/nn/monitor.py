"""Readings that layers give during a forward pass: `with record() as readings: model(images)`.

Layers call `give(name, value)`; outside `record()` that costs one check. Values of the same name are averaged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from hyplearn.regions import as_written

_sums: dict[str, tuple[Tensor, int]] | None = None


def active() -> bool:
    """Whether somebody records; never inside a compiled graph."""
    return _sums is not None and not torch.compiler.is_compiling()


def give(name: str, value: Callable[[], Tensor]) -> None:
    """Record the mean of `value()` under `name`; the function is called only while somebody records."""
    if active():
        assert _sums is not None
        total, count = _sums.get(name, (torch.zeros(()), 0))
        with torch.no_grad():
            _sums[name] = (total + value().detach().float().mean().cpu(), count + 1)


def give_shrunk(site: str, before: Tensor, after: Tensor) -> None:
    """Record the share of vectors, in the last dimension, that a rescaling made shorter."""
    give(f"rescaled/{site}", lambda: after.square().sum(-1) < before.square().sum(-1))


@contextmanager
def record() -> Iterator[dict[str, float]]:
    """Collect readings; the yielded dict is filled when the block ends."""
    global _sums
    outer, _sums = _sums, {}
    readings: dict[str, float] = {}
    try:
        with as_written():
            yield readings
    finally:
        readings.update({name: (total / count).item() for name, (total, count) in _sums.items()})
        _sums = outer

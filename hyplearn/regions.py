"""Regional compilation: stretches of many small operations that run as a few kernels, the rest of a network as it is.

A GPU spends some 5 us on launching a kernel, whatever the kernel does, and a Lorentz layer computes hundreds of scalars
for each position. `@region` marks a function of tensors that torch.compile may turn into a few kernels. Sizes are
symbols, so that all layers of a network share one set of kernels, and a new batch or image size compiles nothing.
Outside `compiled()`, while somebody records readings of layers, and inside a graph that is being compiled as a whole,
the function runs as it is written. Where the compiler fails it does so, too, after one line of log.
"""

from __future__ import annotations

import functools
import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.fx.experimental import _config as symbols

P = ParamSpec("P")
R = TypeVar("R")

# One set of kernels for each combination of a layer's options, of which a network has a few and a process several.
RECOMPILE_LIMIT = 64
BACKEND = "inductor"

# What the compiler says of its own ways.
HARMLESS = (r"The \.grad attribute of a Tensor that is not a leaf", r".*`torch\._prims_common\.check` is deprecated")

_log = logging.getLogger(__name__)


class _Switch:
    """Whether regions run compiled, and those that the compiler has failed on."""

    def __init__(self) -> None:
        self.on = False
        self.failed: set[str] = set()
        self.lock = threading.Lock()


_switch = _Switch()


def region(function: Callable[P, R]) -> Callable[P, R]:
    """Mark a function that may run compiled.

    It must not depend on anything but its arguments, tensors and settings that are the same for many calls, and must
    overwrite none of 0 dimensions: the compiler of torch 2.12 forgets what is written to a 0-dim float64 tensor.
    """
    name = f"{function.__module__}.{function.__qualname__}"

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if not _switch.on or name in _switch.failed or torch.compiler.is_compiling():
            return function(*args, **kwargs)
        try:
            compiled: Callable[P, R] = _compiled(function)
            return compiled(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - the compiler has many, of several packages
            result = function(*args, **kwargs)  # raises what is the caller's fault
            _give_up(name, error)
            return result

    return run


def number(value: float, like: Tensor) -> float | Tensor:
    """A number that differs from layer to layer, as a region takes it without being compiled anew for each: 0-dim."""
    return _on_device(value, like.device) if _switch.on else value


def changing(value: float, like: Tensor) -> Tensor:
    """A number that differs from step to step, 0-dim, as a region takes it."""
    return torch.full((), value, dtype=_widest(like.device), device=like.device)


@functools.lru_cache(maxsize=256)
def _on_device(value: float, device: torch.device) -> Tensor:
    return torch.tensor(value, dtype=_widest(device), device=device)


def _widest(device: torch.device) -> torch.dtype:
    """What Python's arithmetic has, where the device has it; 0-dim it changes no type of a result."""
    return torch.float32 if device.type == "mps" else torch.float64


@functools.cache
def _compiled(function: Callable[P, R]) -> Callable[P, R]:
    """The function under torch.compile: one graph, sizes as symbols."""
    compiled: Callable[P, R] = torch.compile(function, dynamic=True, fullgraph=True, backend=BACKEND)
    return compiled


def _give_up(name: str, error: Exception) -> None:
    with _switch.lock:
        first = not _switch.failed
        _switch.failed.add(name)
    if first:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        _log.warning(
            "%s could not be compiled and runs operation by operation, slower and with the same numbers: %s",
            name, reason,
        )  # fmt: skip


@contextmanager
def compiled(on: bool = True) -> Iterator[None]:
    """Let regions run compiled; `on=False` changes nothing.

    Three settings of the compiler hold meanwhile: a limit that many layers' options do not reach, one symbol for each
    size, so that a batch that happens to be as large as the channels are many is no case of its own, and numbers as
    constants: as symbols the coefficients of a series are tensors, and each of them a kernel.
    """
    with ExitStack() as stack:
        if on:
            dynamo: Any = torch._dynamo
            stack.enter_context(dynamo.config.patch(recompile_limit=RECOMPILE_LIMIT, specialize_float=True))
            stack.enter_context(_without_duck_shapes())
            stack.enter_context(warnings.catch_warnings())
            for message in HARMLESS:
                warnings.filterwarnings("ignore", message=message)
            stack.callback(setattr, _switch, "on", _switch.on)
            _switch.on = True
        yield


@contextmanager
def _without_duck_shapes() -> Iterator[None]:
    before, symbols.use_duck_shape = symbols.use_duck_shape, False
    try:
        yield
    finally:
        symbols.use_duck_shape = before


@contextmanager
def as_written() -> Iterator[None]:
    """Run regions operation by operation, for readings that a compiled graph cannot give."""
    before, _switch.on = _switch.on, False
    try:
        yield
    finally:
        _switch.on = before


def is_on() -> bool:
    """Whether regions run compiled here and now."""
    return _switch.on


def failed() -> list[str]:
    """The regions that the compiler has failed on, by name."""
    return sorted(_switch.failed)

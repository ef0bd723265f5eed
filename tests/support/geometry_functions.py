"""Every public function of hyplearn.geometry, found by introspection, with arguments made from their names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hyplearn.geometry import centring, isometry, lorentz, numerics, pairwise, poincare, sphere

MODULES = (lorentz, poincare, sphere, isometry, numerics, pairwise, centring)
N, CLASSES, SETS = 4, 3, 5

# What is public for the sake of other modules of the package: parts of pairwise distances, decorators, checks, numbers.
PARTS = {
    "lorentz": {
        "check_mode", "cosh_minus_one", "d_max", "distance_columns", "distance_features", "distance_rows",
        "limit_and_rate", "reduced",
    },
    "numerics": {
        "check_any", "common_type", "in_single_precision", "of_one_type", "scalar_like", "shortened", "within_ball",
    },
    "pairwise": {"distance_operator"},
    "centring": {"centring_operator"},
}  # fmt: skip

# Of a squared argument, in [0, 1).
OF_A_SQUARE = {"sinhc", "asinhc", "tanhc", "atanhc", "sinc", "asinc", "coshm1c", "safe_sqrt"}


class Case(NamedTuple):
    """A function with arguments that fit it: tensors by name, and what else it takes."""

    name: str
    function: Callable[..., Tensor]
    tensors: dict[str, Tensor]
    options: dict[str, Any]

    def __call__(self, **changed: Any) -> Tensor:
        return self.function(**(self.tensors | self.options | changed))


def functions(modules: tuple[ModuleType, ...] = MODULES) -> Iterator[tuple[ModuleType, str, Callable[..., Tensor]]]:
    """Public functions by the module that defines them, without `PARTS`."""
    for module in modules:
        room = module.__name__.rpartition(".")[2]
        for name, function in inspect.getmembers(module, inspect.isfunction):
            defined_here = function.__module__ == module.__name__
            if defined_here and not name.startswith("_") and name not in PARTS.get(room, ()):
                yield module, f"{room}.{name}", function


def points(module: ModuleType, size: tuple[int, ...], generator: torch.Generator) -> Tensor:
    v = torch.randn(*size, N, generator=generator, dtype=torch.float64)
    if module is sphere:
        return torch.nn.functional.normalize(v, dim=-1)
    return v if module in (lorentz, isometry, numerics) else 0.5 * torch.tanh(v)


def case(module: ModuleType, name: str, function: Callable[..., Tensor], *, rows: int = SETS) -> Case:
    """Arguments in float64, `rows` points or vectors. Raises ValueError for an argument whose name says nothing."""
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, Tensor] = {}
    options: dict[str, Any] = {}
    for argument, parameter in inspect.signature(function).parameters.items():
        if argument == "t" or (argument == "x" and name.rpartition(".")[2] in OF_A_SQUARE):
            tensors[argument] = 0.9 * torch.rand(rows, generator=generator, dtype=torch.float64)
        elif argument == "p":
            tensors[argument] = points(poincare, (rows,), generator)
        elif argument in ("x", "y", "b"):
            tensors[argument] = points(module, (rows,), generator)
        elif argument == "z":
            tensors[argument] = torch.randn(CLASSES, N, generator=generator, dtype=torch.float64)
        elif argument == "a":
            tensors[argument] = torch.randn(CLASSES, generator=generator, dtype=torch.float64)
        elif argument in ("u", "v", "g"):
            tensors[argument] = torch.randn(rows, N, generator=generator, dtype=torch.float64)
        elif argument in ("c", "c_old", "c_new", "s"):
            options[argument] = {"c": 0.7, "c_old": 0.7, "c_new": 0.9, "s": 2.0}[argument]
        elif parameter.default is inspect.Parameter.empty:
            raise ValueError(f"{name} takes {argument!r}: say here what that is")
    return Case(name, function, tensors, options)


CASES = {name: case(module, name, function) for module, name, function in functions()}
EMPTY = {name: case(module, name, function, rows=0) for module, name, function in functions()}

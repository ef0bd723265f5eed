"""The curvature of a manifold: one scalar c > 0 (sectional curvature -c), fixed or learned, with bounds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hyplearn.errors import one_of

Parametrization = Literal["K", "log_c"]


class CurvatureParameter(nn.Parameter):
    """The raw value of a learned curvature. The type is the marker by which optimizers find their curvature group."""

    def __reduce_ex__(self, proto: Any) -> Any:  # torch rebuilds every parameter as a plain one
        return _rebuild, (self.data, self.requires_grad)


def _rebuild(data: Tensor, requires_grad: bool) -> CurvatureParameter:
    return CurvatureParameter(data, requires_grad)


def _check(c: float, parametrization: str, bounds: tuple[float, float]) -> None:
    low, high = bounds
    if not 0 < low < high < math.inf:
        raise ValueError(f"bounds={tuple(bounds)} must satisfy 0 < low < high < inf, for example (0.05, 20.0)")
    if not low <= c <= high:
        raise ValueError(f"c={c} must lie in bounds=[{low}, {high}]; widen the bounds or choose another c")
    one_of("parametrization", parametrization, Parametrization)


class Curvature(nn.Module):
    """c > 0 behind one raw scalar: K = 1/c learned directly (what Bdeir's experiments do) or log c (scale-free).

    c: initial value, inside bounds. learned: parameter or buffer. bounds: (low, high) of c, applied by `project_` only,
    which the optimizer calls after its curvature step. The bounds' default is K in [0.05, 20], the authors' own.
    """

    def __init__(
        self,
        c: float = 1.0,
        *,
        learned: bool = True,
        parametrization: Parametrization = "K",
        bounds: tuple[float, float] = (0.05, 20.0),
    ) -> None:
        super().__init__()
        low, high = float(bounds[0]), float(bounds[1])
        _check(c, parametrization, (low, high))
        self.parametrization, self.bounds, self.learned = parametrization, (low, high), learned
        self._held: Tensor | None = None
        self._remembered: dict[Any, Any] = {}
        raw = torch.tensor(self._to_raw(c), dtype=torch.float32)
        self.raw: Tensor
        if learned:
            self.raw = CurvatureParameter(raw)
        else:
            self.register_buffer("raw", raw)

    def _to_raw(self, c: float) -> float:
        return 1 / c if self.parametrization == "K" else math.log(c)

    @property
    def c(self) -> Tensor:
        """0-dim, differentiable in the raw value, float32 (float64 after `.double()`)."""
        return self._current() if self._held is None else self._held

    @contextmanager
    def held(self) -> Iterator[None]:
        """Compute c, and what is remembered of it, once for all that a block of code asks for.

        It is one node of the graph then, not one for each layer.
        """
        before = self._held, self._remembered
        try:
            self._held, self._remembered = self.c, {}
            yield
        finally:
            self._held, self._remembered = before

    def remembered(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` computes of c alone, without gradient: once for each key while c is held, else anew."""
        if self._held is None:
            return make()
        if key not in self._remembered:
            self._remembered[key] = make()
        return self._remembered[key]

    def _current(self) -> Tensor:
        raw = self.raw.float() if self.raw.dtype.itemsize < 4 else self.raw
        return raw.reciprocal() if self.parametrization == "K" else raw.exp()

    @property
    def raw_bounds(self) -> tuple[float, float]:
        """The bounds in terms of the raw value, (low, high)."""
        ends = self._to_raw(self.bounds[0]), self._to_raw(self.bounds[1])
        return min(ends), max(ends)

    @torch.no_grad()
    def project_(self) -> None:
        """Clamp the raw value in place so that c lies in bounds. No host synchronization."""
        low, high = self.raw_bounds
        self.raw.clamp_(low, high)

    @property
    def at_bound(self) -> bool:
        """Whether c sits on (or beyond) one of its bounds: a sign that the bound decides, not the data."""
        low, high = self.raw_bounds
        return bool(((self.raw <= low) | (self.raw >= high)).item())

    def extra_repr(self) -> str:
        kind = f"learned as {self.parametrization}" if self.learned else "fixed"
        return f"c={self.c.item():.6g}, {kind}, bounds={self.bounds}"

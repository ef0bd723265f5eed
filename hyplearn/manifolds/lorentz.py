"""The hyperboloid in space coordinates as a geoopt manifold."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from hyplearn.geometry import lorentz
from hyplearn.geometry.numerics import vector_norm
from hyplearn.manifolds.curved import CurvedManifold
from hyplearn.manifolds.precision import full_precision
from hyplearn.manifolds.protocol import Geometry


class Lorentz(CurvedManifold):
    """The hyperboloid <x, x>_L = -1/c; a point is its space part (..., n), so every tensor is a point for every c.

    Arguments: see `CurvedManifold`. Ambient, time-first tensors exist only at the border: `to_ambient`.
    """

    name = "Lorentz"
    geometry: ClassVar[Geometry] = lorentz

    @full_precision
    def time(self, x: Tensor, *, keepdim: bool = False) -> Tensor:
        """x_t = sqrt(1/c + |x|^2). (..., n) to (...)."""
        return lorentz.time(x, c=self.c, keepdim=keepdim)

    @full_precision
    def to_ambient(self, x: Tensor) -> Tensor:
        """Time first. (..., n) to (..., n + 1)."""
        return lorentz.to_ambient(x, c=self.c)

    def projx(self, x: Tensor) -> Tensor:
        """Every vector of n numbers is a point: identity."""
        return x

    @torch.no_grad()
    def random(
        self, *size: int, std: float = 1.0, dtype: torch.dtype | None = None, device: torch.device | None = None
    ) -> Tensor:
        """Points as `CurvedManifold` draws them. Raises ValueError if a draw is beyond the squares of its type."""
        points = super().random(*size, std=std, dtype=dtype, device=device)
        reach = torch.finfo(points.dtype).max ** 0.5 / 16
        inside = points.is_meta or bool((vector_norm(points) * self.c.sqrt().clamp_min(1) <= reach).all())
        if not inside:
            c = self.c.item()
            longest = 0.9 * math.asinh(reach * min(1.0, c**0.5)) / c**0.5
            raise ValueError(
                f"std={std:g} in n={size[-1]} dimensions draws points farther out than {points.dtype} can square at "
                f"c={c:g}: give std={longest / (size[-1] ** 0.5 + 4):.2g} or less"
            )
        return points

    def _check_point_on_manifold(self, x: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5) -> tuple[bool, str | None]:
        return (True, None) if bool(x.isfinite().all()) else (False, "'x' has a non-finite coordinate")

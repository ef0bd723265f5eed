"""What the two models of hyperbolic space have in common: a curvature, and the geometry verbs bound to it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor

from hyplearn.geometry.lorentz import X_T_MAX, CurvatureMove
from hyplearn.manifolds.curvature import Curvature, Parametrization
from hyplearn.manifolds.interop import Manifold
from hyplearn.manifolds.precision import full_precision
from hyplearn.manifolds.protocol import Geometry


def _check_limits(s: float, x_t_max: float | None, bounds: tuple[float, float]) -> None:
    if not s > 0:
        raise ValueError(f"s={s} must be > 0: it is the tightness of the maximum distance rescaling, 2 in the paper")
    largest, origin = X_T_MAX[torch.float32] if x_t_max is None else x_t_max, bounds[0] ** -0.5
    if not largest > origin:
        raise ValueError(
            f"x_t_max={largest:g} must exceed 1/sqrt(c) = {origin:.4g}, the time of the origin at the lower bound of "
            f"c; raise x_t_max (default: {X_T_MAX[torch.float32]:g} in float32) or the lower of bounds={bounds}"
        )


class CurvedManifold(Manifold):
    """A model of hyperbolic space of sectional curvature -c, as a geoopt manifold.

    c, learned, parametrization, bounds: see `Curvature`. s > 0 and x_t_max: tightness and largest time of the maximum
    distance rescaling (Bdeir Eqs. 1-3); x_t_max=None takes the value of the dtype. mode: what keeps a point's meaning
    when c changes, see `geometry.lorentz.change_curvature`. Every method computes outside autocast, in float32 or
    better, and expects the manifold dimension last; equations stand at the function of the same name in `geometry`.
    """

    geometry: ClassVar[Geometry]
    ndim = 1
    reversible = False

    def __init__(
        self,
        c: float = 1.0,
        *,
        learned: bool = True,
        parametrization: Parametrization = "K",
        bounds: tuple[float, float] = (0.05, 20.0),
        s: float = 2.0,
        x_t_max: float | None = None,
        mode: CurvatureMove = "logexp",
    ) -> None:
        super().__init__()
        self.curvature = Curvature(c, learned=learned, parametrization=parametrization, bounds=bounds)
        _check_limits(s, x_t_max, self.curvature.bounds)
        if mode not in ("logexp", "scale"):
            raise ValueError(f"mode={mode!r} must be 'logexp' or 'scale'")
        self.s, self.x_t_max, self.mode = s, x_t_max, mode

    @property
    def c(self) -> Tensor:
        """The curvature's c, 0-dim, differentiable."""
        return self.curvature.c

    def extra_repr(self) -> str:
        return f"{self.curvature.extra_repr()}, s={self.s}"

    # Distances and averages

    @full_precision
    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        """Geodesic distance. (..., n), (..., n) to (...)."""
        return self.geometry.dist(x, y, c=self.c, keepdim=keepdim)

    @full_precision
    def dist0(self, x: Tensor, *, keepdim: bool = False) -> Tensor:
        """Distance to the origin. (..., n) to (...)."""
        return self.geometry.dist0(x, c=self.c, keepdim=keepdim)

    @full_precision
    def cdist(self, x: Tensor, y: Tensor) -> Tensor:
        """All pairwise distances. (..., N, n), (..., M, n) to (..., N, M)."""
        return self.geometry.cdist(x, y, c=self.c)

    @full_precision
    def centroid(self, x: Tensor, *, weights: Tensor | None = None, dim: int | tuple[int, ...] = -2) -> Tensor:
        """Weighted Lorentzian centroid over dim. (..., N, n) to (..., n)."""
        return self.geometry.centroid(x, c=self.c, weights=weights, dim=dim)

    @full_precision
    def mlr(self, x: Tensor, z: Tensor, a: Tensor) -> Tensor:
        """Logits of the hyperplanes (z, a). (..., n), (classes, n), (classes,) to (..., classes)."""
        return self.geometry.mlr(x, z, a, c=self.c)

    # Exponential, logarithm, transport

    @full_precision
    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """Exponential map at x."""
        return self.geometry.expmap(x, u, c=self.c)

    def retr(self, x: Tensor, u: Tensor) -> Tensor:
        """The retraction of the optimizers: the exponential map."""
        return self.expmap(x, u)

    @full_precision
    def expmap0(self, u: Tensor) -> Tensor:
        """Exponential map at the origin."""
        return self.geometry.expmap0(u, c=self.c)

    @full_precision
    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """Logarithm of y at x."""
        return self.geometry.logmap(x, y, c=self.c)

    @full_precision
    def logmap0(self, x: Tensor) -> Tensor:
        """Logarithm at the origin."""
        return self.geometry.logmap0(x, c=self.c)

    @full_precision
    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Parallel transport of v from x to y."""
        return self.geometry.transp(x, y, v, c=self.c)

    @full_precision
    def transp0(self, y: Tensor, u: Tensor) -> Tensor:
        """Parallel transport of u from the origin to y."""
        return self.geometry.transp0(y, u, c=self.c)

    @full_precision
    def transp0back(self, x: Tensor, u: Tensor) -> Tensor:
        """Parallel transport of u from x to the origin."""
        return self.geometry.transp0back(x, u, c=self.c)

    @full_precision
    def boost(self, x: Tensor, b: Tensor) -> Tensor:
        """The isometry that takes the origin to b."""
        return self.geometry.boost(x, b, c=self.c)

    # Tangent vectors. Argument order is geoopt's: the point comes first

    @full_precision
    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:
        """Riemannian inner product of u and v (default u) at x."""
        return self.geometry.inner(u, u if v is None else v, x, c=self.c, keepdim=keepdim)

    @full_precision
    def norm(self, x: Tensor, u: Tensor, *, keepdim: bool = False) -> Tensor:
        """Riemannian norm of u at x, with gradient 0 at u = 0."""
        return self.geometry.norm(u, x, c=self.c, keepdim=keepdim)

    @full_precision
    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        """Riemannian gradient from the gradient u of the coordinates."""
        return self.geometry.egrad2rgrad(x, u, c=self.c)

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        """Every vector of n numbers is tangent: identity."""
        return u.expand(torch.broadcast_shapes(x.shape, u.shape))

    # Rescaling and curvature moves

    @full_precision
    def rescale(self, x: Tensor) -> Tensor:
        """Maximum distance rescaling of points (Bdeir Eqs. 2-3) with this manifold's s and x_t_max."""
        return self.geometry.rescale(x, c=self.c, s=self.s, x_t_max=self.x_t_max)

    @full_precision
    def rescale0(self, u: Tensor) -> Tensor:
        """Maximum distance rescaling of tangent vectors at the origin (Bdeir Eqs. 2-3)."""
        return self.geometry.rescale0(u, c=self.c, s=self.s, x_t_max=self.x_t_max)

    @torch.no_grad()
    def change_curvature_(self, point: Tensor, tangents: Iterable[Tensor], c_old: Tensor | float) -> None:
        """Move a point and tangent vectors at it, in place, from c_old to the present c (Bdeir Algorithm 1)."""
        c_new = self.c
        for v in tangents:
            v.copy_(self.geometry.change_curvature_tangent(point, v, c_old=c_old, c_new=c_new, mode=self.mode))
        point.copy_(self.geometry.change_curvature(point, c_old=c_old, c_new=c_new, mode=self.mode))

    # Points

    def origin(self, *size: int, dtype: torch.dtype | None = None, device: torch.device | None = None) -> Tensor:
        """The origin, zeros in the coordinates of either model. size: (..., n)."""
        return torch.zeros(*size, dtype=dtype, device=device)

    @torch.no_grad()
    def random(
        self, *size: int, std: float = 1.0, dtype: torch.dtype | None = None, device: torch.device | None = None
    ) -> Tensor:
        """Points whose logarithm at the origin is normal, std per coordinate, without gradient. size: (..., n)."""
        points: Tensor = self.projx(self.expmap0(std * torch.randn(*size, dtype=dtype, device=device)))
        return points

    def _check_vector_on_tangent(
        self, x: Tensor, u: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5
    ) -> tuple[bool, str | None]:
        return (True, None) if bool(u.isfinite().all()) else (False, "'u' has a non-finite coordinate")

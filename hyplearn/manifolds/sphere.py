"""The unit sphere with the verbs of the other manifolds; without curvature to learn, and without exp at an origin."""

from __future__ import annotations

import torch
from torch import Tensor

from hyplearn.geometry import sphere
from hyplearn.geometry.numerics import vector_norm
from hyplearn.manifolds.interop import Manifold
from hyplearn.manifolds.precision import full_precision


class Sphere(Manifold):
    """Points x (..., n) with |x| = 1; distances are angles. Every method computes in float32 or better."""

    name = "Sphere"
    ndim = 1
    reversible = True

    @full_precision
    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        """Angle. (..., n), (..., n) to (...)."""
        return sphere.dist(x, y, keepdim=keepdim)

    @full_precision
    def cdist(self, x: Tensor, y: Tensor) -> Tensor:
        """Angles of all pairs. (..., N, n), (..., M, n) to (..., N, M)."""
        return sphere.cdist(x, y)

    @full_precision
    def cosine(self, x: Tensor, y: Tensor) -> Tensor:
        """Cosines of all pairs. (..., N, n), (..., M, n) to (..., N, M)."""
        return sphere.cosine(x, y)

    @full_precision
    def centroid(self, x: Tensor, *, weights: Tensor | None = None, dim: int | tuple[int, ...] = -2) -> Tensor:
        """Normalised weighted mean over dim. (..., N, n) to (..., n)."""
        return sphere.centroid(x, weights=weights, dim=dim)

    @full_precision
    def mlr(self, x: Tensor, z: Tensor) -> Tensor:
        """Cosines to the directions z. (..., n), (classes, n) to (..., classes)."""
        return sphere.mlr(x, z)

    @full_precision
    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """Exponential map at x."""
        return sphere.expmap(x, u)

    @full_precision
    def retr(self, x: Tensor, u: Tensor) -> Tensor:
        """The exponential map, normalised so that rounding does not add up over many steps."""
        return sphere.proj(sphere.expmap(x, u))

    @full_precision
    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """Logarithm of y at x."""
        return sphere.logmap(x, y)

    @full_precision
    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Parallel transport of v from x to y."""
        return sphere.transp(x, y, v)

    @full_precision
    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:
        """Inner product of u and v (default u) at x."""
        return sphere.inner(u, u if v is None else v, x, keepdim=keepdim)

    @full_precision
    def norm(self, x: Tensor, u: Tensor, *, keepdim: bool = False) -> Tensor:
        """Norm of u at x."""
        return sphere.norm(u, x, keepdim=keepdim)

    @full_precision
    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        """Riemannian gradient from the gradient u of the coordinates."""
        return sphere.egrad2rgrad(x, u)

    @full_precision
    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        """The tangent part of u at x."""
        return sphere.proj_tangent(x, u)

    @full_precision
    def projx(self, x: Tensor) -> Tensor:
        """x / |x|."""
        return sphere.proj(x)

    def origin(self, *size: int, dtype: torch.dtype | None = None, device: torch.device | None = None) -> Tensor:
        """The first basis vector. size: (..., n)."""
        point = torch.zeros(*size, dtype=dtype, device=device)
        point[..., 0] = 1
        return point

    @torch.no_grad()
    def random(self, *size: int, dtype: torch.dtype | None = None, device: torch.device | None = None) -> Tensor:
        """Uniform points. size: (..., n)."""
        return self.projx(torch.randn(*size, dtype=dtype, device=device))

    def _check_point_on_manifold(self, x: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5) -> tuple[bool, str | None]:
        length = vector_norm(x)
        ok = torch.allclose(length, torch.ones_like(length), atol=atol, rtol=rtol)
        return (True, None) if ok else (False, f"'x' has a norm other than 1 with tolerances atol={atol}, rtol={rtol}")

    def _check_vector_on_tangent(
        self, x: Tensor, u: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5
    ) -> tuple[bool, str | None]:
        product = (x * u).sum(-1)
        ok = torch.allclose(product, torch.zeros_like(product), atol=atol, rtol=rtol)
        return (True, None) if ok else (False, f"'u' is not orthogonal to 'x' with tolerance atol={atol}")

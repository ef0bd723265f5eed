"""What an optimizer has to know of a manifold, for many points at once.

A `ParameterSpace` is a manifold at one moment: it keeps the curvature it was made with, so that a step that changes the
curvature can still say where its points come from. The steps in `update.py` see nothing else of a manifold. Points come
stacked, (P, *point), in the coordinates of `enter_point`; no method edits its arguments.

`space_of` finds the space of a manifold by its class; `space_of.register` adds a rule for one more class.
"""

from __future__ import annotations

from functools import singledispatch
from typing import cast

import torch
from torch import Tensor

from hyplearn.geometry import lorentz, poincare
from hyplearn.geometry.lorentz import CurvatureMove
from hyplearn.manifolds.ambient import AmbientLorentz
from hyplearn.manifolds.curved import CurvedManifold
from hyplearn.manifolds.interop import Manifold, geoopt
from hyplearn.manifolds.lorentz import Lorentz
from hyplearn.manifolds.protocol import Geometry
from hyplearn.optim import hyperboloid

# geoopt leaves the k of its hyperboloid free, but k <= 0 is NaN. Wide enough to bind no sensible run.
GEOOPT_K_BOUNDS = (1e-6, 1e6)


class ParameterSpace:
    """Points of any geoopt manifold, by the manifold's own methods, at a curvature that does not change."""

    pads = False  # appending zero coordinates to points and vectors changes no result
    decays = False  # points can be drawn towards an origin
    moves = False  # points can follow a change of curvature
    closed = False  # every step is a closed form of tensors, which can be compiled

    def __init__(self, manifold: Manifold) -> None:
        self.manifold = manifold

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.manifold.name})"

    # Between the stored coordinates and those of the computation

    def enter_point(self, stored: Tensor) -> Tensor:
        """Take stored points to the coordinates that all other methods use."""
        return stored

    def enter_tangent(self, stored: Tensor) -> Tensor:
        """Take stored tangent vectors to the coordinates that all other methods use."""
        return stored

    def enter_gradient(self, x: Tensor, gradient: Tensor) -> Tensor:
        """Derivatives by the stored coordinates to derivatives by the coordinates of x = enter_point(...)."""
        return gradient

    def leave_point(self, x: Tensor) -> Tensor:
        """Return points in the coordinates they are stored in."""
        return x

    def leave_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        """Return a tangent vector v at x in the coordinates it is stored in."""
        return v

    # Steps

    def riemannian_gradient(self, x: Tensor, gradient: Tensor) -> Tensor:
        """Derivatives by the coordinates to the Riemannian gradient, a tangent vector."""
        return cast(Tensor, self.manifold.egrad2rgrad(x, gradient))

    def squared_norm(self, x: Tensor, u: Tensor) -> Tensor:
        """Riemannian square of u: one number per point, or per factor of a product. Broadcasts against x."""
        return cast(Tensor, self.manifold.component_inner(x, u)).clamp_min(0)

    def retract(self, x: Tensor, step: Tensor) -> Tensor:
        """Walk from x along the tangent vector `step`."""
        return cast(Tensor, self.manifold.retr(x, step))

    def retract_transport(self, x: Tensor, step: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Walk likewise and take the tangent vector v along."""
        return cast("tuple[Tensor, Tensor]", self.manifold.retr_transp(x, step, v))

    # Weight decay

    def half_square_gradient(self, x: Tensor) -> Tensor:
        """Derivatives of half the squared length of the stored coordinates: what an L2 penalty adds."""
        return x

    def ambient_half_square_gradient(self, x: Tensor) -> Tensor:
        """The same of ambient coordinates (x_t, x), where points have such: on the hyperboloid."""
        return self.half_square_gradient(x)

    def towards_origin(self, x: Tensor, v: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Centroid of x (weight 1 - weight) and the origin (weight), and the tangent vector v taken along.

        weight: 0-dim.
        """
        raise NotImplementedError(f"{self.manifold.name} has no origin")

    # Change of curvature

    def project_curvature_(self) -> None:
        """Put the curvature of the manifold back into its bounds, in place."""

    def follow(self, x: Tensor, vectors: list[Tensor], new: ParameterSpace) -> tuple[Tensor, list[Tensor]]:
        """Points and tangent vectors of this space in `new`, the same manifold after its curvature step."""
        raise NotImplementedError(f"no rule moves points of {self.manifold.name} to another curvature")


class CurvedSpace(ParameterSpace):
    """Points of curvature -c, by the manifold's own retraction and otherwise the closed forms of `geometry`."""

    pads = True
    decays = True
    moves = True

    def __init__(self, manifold: Manifold, *, geometry: Geometry, c: Tensor) -> None:
        super().__init__(manifold)
        self.geometry, self.c = geometry, c.detach()
        self.mode: CurvatureMove = getattr(manifold, "mode", "logexp")  # geoopt's manifolds have no say in it

    def riemannian_gradient(self, x: Tensor, gradient: Tensor) -> Tensor:
        return self.geometry.egrad2rgrad(x, gradient, c=self.c)

    def squared_norm(self, x: Tensor, u: Tensor) -> Tensor:
        return self.geometry.inner(u, u, x, c=self.c, keepdim=True).clamp_min(0)

    def towards_origin(self, x: Tensor, v: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        pair = torch.stack([x, torch.zeros_like(x)], dim=-2)
        y = self.geometry.centroid(pair, c=self.c, weights=torch.stack([1 - weight, weight]).to(x.dtype))
        return y, self.geometry.transp0(y, self.geometry.transp0back(x, v, c=self.c), c=self.c)

    def project_curvature_(self) -> None:
        self.manifold.curvature.project_()

    def follow(self, x: Tensor, vectors: list[Tensor], new: ParameterSpace) -> tuple[Tensor, list[Tensor]]:
        c = {"c_old": self.c, "c_new": cast(CurvedSpace, new).c}
        moved = [self.geometry.change_curvature_tangent(x, v, **c, mode=self.mode) for v in vectors]
        return new.manifold.projx(self.geometry.change_curvature(x, **c, mode=self.mode)), moved


class HyperboloidSpace(CurvedSpace):
    """The hyperboloid in space coordinates, by the shared closed forms of `optim.hyperboloid`."""

    closed = True

    def retract(self, x: Tensor, step: Tensor) -> Tensor:
        return hyperboloid.walk(x, step, [], c=self.c)[0]

    def retract_transport(self, x: Tensor, step: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        y, (v,) = hyperboloid.walk(x, step, [v], c=self.c)
        return y, v

    def ambient_half_square_gradient(self, x: Tensor) -> Tensor:
        return 2 * x  # |(x_t, x)|^2 = 2 |x|^2 + 1/c

    def towards_origin(self, x: Tensor, v: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        y, (v,) = hyperboloid.towards_origin(x, [v], weight, c=self.c)
        return y, v

    def follow(self, x: Tensor, vectors: list[Tensor], new: ParameterSpace) -> tuple[Tensor, list[Tensor]]:
        c_new = cast(CurvedSpace, new).c
        return hyperboloid.follow(x, vectors, c_old=self.c, c_new=c_new, mode=self.mode)


class AmbientSpace(HyperboloidSpace):
    """geoopt's hyperboloid of ambient points (x_t, x): steps in space coordinates, time derived on the way back.

    So points leave on the manifold of the curvature of that moment, whatever they were before.
    """

    def enter_point(self, stored: Tensor) -> Tensor:
        return lorentz.from_ambient(stored)

    def enter_tangent(self, stored: Tensor) -> Tensor:
        return lorentz.from_ambient(stored)

    def enter_gradient(self, x: Tensor, gradient: Tensor) -> Tensor:
        # x_t is a function of x with derivative x / x_t.
        return gradient[..., 1:] + gradient[..., :1] / lorentz.time(x, c=self.c, keepdim=True) * x

    def leave_point(self, x: Tensor) -> Tensor:
        return lorentz.to_ambient(x, c=self.c)

    def leave_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        v_t = (x * v).sum(-1, keepdim=True) / lorentz.time(x, c=self.c, keepdim=True)
        return torch.cat([v_t, v], dim=-1)

    def half_square_gradient(self, x: Tensor) -> Tensor:
        return self.ambient_half_square_gradient(x)

    @torch.no_grad()
    def project_curvature_(self) -> None:
        self.manifold.k.clamp_(*GEOOPT_K_BOUNDS)


class SharedAmbientSpace(AmbientSpace):
    """Ambient points with the curvature of a manifold of ours."""

    def project_curvature_(self) -> None:
        self.manifold.curvature.project_()


class GeooptBallSpace(CurvedSpace):
    """geoopt's ball, whose c = softplus(isp_c) is positive without bounds."""

    def project_curvature_(self) -> None:
        pass


@singledispatch
def space_of(manifold: Manifold) -> ParameterSpace:
    """The space of a manifold at its present curvature."""
    return ParameterSpace(manifold)


@space_of.register
def _(manifold: CurvedManifold) -> ParameterSpace:
    return CurvedSpace(manifold, geometry=manifold.geometry, c=manifold.c)


@space_of.register
def _(manifold: Lorentz) -> ParameterSpace:
    return HyperboloidSpace(manifold, geometry=lorentz, c=manifold.c)


@space_of.register(geoopt.Lorentz)
def _(manifold: Manifold) -> ParameterSpace:
    return AmbientSpace(manifold, geometry=lorentz, c=manifold.k.reciprocal())


@space_of.register(AmbientLorentz)
def _(manifold: Manifold) -> ParameterSpace:
    return SharedAmbientSpace(manifold, geometry=lorentz, c=manifold.k.reciprocal())


@space_of.register(geoopt.PoincareBall)
def _(manifold: Manifold) -> ParameterSpace:
    return GeooptBallSpace(manifold, geometry=poincare, c=manifold.c)

"""Manifold objects: they own the curvature, compute in float32 or better, and are proper geoopt manifolds."""

from hyplearn.manifolds.ambient import AmbientLorentz
from hyplearn.manifolds.curvature import Curvature, CurvatureParameter
from hyplearn.manifolds.curved import CurvedManifold
from hyplearn.manifolds.euclidean import Euclidean
from hyplearn.manifolds.family import Manifolds
from hyplearn.manifolds.interop import Manifold, ManifoldParameter
from hyplearn.manifolds.lorentz import Lorentz
from hyplearn.manifolds.parameter import manifold_parameter
from hyplearn.manifolds.poincare import PoincareBall
from hyplearn.manifolds.precision import full_precision
from hyplearn.manifolds.sphere import Sphere

__all__ = [
    "AmbientLorentz",
    "Curvature",
    "CurvatureParameter",
    "CurvedManifold",
    "Euclidean",
    "Lorentz",
    "Manifold",
    "ManifoldParameter",
    "Manifolds",
    "PoincareBall",
    "Sphere",
    "full_precision",
    "manifold_parameter",
]

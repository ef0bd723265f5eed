"""Feature maps of a Poincare network: tangent vectors at the origin of the ball (van Spengler et al., 2023).

Between layers a feature is a vector v of T_o, and a layer is exp at the origin, an operation of the ball, log at the
origin. The layers compute that operation at the isometric point of the hyperboloid with the same c: the ball's exp_0(v)
is the hyperboloid's exp_0(2v) (the conformal factor at the origin is 2). So nothing is divided by 1 - c|x|^2, which has
no digit left at the edge of the ball, and no point can leave the ball. ReLU acts on v itself: `torch.nn.ReLU` is the
activation.
"""

from __future__ import annotations

from torch import Tensor

from hyplearn.geometry import lorentz
from hyplearn.geometry.numerics import safe_sqrt, squared_norm
from hyplearn.nn import monitor


def clip_factor(q: Tensor, *, c: Tensor, x_t_max: float | None) -> Tensor:
    """Factor that keeps a tangent vector, q = |v|^2, within d_max of the origin (Bdeir Eq. 1): min(1, d_max / |2v|).

    It plays the part of the projection to (1 - eps)/sqrt(c) in other implementations of the ball, and like it changes
    nothing but points further out than the precision resolves.
    """
    limit = lorentz.d_max(c=c, dtype=q.dtype, x_t_max=x_t_max) / 2
    norm = safe_sqrt(q)
    monitor.give("clipped/poincare", lambda: norm > limit)
    return limit / norm.clamp_min(limit)


def to_hyperboloid(v: Tensor, *, c: Tensor, x_t_max: float | None = None) -> Tensor:
    """Tangent vectors at the ball's origin, (..., n), to points of the isometric hyperboloid, (..., n)."""
    return lorentz.expmap0(2 * clip_factor(squared_norm(v), c=c, x_t_max=x_t_max) * v, c=c)


def to_tangent(x: Tensor, *, c: Tensor) -> Tensor:
    """Inverse of `to_hyperboloid`: points of the hyperboloid to tangent vectors at the ball's origin."""
    return lorentz.logmap0(x, c=c) / 2

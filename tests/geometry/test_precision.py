"""float32 (and float64) against 50 digits, for c in {0.05, 0.1, 1, 4, 20} and distances from 1e-6 to d_max.

"Away from d_max" is up to 0.75 d_max: errors there are at most 1e-5 (float32). At d_max itself they are at most 1e-4.
An error is relative to the exact result; for maps that can cancel (boost, exp and transport from a far point) it is
relative to the largest of the points and the result, because rounding the points alone moves the result by as much.
"""

from __future__ import annotations

import math

import mpmath as mp
import pytest
import torch
from torch import Tensor

from hyplearn.geometry import lorentz
from tests.support import fifty_digits as exact

CURVATURES = [0.05, 0.1, 1.0, 4.0, 20.0]
SHARES = [0.0, 1e-3, 0.03, 0.3, 0.75, 1.0]  # of d_max; 0 stands for a distance of 1e-6
LAYOUTS = ["independent", "close", "same ray", "opposite", "coincident"]
DIM = 5
BOUNDS = {torch.float32: (1e-5, 1e-4), torch.float64: (1e-12, 1e-6)}


def bound(dtype: torch.dtype, share: float) -> float:
    return BOUNDS[dtype][share > 0.75]


def tangent(distance: float) -> Tensor:
    return distance * torch.nn.functional.normalize(torch.randn(DIM, dtype=torch.float64), dim=0)


def scene(c: Tensor, share: float, layout: str) -> tuple[Tensor, Tensor]:
    """A pair of points of c's dtype, the first at distance share x d_max."""
    distance = max(share * lorentz.d_max(c=c, dtype=c.dtype).item(), 1e-6)
    v = tangent(distance)
    w = {
        "independent": tangent(distance * 0.7),
        "close": v + 1e-3 * tangent(distance),
        "same ray": 0.4 * v,
        "opposite": -0.6 * v,
        "coincident": v,
    }[layout]
    x, y = (lorentz.expmap0(u, c=c.double()).to(c.dtype) for u in (v, w))
    return x, y


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("value", CURVATURES)
def test_hyperboloid_matches_fifty_digits(value: float, share: float, dtype: torch.dtype) -> None:
    c = torch.tensor(value, dtype=dtype)
    e_c, errors = exact.number(c), {}
    for layout in LAYOUTS:
        x, y = scene(c, share, layout)
        e_x, e_y = exact.vector(x), exact.vector(y)
        largest = max(exact.norm(e_x), exact.norm(e_y))

        def relative(name: str, got: Tensor, truth: exact.Vector | mp.mpf, floor: mp.mpf | None = None) -> None:
            scale = None if floor is None else max(floor, exact.norm(truth))
            errors[f"{name}, {layout}"] = exact.error(got, truth, scale=scale)  # noqa: B023

        relative("dist", lorentz.dist(x, y, c=c), exact.dist(e_x, e_y, e_c))
        relative("cdist", lorentz.cdist(x[None], y[None], c=c)[0, 0], exact.dist(e_x, e_y, e_c))
        relative("dist0", lorentz.dist0(x, c=c), exact.dist0(e_x, e_c))
        logarithm = lorentz.logmap0(x, c=c)
        relative("logmap0", logarithm, exact.logmap0(e_x, e_c))
        relative("expmap0", lorentz.expmap0(logarithm, c=c), exact.expmap0(exact.vector(logarithm), e_c))
        relative("logmap", lorentz.logmap(x, y, c=c), exact.logmap(e_x, e_y, e_c))
        relative("boost", lorentz.boost(x, y, c=c), exact.boost(e_x, e_y, e_c), largest)
        ones = [mp.mpf(1)] * 2
        relative("centroid", lorentz.centroid(torch.stack([x, y]), c=c), exact.centroid([e_x, e_y], ones, e_c))
        relative(
            "rescale", lorentz.rescale(x, c=c, s=2.0),
            exact.rescale(e_x, e_c, mp.mpf(2), mp.mpf(lorentz.X_T_MAX[dtype])),
        )  # fmt: skip
        v = (tangent(0.9) / math.sqrt(value)).to(dtype)
        e_v = exact.vector(v)
        relative("norm", lorentz.norm(v, x, c=c), mp.sqrt(exact.inner(e_v, e_v, e_x, e_c)))
        relative("expmap", lorentz.expmap(x, v, c=c), exact.expmap(e_x, e_v, e_c), largest)
        far_off = lorentz.logmap(x, y, c=c)
        e_far_off = exact.vector(far_off)
        relative(
            "transp of log", lorentz.transp(x, y, far_off, c=c), exact.transp(e_x, e_y, e_far_off, e_c),
            max(largest, exact.norm(e_far_off)),
        )  # fmt: skip
        relative("transp", lorentz.transp(x, y, v, c=c), exact.transp(e_x, e_y, e_v, e_c), largest)
    wrong = {name: value for name, value in errors.items() if not value <= bound(dtype, share)}
    assert not wrong


@pytest.mark.parametrize("value", CURVATURES)
def test_exponential_towards_the_origin_does_not_cancel(value: float) -> None:
    """From 0.75 d_max 60 % of the way to the origin, where cosh(a) x and sinh(a)/a v nearly cancel."""
    c = torch.tensor(value)
    for _ in range(20):
        x, _ = scene(c, 0.75, "independent")
        v = -0.6 * lorentz.transp0(x, lorentz.logmap0(x, c=c), c=c)
        e_x = exact.vector(x)
        truth = exact.expmap(e_x, exact.vector(v), exact.number(c))
        assert exact.error(lorentz.expmap(x, v, c=c), truth, scale=exact.norm(e_x)) < 3e-6

"""Plain definitions of the Poincare layers in coordinates of the ball, as the papers print them. For float64 only.

Points are (..., n) with c|x|^2 < 1; the formulas are those of Ganea et al. (2018), Shimizu et al. (2021, HNN++),
Lou et al. (2020) and van Spengler et al. (2023), without any care for the origin (avoid it) or the edge.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def conformal(x: Tensor, c: Tensor) -> Tensor:
    return 2 / (1 - c * x.square().sum(-1, keepdim=True))


def expmap0(v: Tensor, c: Tensor) -> Tensor:
    norm = v.norm(dim=-1, keepdim=True)
    return torch.tanh(c.sqrt() * norm) * v / (c.sqrt() * norm)


def logmap0(x: Tensor, c: Tensor) -> Tensor:
    norm = x.norm(dim=-1, keepdim=True)
    return torch.atanh(c.sqrt() * norm) * x / (c.sqrt() * norm)


def mobius_add(x: Tensor, y: Tensor, c: Tensor) -> Tensor:
    xy, x2, y2 = (x * y).sum(-1, keepdim=True), x.square().sum(-1, keepdim=True), y.square().sum(-1, keepdim=True)
    return ((1 + 2 * c * xy + c * y2) * x + (1 - c * x2) * y) / (1 + 2 * c * xy + c**2 * x2 * y2)


def dist(x: Tensor, y: Tensor, c: Tensor) -> Tensor:
    return 2 / c.sqrt() * torch.atanh(c.sqrt() * mobius_add(-x, y, c).norm(dim=-1, keepdim=True))


def logmap(x: Tensor, y: Tensor, c: Tensor) -> Tensor:
    moved = mobius_add(-x, y, c)
    norm = moved.norm(dim=-1, keepdim=True)
    return 2 / (c.sqrt() * conformal(x, c)) * torch.atanh(c.sqrt() * norm) * moved / norm


def expmap(x: Tensor, v: Tensor, c: Tensor) -> Tensor:
    norm = v.norm(dim=-1, keepdim=True)
    step = torch.tanh(c.sqrt() * conformal(x, c) * norm / 2) * v / (c.sqrt() * norm)
    return mobius_add(x, step, c)


def transport(x: Tensor, y: Tensor, v: Tensor, c: Tensor) -> Tensor:
    """gyr[y, -x] v lambda_x / lambda_y, the gyration by its definition."""
    gyrated = mobius_add(-mobius_add(y, -x, c), mobius_add(y, mobius_add(-x, v, c), c), c)
    return gyrated * conformal(x, c) / conformal(y, c)


def midpoint(x: Tensor, c: Tensor) -> Tensor:
    """Moebius gyromidpoint of (N, n): half of sum(lambda x) / sum(lambda - 1)."""
    factor = conformal(x, c)
    klein = (factor * x).sum(0) / (factor - 1).sum(0)
    return klein / (1 + (1 - c * klein.square().sum(-1, keepdim=True)).sqrt())


def mlr(x: Tensor, z: Tensor, r: Tensor, c: Tensor) -> Tensor:
    """HNN++ Eq. (6): x (..., n), z (n, classes), r (classes,)."""
    norm, root, factor = z.norm(dim=0), c.sqrt(), conformal(x, c)
    argument = root * factor * (x @ (z / norm)) * torch.cosh(2 * root * r) - (factor - 1) * torch.sinh(2 * root * r)
    return 2 * norm / root * torch.asinh(argument)


def fully_connected(x: Tensor, z: Tensor, r: Tensor, c: Tensor) -> Tensor:
    w = torch.sinh(c.sqrt() * mlr(x, z, r, c)) / c.sqrt()
    return w / (1 + (1 + c * w.square().sum(-1, keepdim=True)).sqrt())


def beta(a: float, b: float) -> float:
    return math.gamma(a) * math.gamma(b) / math.gamma(a + b)


def convolution(v: Tensor, weight: Tensor, bias: Tensor, c: Tensor, **geometry: int) -> Tensor:
    """Beta-concatenation, unfold, exp, FC, log. v: (B, n, H, W), weight: (outputs, n, kh, kw)."""
    outputs, channels, *kernel = weight.shape
    size = channels * kernel[0] * kernel[1]
    v = v * beta(size / 2, 0.5) / beta(channels / 2, 0.5)
    patches = F.unfold(v, kernel, **geometry).transpose(1, 2)
    y = logmap0(fully_connected(expmap0(patches, c), weight.flatten(1).T, bias, c), c)
    probe = F.conv2d(v[:1, :1], v.new_zeros(1, 1, *kernel), **geometry)
    return y.transpose(1, 2).reshape(v.shape[0], outputs, *probe.shape[2:])


def batch_norm(v: Tensor, shift: Tensor, gamma: Tensor, eps: float, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """v: (N, n) tangent vectors; returns the normalized ones, the mean as a tangent vector and the variance."""
    x, target = expmap0(v, c), expmap0(shift, c)
    mean = midpoint(x, c)
    variance = dist(mean, x, c).square().mean()
    u = transport(mean, target, logmap(mean, x, c), c) * gamma / (variance + eps).sqrt()
    return logmap0(expmap(target, u, c), c), logmap0(mean, c), variance

"""The Riemannian gradient of points that are no parameters, as HIER passes it back through its exponential map."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hyplearn.geometry import poincare


class _RiemannianGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, c: Tensor) -> Tensor:
        ctx.save_for_backward(x, c)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        x, c = ctx.saved_tensors
        return poincare.egrad2rgrad(x, gradient, c=c), None


def riemannian_gradient(x: Tensor, *, c: Tensor) -> Tensor:
    """x itself; backward multiplies its gradient by ((1 - c |x|^2) / 2)^2, the inverse metric of the ball at x.

    A positive factor per point: directions stay, steps near the edge shrink (0.0942 at HIER's clip, 2.3 with c = 0.1).
    What is trained behind x, a learned c as well, receives the scaled gradient. x: (..., n) points, c: ().
    """
    scaled: Tensor = _RiemannianGradient.apply(x, c.detach())
    return scaled

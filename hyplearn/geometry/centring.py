"""Points seen from another point of the hyperboloid, in float64 within and in their own precision without.

The isometry that moves m to the origin takes the point f x of the hyperboloid, f being 1 or the factor that leads there
from the ball, to x' = f x - s m with s = t - b f x.m, t its time over k, b = 1 / (k (m_t + k)). A cloud around m comes
to lie around the origin, where its points have as many digits as their distances; float64 has them to spare.

One operator per model, opaque to torch.compile and differentiable once, keeps nothing but its inputs for the backward
pass, which is written out: plain operations would keep, and take longer to write, several (N, n) tensors of float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hyplearn.geometry.numerics import dot, squared_norm

Factors = Callable[[Tensor], tuple[Tensor, Tensor, Tensor, Tensor]]
Centred = Callable[[Tensor, Tensor, Tensor], Tensor]


def _forward(factors: Factors, x: Tensor, m: Tensor, c: Tensor) -> Tensor:
    wide, c = x.double(), c.double()
    f, t, _, _ = factors(c * squared_norm(wide))
    b = c / (1 + (1 + c * squared_norm(m)).sqrt())
    s = t - b * f * (wide @ m.mT)
    return (f * wide).addcmul_(s, m, value=-1).to(x.dtype)


def _backward(factors: Factors, grad: Tensor, x: Tensor, m: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x and c. A trailing _grad names a derivative of the loss."""
    wide, pull, c = x.double(), grad.double(), c.double()
    square, along, m_square = squared_norm(wide), wide @ m.mT, squared_norm(m)
    f, _, f_slope, t_slope = factors(c * square)
    root = (1 + c * m_square).sqrt()
    b = c / (1 + root)
    s_grad = -(pull @ m.mT)
    f_grad = dot(pull, wide) - b * along * s_grad
    w_grad = f_slope * f_grad + t_slope * s_grad
    b_slope = (1 - c * m_square / (2 * root * (1 + root))) / (1 + root)
    c_grad = (square * w_grad - b_slope * f * along * s_grad).sum()
    x_grad = (f * pull).addcmul_(wide, c * w_grad, value=2).addcmul_(-b * f * s_grad, m)
    return x_grad.to(x.dtype), c_grad


def centring_operator(name: str, factors: Factors) -> Centred:
    """Register `hyplearn::<name>` and return x' as a function of x (B, N, n), m (B, 1, n) and c (), of x's dtype.

    m: space coordinates of the hyperboloid in float64, a constant for the gradient.
    factors(w = c |x|^2): f, t and their derivatives in w, all (B, N, 1) and float64.
    """

    @torch.library.custom_op(f"hyplearn::{name}", mutates_args=())
    def forward(x: Tensor, m: Tensor, c: Tensor) -> Tensor:
        return _forward(factors, x, m, c)

    @torch.library.custom_op(f"hyplearn::{name}_backward", mutates_args=())
    def backward(grad: Tensor, x: Tensor, m: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        x_grad, c_grad = _backward(factors, grad, x, m, c)
        return x_grad, c_grad.to(c.dtype)

    forward.register_fake(lambda x, m, c: torch.empty_like(x))
    backward.register_fake(lambda grad, x, m, c: (torch.empty_like(x), torch.empty_like(c)))

    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    def pull_back(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x_grad, c_grad = backward(grad, *ctx.saved_tensors)
        return x_grad, None, c_grad

    forward.register_autograd(pull_back, setup_context=setup_context)
    return forward

"""Points seen from another point of the hyperboloid, in float64 within and in their own precision without.

Moving m to the origin takes a point to x' = f x - s m, with two numbers f and s per point that depend on |x|^2, x.m,
|m|^2 and c alone, whatever the model that x is given in. A cloud around m comes to lie around the origin, where its
points have as many digits as their distances: the digits are those of the difference, and float64 has them to spare.

One operator per model, opaque to torch.compile and differentiable once, keeps nothing but its inputs for the backward
pass. Plain operations would keep, and take twice as long to write, several (N, n) tensors of float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hyplearn.geometry.numerics import squared_norm

Factors = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
Centred = Callable[[Tensor, Tensor, Tensor], Tensor]


def centring_operator(name: str, factors: Factors) -> Centred:
    """Register `hyplearn::<name>` and return x' as a function of x (B, N, n), m (B, 1, n) and c (), of x's dtype.

    m: space coordinates in float64, a constant for the gradient.
    factors(|x|^2 (B, N, 1), x.m (B, N, 1), |m|^2 (B, 1, 1), c ()): f and s, (B, N, 1), in float64.
    """

    @torch.library.custom_op(f"hyplearn::{name}", mutates_args=())
    def forward(x: Tensor, m: Tensor, c: Tensor) -> Tensor:
        wide = x.double()
        f, s = factors(squared_norm(wide), wide @ m.mT, squared_norm(m), c.double())
        return wide.mul_(f).addcmul_(s, m, value=-1).to(x.dtype)

    @torch.library.custom_op(f"hyplearn::{name}_backward", mutates_args=())
    def backward(grad: Tensor, x: Tensor, m: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        wide, pull = x.double(), grad.double()
        m_square = squared_norm(m)
        of_rows: Any = torch.func.vjp(
            lambda square, along, c: factors(square, along, m_square, c), squared_norm(wide), wide @ m.mT, c.double()
        )
        (f, _), back = of_rows
        square_grad, along_grad, c_grad = back(((pull * wide).sum(-1, keepdim=True), -(pull @ m.mT)))
        x_grad = pull.mul_(f).addcmul_(wide, square_grad, value=2).addcmul_(along_grad, m)
        return x_grad.to(x.dtype), c_grad.to(c.dtype)

    forward.register_fake(lambda x, m, c: torch.empty_like(x))
    backward.register_fake(lambda grad, x, m, c: (torch.empty_like(x), torch.empty_like(c)))

    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    def pull_back(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x_grad, c_grad = backward(grad, *ctx.saved_tensors)
        return x_grad, None, c_grad

    forward.register_autograd(pull_back, setup_context=setup_context)
    return forward

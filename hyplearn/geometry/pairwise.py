"""All pairwise distances by one matrix product, with the pairs that a product cannot resolve computed directly.

Expanding |x - y|^2 into norms and products loses the digits of pairs that are close compared with their distance to
the origin. `distance_operator` joins two formulas: `far` for whole blocks, `near` for the pairs `far` says it cannot do.
No (N, M, n) tensor exists, and what exists beside the result is bounded by BLOCK entries, forward and backward.

The operators are opaque to torch.compile (one node, no graph break) because the number of close pairs is data. They
are differentiable once; use `dist` on broadcast points where second derivatives are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

# A pair is close when the wanted quantity is less than this share of the terms it is the difference of.
CLOSE = 0.1

# Entries of a temporary tensor: 64 MiB in float32.
BLOCK = 1 << 24

Far = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
Near = Callable[[Tensor, Tensor, Tensor], Tensor]


def _row_blocks(x: Tensor, y: Tensor) -> Iterator[tuple[int, slice]]:
    """Batch index and rows of x, such that rows x M stays within BLOCK."""
    rows = max(1, BLOCK // max(1, y.shape[-2]))
    for b in range(x.shape[0]):
        for start in range(0, x.shape[1], rows):
            yield b, slice(start, start + rows)


def _close_pairs(close: Tensor, width: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Row and column indices of the close pairs, in pieces of at most BLOCK / width pairs."""
    row, column = close.nonzero(as_tuple=True)
    pairs = max(1, BLOCK // max(1, width))
    yield from zip(row.split(pairs), column.split(pairs), strict=True)


def _forward(far: Far, near: Near, x: Tensor, y: Tensor, c: Tensor) -> Tensor:
    """(B, N, n), (B, M, n) to (B, N, M)."""
    result = x.new_empty(x.shape[0], x.shape[1], y.shape[1])
    for b, rows in _row_blocks(x, y):
        block, close = far(x[b, rows], y[b], c)
        for row, column in _close_pairs(close, x.shape[-1]):
            block[row, column] = near(x[b, rows][row], y[b, column], c)
        result[b, rows] = block
    return result


def _backward(
    far: Far, near: Near, grad: Tensor, x: Tensor, y: Tensor, c: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, y and c; every block is computed again, so nothing but the inputs is kept from the forward."""
    grads = torch.zeros_like(x), torch.zeros_like(y), torch.zeros_like(c)
    for b, rows in _row_blocks(x, y):
        with torch.enable_grad():
            inputs = [t.detach().requires_grad_() for t in (x[b, rows], y[b], c)]
            block, close = far(*inputs)
        g = grad[b, rows]
        g_x, g_y, g_c = torch.autograd.grad(block, inputs, g.masked_fill(close, 0))
        for row, column in _close_pairs(close, x.shape[-1]):
            with torch.enable_grad():
                pairs = [t.detach().requires_grad_() for t in (x[b, rows][row], y[b, column], c)]
                values = near(*pairs)
            p_x, p_y, p_c = torch.autograd.grad(values, pairs, g[row, column])
            g_x.index_add_(0, row, p_x)
            g_y.index_add_(0, column, p_y)
            g_c = g_c + p_c
        grads[0][b, rows] += g_x
        grads[1][b] += g_y
        grads[2].add_(g_c)
    return grads


def distance_operator(name: str, *, far: Far, near: Near) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Register `hyplearn::<name>` and return it as a function of x (..., N, n), y (..., M, n), c () giving (..., N, M).

    far(x (N, n), y (M, n), c) returns distances (N, M), finite with finite gradients everywhere, and a mask of the
    pairs to replace. near(x (P, n), y (P, n), c) returns their distances (P,).
    """

    @torch.library.custom_op(f"hyplearn::{name}", mutates_args=())
    def forward(x: Tensor, y: Tensor, c: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return _forward(far, near, x, y, c)

    @torch.library.custom_op(f"hyplearn::{name}_backward", mutates_args=())
    def backward(grad: Tensor, x: Tensor, y: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.autocast(x.device.type, enabled=False):
            return _backward(far, near, grad, x, y, c)

    forward.register_fake(lambda x, y, c: x.new_empty(x.shape[0], x.shape[1], y.shape[1]))
    backward.register_fake(lambda grad, x, y, c: tuple(map(torch.empty_like, (x, y, c))))
    forward.register_autograd(
        lambda ctx, grad: backward(grad, *ctx.saved_tensors),
        setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
    )

    def distances(x: Tensor, y: Tensor, c: Tensor) -> Tensor:
        batch = torch.broadcast_shapes(x.shape[:-2], y.shape[:-2])
        x, y = (t.expand(*batch, *t.shape[-2:]).reshape(-1, *t.shape[-2:]) for t in (x, y))
        return forward(x, y, c).reshape(*batch, x.shape[-2], y.shape[-2])

    return distances

"""All pairwise hyperbolic distances by one matrix product, with the pairs a product cannot resolve computed directly.

w = sinh^2(d/2k) is an inner product of a row that depends on x and a column that depends on y, exact but for close
pairs, where it is the small difference of large terms. Those few, known by their w, are replaced by the direct formula.
No (N, M, n) tensor exists: what exists beside the result is a few tensors of at most 2 BLOCK entries, forward and
backward.

The operators are opaque to torch.compile (one node, no graph break) because the number of close pairs is data. They
are differentiable once; use `dist` on broadcast points where second derivatives are needed. Accuracy assumes float32
products in float32: with TF32 allowed (torch.set_float32_matmul_precision) the far pairs carry its 1e-3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from hyplearn.geometry.numerics import vector_norm

# A pair is close when w is less than this share of c/2 |x| |y| (space coordinates), which bounds the rounding error.
CLOSE = 0.1

# Entries of a temporary tensor: 16 MiB in float32.
BLOCK = 1 << 22

# Columns of a feature row after the n coordinates.
EXTRA = 3

Features = Callable[[Tensor, Tensor], Tensor]
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


def _product(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """w of all pairs, 1 where they are close, and the mask of those."""
    w = left @ right.mT
    close = w <= (CLOSE * vector_norm(left[:, :-EXTRA], keepdim=True)) * vector_norm(right[:, :-EXTRA])
    return w.masked_fill_(close, 1), close


def _forward(rows: Features, columns: Features, near: Near, x: Tensor, y: Tensor, c: Tensor) -> Tensor:
    """(B, N, n), (B, M, n) to (B, N, M)."""
    result = x.new_empty(x.shape[0], x.shape[1], y.shape[1])
    for b, block in _row_blocks(x, y):
        w, close = _product(rows(x[b, block], c), columns(y[b], c))
        distance = w.sqrt_().asinh_().mul_(2 * c.rsqrt())
        for i, j in _close_pairs(close, x.shape[-1]):
            distance[i, j] = near(x[b, block][i], y[b, j], c)
        result[b, block] = distance
    return result


def _far_gradients(
    rows: Features, columns: Features, grad: Tensor, x: Tensor, y: Tensor, c: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x (N, n), y (M, n) and c from the pairs that are not close, and the mask of the close ones.

    d = 2/sqrt(c) asinh(sqrt w), so dd/dw = 1/sqrt(c w (1 + w)) and, at fixed w, dd/dc = -d/(2c).
    """
    pulls: list[Any] = [torch.func.vjp(rows, x, c), torch.func.vjp(columns, y, c)]
    (left, pull_left), (right, pull_right) = pulls
    w, close = _product(left, right)
    grad = grad.masked_fill(close, 0)
    at_fixed_w = -(w.sqrt().asinh_() * grad).sum() * c.pow(-1.5)
    slope = torch.addcmul(w, w, w).rsqrt_().mul_(grad)
    (g_x, c_left), (g_y, c_right) = pull_left(c.rsqrt() * (slope @ right)), pull_right(c.rsqrt() * (slope.mT @ left))
    return g_x, g_y, c_left + c_right + at_fixed_w, close


def _backward(
    rows: Features, columns: Features, near: Near, grad: Tensor, x: Tensor, y: Tensor, c: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, y and c; every block is computed again, so nothing but the inputs is kept from the forward."""
    grad_x, grad_y, grad_c = map(torch.zeros_like, (x, y, c))
    for b, block in _row_blocks(x, y):
        g_x, g_y, g_c, close = _far_gradients(rows, columns, grad[b, block], x[b, block], y[b], c)
        for i, j in _close_pairs(close, x.shape[-1]):
            direct: Any = torch.func.vjp(near, x[b, block][i], y[b, j], c)
            p_x, p_y, p_c = direct[1](grad[b, block][i, j])
            g_x, g_y, g_c = g_x.index_add(0, i, p_x), g_y.index_add(0, j, p_y), g_c + p_c
        grad_x[b, block] = g_x
        grad_y[b] += g_y
        grad_c += g_c
    return grad_x, grad_y, grad_c


def distance_operator(
    name: str, *, rows: Features, columns: Features, near: Near
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Register `hyplearn::<name>` and return it as a function of x (..., N, n), y (..., M, n), c () giving (..., N, M).

    rows(x (N, n), c) and columns(y (M, n), c): (N, n + EXTRA), (M, n + EXTRA) with rows @ columns^T = w, their first n
    entries being c/2 x and -y in space coordinates. near(x (P, n), y (P, n), c): the distances of P pairs.
    """

    @torch.library.custom_op(f"hyplearn::{name}", mutates_args=())
    def forward(x: Tensor, y: Tensor, c: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return _forward(rows, columns, near, x, y, c)

    @torch.library.custom_op(f"hyplearn::{name}_backward", mutates_args=())
    def backward(grad: Tensor, x: Tensor, y: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.autocast(x.device.type, enabled=False):
            return _backward(rows, columns, near, grad, x, y, c)

    forward.register_fake(lambda x, y, c: x.new_empty(x.shape[0], x.shape[1], y.shape[1]))
    backward.register_fake(lambda grad, x, y, c: tuple(map(torch.empty_like, (x, y, c))))
    forward.register_autograd(
        lambda ctx, grad: backward(grad, *ctx.saved_tensors),
        setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
    )

    def distances(x: Tensor, y: Tensor, c: Tensor) -> Tensor:
        if min(x.ndim, y.ndim) < 2:
            raise ValueError(f"x {tuple(x.shape)} and y {tuple(y.shape)} must have shapes (..., N, n) and (..., M, n)")
        batch = torch.broadcast_shapes(x.shape[:-2], y.shape[:-2])
        x, y = (t.expand(*batch, *t.shape[-2:]).reshape(batch.numel(), *t.shape[-2:]) for t in (x, y))
        result: Tensor = forward(x, y, c)
        return result.reshape(*batch, x.shape[-2], y.shape[-2])

    return distances

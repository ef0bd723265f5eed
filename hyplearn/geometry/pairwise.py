"""All pairwise hyperbolic distances by one matrix product, with the pairs a product cannot resolve computed directly.

u = cosh(d/k) - 1 is an inner product of a row that depends on x and a column that depends on y, exact but for close
pairs, where it is the small difference of large terms. Those few, known by their u, get it from a formula of pairs.
With r = sqrt(u + u^2/2) the distance is k log(1 + u + sqrt(2) r), and its slope in u is k/(sqrt(2) r).

The pairs are few because rows and columns are those of the points seen from their midst (`lorentz.distance_features`):
"close" means relative to the spread of the points, so that a cloud far from the origin costs what one around it does.
Several tight clouds far from each other do cost the formula of pairs within each.

No (N, M, n) tensor exists. The backward pass keeps the slopes, (N, M), if there will be one; beside distances and
slopes there are a few tensors of at most 2 BLOCK entries. Distances below 1e-22 k may come out as 0.

The operators are opaque to torch.compile (one node, no graph break) because the number of close pairs is data. They
are differentiable once; use `dist` on broadcast points where second derivatives are needed. So do torch.func's
transforms, for which (N, M, n) tensors do exist. Products of float32 are computed in float32 whatever the run allows:
with TF32 the far pairs would carry its 1e-3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from hyplearn.geometry import tf32
from hyplearn.geometry.numerics import in_single_precision, vector_norm

# A pair is close when u is less than this share of c |x| |y| (space coordinates of the features), which bounds the
# rounding error of d.
CLOSE = 0.1

# The share below which the gradient, too, is that of the formula of pairs: above it |x - y| is at least 1.4 % of |x|,
# so that the difference of x and y within a matrix product keeps five digits.
CLOSEST = 1e-4

# Features hold a point to a rounding error of float64 relative to where the point was given, so |x| counts at least
# this share of the given |x|: coincident points in the middle of a cloud are close, whatever their features are.
RESOLVED = 1e-5

# Entries of a temporary tensor: 16 MiB in float32.
BLOCK = 1 << 22

# Coordinates of the pairs that a CPU takes at once, 1 MiB in float32: what its cache holds is done twice as fast. Other
# devices take BLOCK, for them every piece costs a few dozen launches.
PAIRS = 1 << 18

# Columns of a feature row after the n coordinates.
EXTRA = 3

Features = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
Near = Callable[[Tensor, Tensor, Tensor], Tensor]


def _row_blocks(x: Tensor, y: Tensor) -> Iterator[tuple[int, slice]]:
    """Batch index and rows of x, such that rows x M stays within BLOCK."""
    rows = max(1, BLOCK // max(1, y.shape[-2]))
    for b in range(x.shape[0]):
        for start in range(0, x.shape[1], rows):
            yield b, slice(start, start + rows)


def _indices(mask: Tensor, width: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Row and column indices where the mask holds, in pieces of at most PAIRS / width pairs (CPU)."""
    row, column = mask.nonzero(as_tuple=True)
    if len(row):
        pairs = max(1, (PAIRS if mask.is_cpu else BLOCK) // max(1, width))
        yield from zip(row.split(pairs), column.split(pairs), strict=True)


def _settle_close_pairs(
    near: Near, u: Tensor, scratch: Tensor | None, left: Tensor, right: Tensor, x: Tensor, y: Tensor, c: Tensor
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Replace u of the close pairs in place. Returns row, column and slope sign of those that the slope must mark."""
    scale_x = torch.maximum(vector_norm(left[:, :-EXTRA]), RESOLVED * c * vector_norm(x))
    scale_y = torch.maximum(vector_norm(right[:, :-EXTRA]), RESOLVED * vector_norm(y))
    marked = []
    limit = torch.mul(CLOSE * scale_x.unsqueeze(-1), scale_y, out=scratch)
    for i, j in _indices(u <= limit, x.shape[-1]):
        exact = near(x[i], y[j], c)
        u[i, j] = exact
        closest = exact <= CLOSEST * scale_x[i] * scale_y[j]
        marked.append((i[closest], j[closest], -exact[closest].sign()))
    return marked


def _squares_overflow(u: Tensor) -> Tensor:
    """Where u^2 is beyond the format. There 1 and 2 are nothing beside u, and the formulas of u^2 are those of u."""
    return u > math.sqrt(torch.finfo(u.dtype).max)


def _root(u: Tensor, out: Tensor | None) -> Tensor:
    """r = sqrt(u + u^2/2), which is u/sqrt(2) where u^2 overflows."""
    r = torch.addcmul(u, u, u, value=0.5, out=out).sqrt_()
    return torch.where(_squares_overflow(u), u * math.sqrt(0.5), r, out=r)


def _forward(
    near: Near, left: Tensor, right: Tensor, x: Tensor, y: Tensor, c: Tensor, keep: bool
) -> tuple[Tensor, Tensor]:
    """Distances and, with keep, their slopes dd/du, (B, N, M) both. A slope is 0 at d = 0 and -1 for a closest pair."""
    result = x.new_empty(x.shape[0], x.shape[1], y.shape[1])
    slopes = torch.empty_like(result) if keep else x.new_empty(0)
    k = c.rsqrt()
    for b, block in _row_blocks(x, y):
        u = torch.mm(left[b, block], right[b].mT, out=result[b, block])
        slope = slopes[b, block] if keep else None
        marked = _settle_close_pairs(near, u, slope, left[b, block], right[b], x[b, block], y[b], c)
        r = _root(u, slope)
        u.add_(r, alpha=math.sqrt(2)).log1p_().mul_(k)
        if keep:
            torch.div(k / math.sqrt(2), r, out=r)
            for i, j, mark in marked:
                r[i, j] = mark
    return result, slopes


def _closest_gradients(near: Near, grad: Tensor, x: Tensor, y: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x (P, n), y (P, n) and c at fixed k from the distances of P pairs."""
    direct: Any = torch.func.vjp(near, x, y, c)
    u, pull = direct
    slope = torch.where(_squares_overflow(u), c.rsqrt() / u, (c * u * (u + 2)).rsqrt())
    gradients: tuple[Tensor, Tensor, Tensor] = pull(grad * slope)
    return gradients


def _backward(
    near: Near,
    grad: Tensor,
    slopes: Tensor,
    result: Tensor,
    left: Tensor,
    right: Tensor,
    x: Tensor,
    y: Tensor,
    c: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the features, and of points and c as far as they do not pass through the features.

    result: the distances, or empty if the gradient of c is not needed. At fixed u, dd/dc = -d/(2c).
    """
    left_grad, right_grad, x_grad, y_grad, c_grad = map(torch.zeros_like, (left, right, x, y, c))
    for b, block in _row_blocks(x, y):
        slope = slopes[b, block]
        pull = grad[b, block] * slope
        if slope.numel() and slope.amin() < 0:
            for i, j in _indices(slope < 0, x.shape[-1]):
                x_part, y_part, c_part = _closest_gradients(near, grad[b, block][i, j], x[b, block][i], y[b, j], c)
                x_grad[b, block].index_add_(0, i, x_part)
                y_grad[b].index_add_(0, j, y_part)
                c_grad += c_part
                pull[i, j] = 0
        torch.mm(pull, right[b], out=left_grad[b, block])
        right_grad[b].addmm_(pull.mT, left[b, block])
        if result.numel():
            c_grad -= torch.mul(grad[b, block], result[b, block], out=pull).sum() / (2 * c)
    return left_grad, right_grad, x_grad, y_grad, c_grad


def _transformed() -> bool:
    """Whether torch.func (vmap, grad, jacrev, ...) is at work, which knows no derivative of a custom operator."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


@in_single_precision
def straight_distances(x: Tensor, y: Tensor) -> Tensor:
    """|x - y| of all pairs, gradient 0 where it is 0. (..., N, n), (..., M, n) to (..., N, M).

    From differences: expanding |x - y|^2 would cost digits of close pairs. Under torch.func the Jacobian of torch's own
    operator is wrong (2.12), whose backward pass is mapped.
    """
    if _transformed():
        return vector_norm(x.unsqueeze(-2) - y.unsqueeze(-3))
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def distance_operator(
    name: str, *, features: Features, near: Near, direct: Near
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Register `hyplearn::<name>` and return the distances as a function of x (..., N, n), y (..., M, n), c ().

    features(x (B, N, n), y (B, M, n), c): rows (B, N, n + EXTRA), columns (B, M, n + EXTRA) with rows @ columns^T = u,
    their first n entries being c x' and -y' in space coordinates, where x' and y' are images under one isometry.
    near(x (P, n), y (P, n), c): u of P pairs, (P,), without cancellation.
    direct(x (..., n), y (..., n), c): the distances of pairs, (...), for what torch.func transforms.
    """

    @torch.library.custom_op(f"hyplearn::{name}", mutates_args=())
    def forward(left: Tensor, right: Tensor, x: Tensor, y: Tensor, c: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
        with torch.autocast(x.device.type, enabled=False), tf32.refused():
            return _forward(near, left, right, x, y, c, keep)

    @torch.library.custom_op(f"hyplearn::{name}_backward", mutates_args=())
    def backward(
        grad: Tensor, slopes: Tensor, result: Tensor, left: Tensor, right: Tensor, x: Tensor, y: Tensor, c: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        with torch.autocast(x.device.type, enabled=False), tf32.refused():
            return _backward(near, grad, slopes, result, left, right, x, y, c)

    @forward.register_fake
    def _(left: Tensor, right: Tensor, x: Tensor, y: Tensor, c: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
        result = x.new_empty(x.shape[0], x.shape[1], y.shape[1])
        return result, torch.empty_like(result) if keep else x.new_empty(0)

    backward.register_fake(lambda grad, slopes, result, *inputs: tuple(map(torch.empty_like, inputs)))

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        *tensors, _ = inputs
        result, slopes = output
        ctx.mark_non_differentiable(slopes)
        ctx.set_materialize_grads(False)  # no zeros for the slopes
        ctx.save_for_backward(slopes, result if tensors[-1].requires_grad else slopes.new_empty(0), *tensors)

    def pull_back(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
        return (None,) * 6 if grad is None else (*backward(grad, *ctx.saved_tensors), None)

    forward.register_autograd(pull_back, setup_context=setup_context)

    def distances(x: Tensor, y: Tensor, c: Tensor) -> Tensor:
        if min(x.ndim, y.ndim) < 2:
            raise ValueError(f"x {tuple(x.shape)} and y {tuple(y.shape)} must have shapes (..., N, n) and (..., M, n)")
        if _transformed() or not (x.numel() and y.numel()):
            return direct(x.unsqueeze(-2), y.unsqueeze(-3), c)
        batch, same = torch.broadcast_shapes(x.shape[:-2], y.shape[:-2]), y is x
        x, y = (t.expand(*batch, *t.shape[-2:]).reshape(batch.numel(), *t.shape[-2:]) for t in (x, y))
        y = x if same else y  # what features do with x is then done once
        keep = torch.is_grad_enabled() and any(t.requires_grad for t in (x, y, c))
        result: Tensor = forward(*features(x, y, c), x, y, c, keep)[0]
        return result.reshape(*batch, x.shape[-2], y.shape[-2])

    return distances

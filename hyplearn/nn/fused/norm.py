"""The fused conv - norm - activation path: nothing of feature-map size between the convolution and the ReLU.

Every Lorentz operation between a convolution's output y and the nonlinearity is `y -> A y + S V`, with scalars A, S of
each position and a few channel vectors V (`scalars.py`). Two autograd functions do the work of feature-map size and
save what a Euclidean conv-BN-ReLU saves (the convolution's input, y, and the output); their backward passes recompute
the scalars. Under `torch.compile` the same bodies run as plain PyTorch, because the compiler's partitioner makes the
same choice by itself.

Values and gradients equal those of the layers run one by one (`LorentzConv2d`, `LorentzBatchNorm2d`, ...).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hyplearn.nn import monitor
from hyplearn.nn.fused.normalization import Normalization, centre, centre_vjp, mean_of, mean_of_vjp
from hyplearn.nn.fused.placement import Placement, place, place_vjp
from hyplearn.nn.fused.scalars import Limits, Radial, dot, radial
from hyplearn.nn.layout import channels_last, feature_map, outside_autocast, promoted, row_dots, row_squares, rows


@dataclass(frozen=True)
class Block:
    """What happens after the convolution. `placement=None`: its output is the point itself."""

    placement: Placement | None
    normalization: Normalization
    activation: bool = True
    rescale_residual: bool = True
    exit: str | None = None  # log0 | space | None


@dataclass
class _Units:
    """Vectors and numbers in units of k, as the scalars want them, from those of the layer.

    A dot product y . b in units of k is y . (c b), so it is the vectors that are converted, not the feature map.
    """

    b: Tensor | None
    beta: Tensor
    gamma: Tensor
    eps: Tensor
    b_dot: Tensor | None
    beta_dot: Tensor
    mean: Tensor | None
    dispersion: Tensor | None

    @classmethod
    def of(
        cls, b: Tensor | None, beta: Tensor, gamma: Tensor, c: Tensor, mean: Tensor | None, dispersion: Tensor | None,
        block: Block,
    ) -> _Units:  # fmt: skip
        root = c.sqrt()
        is_vector = block.placement is not None and block.placement.boost == "vector"
        return cls(
            b=root * b if is_vector and b is not None else b,
            beta=root * beta,
            gamma=root * gamma,
            eps=root * block.normalization.eps,
            b_dot=c * b if is_vector and b is not None else None,
            beta_dot=c * beta,
            mean=None if mean is None else root * mean,
            dispersion=None if dispersion is None else root * dispersion,
        )

    @property
    def vector(self) -> Tensor | None:
        """The boost point, where the boost has one."""
        return None if self.b_dot is None else self.b


@dataclass
class _State:
    """Per-position scalars and channel vectors, in units of k, that the backward pass needs besides the maps."""

    q: Tensor
    dot_b: Tensor | None
    dot_beta: Tensor
    dot_mean: Tensor
    space: Tensor | None
    time: Tensor | None
    mean: Tensor
    dispersion: Tensor
    q_exit: Tensor | None


def _normalize(
    y: Tensor,
    q_patch: Tensor | None,
    residual: Tensor | None,
    b: Tensor | None,
    beta: Tensor,
    gamma: Tensor,
    c: Tensor,
    mean: Tensor | None,
    dispersion: Tensor | None,
    limits: Limits,
    block: Block,
) -> tuple[Tensor, _State]:
    points = promoted(rows(y))
    units = _Units.of(b, beta, gamma, c, mean, dispersion, block)
    q = c * row_squares(points)
    dot_b = None if units.b_dot is None else points @ units.b_dot
    dot_beta = points @ units.beta_dot
    patch = None if q_patch is None else c * q_patch.flatten(1)
    placed = place(patch, q, dot_b, units.b, limits, block.placement)
    mean, space, time = units.mean, None, None
    if mean is None:
        space, time = _sums(points, placed.a, placed.s, placed.t, units.b, c)
        mean = mean_of(space, time, limits, block.normalization)
    dot_mean = points @ (c.sqrt() * mean)
    made = centre(
        placed.a, placed.s, placed.q, placed.t, dot_beta, dot_mean, units.vector, units.beta, mean, units.gamma,
        units.eps, limits, block.normalization, units.dispersion,
    )  # fmt: skip
    vectors = _vectors(b if dot_b is not None else None, mean * c.rsqrt(), beta)
    out = _combine(points, made.a, torch.stack(made.coefficients), vectors)
    out, q_exit = _finish(out, residual, c, limits, block)
    measured = made.dispersion
    state = _State(q, dot_b, dot_beta, dot_mean, space, time, mean, measured, q_exit)
    return feature_map(out.to(y.dtype), y), state


def _vectors(b: Tensor | None, mean: Tensor, beta: Tensor) -> Tensor:
    return torch.stack([v for v in (b, mean, beta) if v is not None])


def _sums(
    points: Tensor, a: Tensor | None, s: Tensor | None, t: Tensor, b: Tensor | None, c: Tensor
) -> tuple[Tensor, Tensor]:
    """Sums over each image of the points `a y + s b` in units of k: space (B, C) and time (B,)."""
    weights = torch.ones_like(t) if a is None else a
    space = torch.bmm(weights.unsqueeze(1), points).squeeze(1) * c.sqrt()
    if s is not None and b is not None:
        space = space + s.sum(1, keepdim=True) * b
    return space, t.sum(1)


def _combine(y: Tensor, a: Tensor, coefficients: Tensor, vectors: Tensor) -> Tensor:
    """`A y + sum S_i v_i` in one new tensor; coefficients (i, B, L), vectors (i, C)."""
    out = coefficients.flatten(1).t() @ vectors
    return out.view_as(y).addcmul_(y, a.unsqueeze(-1))


def _finish(
    out: Tensor, residual: Tensor | None, c: Tensor, limits: Limits, block: Block
) -> tuple[Tensor, Tensor | None]:
    """Residual sum, rescaling, ReLU, way out of the manifold; `out` is overwritten."""
    if residual is not None:
        out = out.add_(rows(residual))
        if block.rescale_residual:
            out = _scaled(out, _residual_factor(c * row_squares(out), limits).factor)
    if block.activation:
        out = out.relu_()
    if block.exit is None:
        return out, None
    q = c * row_squares(out)
    return (_scaled(out, radial(q, "logmap0", limits).factor) if block.exit == "log0" else out), q


def _scaled(x: Tensor, factor: Tensor) -> Tensor:
    """x times a scalar per position; overwrites x where autograd does not watch."""
    factor = factor.unsqueeze(-1)
    return x * factor if torch.is_grad_enabled() else x.mul_(factor)


def _residual_factor(q: Tensor, limits: Limits, *, want_slope: bool = False) -> Radial:
    rescaling = radial(q, "rescale", limits, want_slope=want_slope)
    monitor.give("rescaled/residual", lambda: rescaling.factor < 1)
    return rescaling


class _Normalize(torch.autograd.Function):
    """`_normalize` that saves y, the output, the residual and a few scalars per position.

    The backward pass goes through the same stages in reverse: output -> coefficients -> centroid -> placement -> y.
    """

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
        y, q_patch, residual, b, beta, gamma, c, mean, dispersion, limits, block = args
        out, state = _normalize(*args)
        kept_residual = residual if block.rescale_residual else None
        ctx.save_for_backward(
            y, q_patch, kept_residual, b, beta, gamma, c, mean, dispersion,
            out if block.activation or block.exit else None,
            state.q, state.dot_b, state.dot_beta, state.dot_mean, state.space, state.time, state.mean, state.q_exit,
        )  # fmt: skip
        ctx.limits, ctx.block, ctx.residual_dtype = limits, block, None if residual is None else residual.dtype
        k = c.rsqrt()
        batch_mean, batch_dispersion = k * state.mean, k * state.dispersion
        ctx.mark_non_differentiable(batch_mean, batch_dispersion)
        return out, batch_mean, batch_dispersion

    @staticmethod
    @once_differentiable
    @outside_autocast
    def backward(ctx: Any, g_out: Tensor, *_: Tensor) -> Any:
        (y, q_patch, residual, b, beta, gamma, c, mean_in, dispersion_in, out,
         q, dot_b, dot_beta, dot_mean, space, time, mean, q_exit) = ctx.saved_tensors  # fmt: skip
        limits, block = ctx.limits, ctx.block
        root = c.sqrt()
        points = promoted(rows(y))
        flat_y = points.flatten(0, 1)

        # recompute the scalars
        units = _Units.of(b, beta, gamma, c, mean_in, dispersion_in, block)
        patch = None if q_patch is None else c * q_patch.flatten(1)
        placed = place(patch, q, dot_b, units.b, limits, block.placement, want_slope=True)
        inputs = (placed.a, placed.s, placed.q, placed.t, dot_beta, dot_mean, units.vector, units.beta, mean,
                  units.gamma, units.eps)  # fmt: skip
        made = centre(*inputs, limits, block.normalization, units.dispersion)
        coefficients = torch.stack(made.coefficients)
        vectors = _vectors(b if dot_b is not None else None, mean / root, beta)

        # gradient of A' y + sum S_i v_i
        g = promoted(rows(channels_last(g_out)))
        g, once = _through_finish(g, out, residual, q_exit, c, limits, block, points, made.a, coefficients, vectors)
        has_residual = ctx.residual_dtype is not None
        g_residual = feature_map(g.to(ctx.residual_dtype), y) if has_residual else None
        flat_g = g.flatten(0, 1)
        g_vectors = coefficients.flatten(1) @ flat_g
        g_coefficients = (vectors @ flat_g.t()).view(-1, *made.a.shape).unbind()

        # centring, scaling, shifting
        grads = centre_vjp(
            made, row_dots(g, points), g_coefficients, *inputs, limits, block.normalization, dispersion_in is not None
        )
        g_beta_dot, g_mean_dot = torch.stack([grads.dot_beta, grads.dot_mean]).flatten(1) @ flat_y
        g_mean = grads.mean + g_vectors[-2] / root + g_mean_dot * root
        once += [root * dot(g_mean_dot, mean), -dot(g_vectors[-2], mean) / root]
        columns, directions = [grads.dot_beta, grads.dot_mean], [units.beta_dot, root * mean]
        g_a, g_s, g_t, g_b = grads.a, grads.s, grads.t, grads.b

        # the batch's centroid
        g_space = None
        if mean_in is None:
            g_space, g_time = mean_of_vjp(g_mean, space, time, limits, block.normalization)
            g_t = g_t + g_time.unsqueeze(1)
            plain = space  # root * sum A y
            if placed.s is not None and units.b is not None:
                assert g_s is not None and g_b is not None
                sums = placed.s.sum(1, keepdim=True)
                g_s = g_s + (g_space @ units.b).unsqueeze(1)
                g_b = g_b + (sums * g_space).sum(0)
                plain = space - sums * units.b
            once.append(dot(g_space, plain))
            g_space = root * g_space
            if g_a is not None:
                g_a = g_a + torch.bmm(points, g_space.unsqueeze(-1)).squeeze(-1)

        # placement of y on the manifold
        above = place_vjp(placed, g_a, g_s, g_t, patch, q, dot_b, units.b, block.placement)
        g_q, g_patch, g_dot_b = above.q, above.q_patch, above.dot_b
        g_b = above.b if g_b is None or above.b is None else g_b + above.b
        once += [x for x in (grads.log_root, above.log_root) if x is not None]
        twice = dot(g_q, q)
        if g_patch is not None and patch is not None:
            twice = twice + dot(g_patch, patch)
            g_patch = (c * g_patch).view_as(q_patch)
        if g_dot_b is not None and units.b_dot is not None:
            columns.append(g_dot_b)
            directions.append(units.b_dot)

        # y: A' g + 2 g_q y + sum of (column x direction) [+ A x gradient of the centroid's sum, image by image]
        scale = made.a.unsqueeze(-1)
        g_y = g * scale if has_residual else g.mul_(scale)
        g_y = g_y.addcmul_(points, (c * g_q).unsqueeze(-1), value=2)
        matrix = torch.stack(directions).expand(y.shape[0], -1, -1)
        if g_space is not None:
            columns.append(torch.ones_like(g_q) if placed.a is None else placed.a)
            matrix = torch.cat([matrix, g_space.unsqueeze(1)], dim=1)
        g_y = g_y.baddbmm_(torch.stack(columns, dim=1).mT, matrix)

        # back from units of k
        at_beta = torch.addcmul(root * grads.beta, c, g_beta_dot, value=2)
        once += [dot(at_beta, beta), root * dot(grads.gamma, gamma), grads.eps * units.eps]
        g_beta = root * grads.beta + c * g_beta_dot + g_vectors[-1]
        if g_dot_b is not None and g_b is not None:
            g_b_dot = g_dot_b.flatten() @ flat_y
            once.append(dot(torch.addcmul(root * g_b, c, g_b_dot, value=2), b))
            g_b = root * g_b + c * g_b_dot + g_vectors[0]
        g_mean_in = g_dispersion_in = None
        if mean_in is not None:
            assert grads.dispersion is not None
            g_mean_in, g_dispersion_in = root * g_mean, root * grads.dispersion
            once += [dot(g_mean_in, mean_in), dot(g_dispersion_in, dispersion_in)]
        g_c = (torch.stack(once).sum() + twice + twice) / (c + c)  # once and twice: gradients of log sqrt(c) and log c
        return (feature_map(g_y.to(y.dtype), y), g_patch, g_residual, g_b, g_beta, root * grads.gamma, g_c,
                g_mean_in, g_dispersion_in, None, None)  # fmt: skip


def _through_finish(
    g: Tensor,
    out: Tensor | None,
    residual: Tensor | None,
    q_exit: Tensor | None,
    c: Tensor,
    limits: Limits,
    block: Block,
    y: Tensor,
    a: Tensor,
    coefficients: Tensor,
    vectors: Tensor,
) -> tuple[Tensor, list[Tensor]]:
    """Backward of `_finish`: gradient of its input (a new tensor), and the parts of that of log sqrt(c).

    residual: None if not rescaled.
    """
    g_root: list[Tensor] = []
    points = None if out is None else promoted(rows(out))
    fresh = False
    if block.exit == "log0":
        assert points is not None and q_exit is not None
        exit_map = radial(q_exit, "logmap0", limits, want_slope=True)
        factor = exit_map.factor
        points = points / factor.unsqueeze(-1)
        g_q = exit_map.vjp(row_dots(g, points))
        g = (g * factor.unsqueeze(-1)).addcmul_(points, (c * g_q).unsqueeze(-1), value=2)
        through = dot(g_q, q_exit)
        g_root, fresh = [through, through], True
    if block.activation:
        assert points is not None
        g = torch.ops.aten.threshold_backward(g, points, 0)
    elif not fresh:
        g = g.clone()
    if residual is None:
        return g, g_root
    z = _combine(y, a, coefficients, vectors).add_(rows(residual))
    q = c * row_squares(z)
    rescaling = _residual_factor(q, limits, want_slope=True)
    g_factor = row_dots(g, z)
    g_q = rescaling.vjp(g_factor)
    g = g.mul_(rescaling.factor.unsqueeze(-1)).addcmul_(z, (c * g_q).unsqueeze(-1), value=2)
    through, limited = dot(g_q, q), rescaling.limits_vjp(g_factor)
    return g, [*g_root, through, through, *([] if limited is None else [limited])]


def normalize(
    y: Tensor,
    *,
    q_patch: Tensor | None,
    residual: Tensor | None,
    b: Tensor | None,
    beta: Tensor,
    gamma: Tensor,
    c: Tensor,
    mean: Tensor | None,
    dispersion: Tensor | None,
    limits: Limits,
    block: Block,
) -> tuple[Tensor, Tensor, Tensor]:
    """Placement, batch norm and `block` of a convolution's output y (B, n, H, W).

    mean, dispersion: given in eval mode, measured from the batch when None. Returns the output, the mean (n,) and the
    dispersion (); the latter two carry no gradient.
    """
    args = (channels_last(y), q_patch, residual, b, beta, gamma, c, mean, dispersion, limits, block)
    with torch.autocast(y.device.type, enabled=False):
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            out, state = _normalize(*args)
            k = c.detach().rsqrt()
            return out, k * state.mean.detach(), k * state.dispersion.detach()
        result: tuple[Tensor, Tensor, Tensor] = _Normalize.apply(*args[:-2], limits.detach(), block)
        return result

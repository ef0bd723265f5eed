"""The fused conv - norm - activation path: nothing of feature-map size between the convolution and the ReLU.

Every Lorentz operation between a convolution's output y and the nonlinearity is `y -> A y + S V`, with scalars A, S of
each position and a few channel vectors V (`scalars.py`). Two autograd functions do the work of feature-map size and
save what a Euclidean conv-BN-ReLU saves (the convolution's input, y, and the output); their backward passes recompute
the scalars. Under `torch.compile` the same bodies run as plain PyTorch, because the compiler's partitioner makes the
same choice by itself.

Values and gradients equal those of the layers run one by one (`LorentzConv2d`, `LorentzBatchNorm2d`, ...).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hyplearn.nn import monitor
from hyplearn.nn.fused.normalization import (
    Centred,
    CentreGradients,
    CentreInputs,
    Normalization,
    centre,
    centre_vjp,
    mean_of,
    mean_of_vjp,
)
from hyplearn.nn.fused.placement import Placed, PlaceGradients, PlaceInputs, Placement, place, place_vjp
from hyplearn.nn.fused.scalars import Limits, Radial, added, dot, radial
from hyplearn.nn.layout import channels_last, feature_map, outside_autocast, promoted, row_dots, row_squares, rows
from hyplearn.nn.processes import processes
from hyplearn.regions import region

ExitKind = Literal["log0", "space"]


@dataclass(frozen=True)
class Block:
    """What happens after the convolution. `placement=None`: its output is the point itself."""

    placement: Placement | None
    normalization: Normalization
    activation: bool = True
    rescale_residual: bool = True
    exit: ExitKind | None = None


class NormalizeInputs(NamedTuple):
    """The tensors of one normalization in the layer's units, None for one that there is not; also their gradients.

    y, residual: (B, n, H, W), in channels_last. q_patch: |x_patch|^2, (B, 1, H, W). b: the boost point (n,), or the
    factor of a radial scale (). beta, mean: (n,). gamma, c, dispersion: (). mean, dispersion: given in eval mode.
    """

    y: Tensor
    q_patch: Tensor | None
    residual: Tensor | None
    b: Tensor | None
    beta: Tensor
    gamma: Tensor
    c: Tensor
    mean: Tensor | None
    dispersion: Tensor | None


@dataclass(frozen=True)
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
    def of(cls, x: NormalizeInputs, block: Block) -> _Units:
        root = x.c.sqrt()
        is_vector = block.placement is not None and block.placement.boost == "vector"
        return cls(
            b=root * x.b if is_vector and x.b is not None else x.b,
            beta=root * x.beta,
            gamma=root * x.gamma,
            eps=root * block.normalization.eps,
            b_dot=x.c * x.b if is_vector and x.b is not None else None,
            beta_dot=x.c * x.beta,
            mean=None if x.mean is None else root * x.mean,
            dispersion=None if x.dispersion is None else root * x.dispersion,
        )

    @property
    def vector(self) -> Tensor | None:
        """The boost point, where the boost has one."""
        return None if self.b_dot is None else self.b


class _State(NamedTuple):
    """Per-position scalars and channel vectors, in units of k, that the backward pass needs besides the maps.

    q = |y|^2 and the dot products of y with b, beta and the mean; space and time, the sums over each image that a
    measured mean comes from; q_exit, the squared norm of the output before it left the manifold.
    """

    q: Tensor
    dot_b: Tensor | None
    dot_beta: Tensor
    dot_mean: Tensor
    space: Tensor | None
    time: Tensor | None
    mean: Tensor
    q_exit: Tensor | None


@region
def _normalize(x: NormalizeInputs, limits: Limits, block: Block) -> tuple[Tensor, _State, Tensor, Tensor]:
    """The output, what the backward pass needs, and the batch's mean and dispersion in the layer's units."""
    points, units, c = promoted(rows(x.y)), _Units.of(x, block), x.c
    q = c * row_squares(points)
    dot_b = None if units.b_dot is None else points @ units.b_dot
    dot_beta = points @ units.beta_dot
    placed = place(PlaceInputs(q, _patch(x), dot_b, units.b), limits, block.placement)
    mean, space, time = units.mean, None, None
    if mean is None:
        space, time = _sums(points, placed, units.b, c)
        mean = mean_of(space, time, limits, block.normalization)
    dot_mean = points @ (c.sqrt() * mean)
    made = centre(_centre_inputs(placed, units, mean, dot_beta, dot_mean), limits, block.normalization)
    vectors = [v for v in (x.b if dot_b is not None else None, mean * c.rsqrt(), x.beta) if v is not None]
    out = _combine(points, made.a, made.coefficients, vectors)
    out, q_exit = _finish(out, x.residual, c, limits, block)
    state = _State(q, dot_b, dot_beta, dot_mean, space, time, mean, q_exit)
    k = c.rsqrt()
    return feature_map(out.to(x.y.dtype), x.y), state, k * mean, k * made.dispersion


def _patch(x: NormalizeInputs) -> Tensor | None:
    """|x_patch|^2 of each position in units of k, (B, L)."""
    return None if x.q_patch is None else x.c * x.q_patch.flatten(1)


def _centre_inputs(placed: Placed, units: _Units, mean: Tensor, dot_beta: Tensor, dot_mean: Tensor) -> CentreInputs:
    return CentreInputs(
        *placed.point,
        t=placed.t,
        dot_beta=dot_beta,
        dot_mean=dot_mean,
        b=units.vector,
        beta=units.beta,
        mean=mean,
        gamma=units.gamma,
        eps=units.eps,
        dispersion=units.dispersion,
    )


def _sums(points: Tensor, placed: Placed, b: Tensor | None, c: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over each image of the placed points in units of k: space (B, C) and time (B,)."""
    a, s, _ = placed.point
    weights = torch.ones_like(placed.t) if a is None else a
    space = torch.bmm(weights.unsqueeze(1), points).squeeze(1) * c.sqrt()
    if s is not None and b is not None:
        space = space + s.sum(1, keepdim=True) * b
    return space, placed.t.sum(1)


def _combine(y: Tensor, a: Tensor, coefficients: Sequence[Tensor], vectors: Sequence[Tensor]) -> Tensor:
    """`A y + sum S_i v_i` in one new tensor; coefficients (B, L) and vectors (C,), as many."""
    if torch.compiler.is_compiling():  # one kernel, with all that is done to the sum
        out = y * a.unsqueeze(-1)
        for coefficient, vector in zip(coefficients, vectors, strict=True):
            out = out + coefficient.unsqueeze(-1) * vector
        return out
    out = torch.stack(list(coefficients)).flatten(1).t() @ torch.stack(list(vectors))
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


def _stage(function: Callable[..., Any], block: Block) -> Callable[..., Any]:
    """A region as it is written where statistics are summed over processes, which is no part of a compiled graph."""
    if block.normalization.synchronized and processes() > 1:
        written: Callable[..., Any] = function.__wrapped__  # type: ignore[attr-defined]
        return written
    return function


class _Normalize(torch.autograd.Function):
    """`_normalize` that saves y, the output, the residual and a few scalars per position.

    The backward pass goes through the same stages in reverse: output -> coefficients -> centroid -> placement -> y.
    """

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
        *tensors, limits, block = args
        x = NormalizeInputs(*tensors)
        out, state, batch_mean, batch_dispersion = _stage(_normalize, block)(x, limits, block)
        kept = x if block.rescale_residual else x._replace(residual=None)
        ctx.save_for_backward(out if block.activation or block.exit else None, *state, *kept)
        ctx.limits, ctx.block, ctx.residual_dtype = limits, block, None if x.residual is None else x.residual.dtype
        ctx.mark_non_differentiable(batch_mean, batch_dispersion)
        ctx.set_materialize_grads(False)  # no zeros for those two
        return out, batch_mean, batch_dispersion

    @staticmethod
    @once_differentiable
    @outside_autocast
    def backward(ctx: Any, g_out: Tensor | None, *_: Tensor) -> Any:
        if g_out is None:
            return (None,) * (len(NormalizeInputs._fields) + 2)
        out, *saved = ctx.saved_tensors
        size = len(_State._fields)
        state, x = _State(*saved[:size]), NormalizeInputs(*saved[size:])
        gradients = _stage(_normalize_vjp, ctx.block)(g_out, out, x, state, ctx.limits, ctx.block, ctx.residual_dtype)
        return (*gradients, None, None)


@region
def _normalize_vjp(
    g_out: Tensor,
    out: Tensor | None,
    x: NormalizeInputs,
    state: _State,
    limits: Limits,
    block: Block,
    residual_dtype: torch.dtype | None,
) -> NormalizeInputs:
    """Gradients of the inputs of `_normalize` from that of its output."""
    forward = _ForwardPass.of(x, state, limits, block)
    g, through_finish = _finish_vjp(promoted(rows(channels_last(g_out))), out, forward)
    has_residual = residual_dtype is not None
    g_residual = feature_map(g.to(residual_dtype), x.y) if has_residual else None
    centring = _centre_vjp(g, forward)
    centroid = _centroid_vjp(centring, forward)
    placing = place_vjp(
        forward.placed, centroid.a, centroid.s, centroid.t, forward.place_inputs, forward.block.placement
    )
    columns = _columns(centring, centroid, placing, forward)
    g_y = _gradient_of_y(g, columns, placing.q, forward, overwrite=not has_residual)
    through = [*through_finish, *centring.log_root, *centroid.log_root]
    through += [root for root in (centring.scalars.log_root, placing.log_root) if root is not None]
    return _out_of_units(g_y, g_residual, centring, centroid, placing, through, forward)


@dataclass(frozen=True)
class _ForwardPass:
    """What the forward pass computed and did not save: points (B, L, n), the scalars, coefficients and vectors."""

    x: NormalizeInputs
    state: _State
    points: Tensor
    units: _Units
    place_inputs: PlaceInputs
    placed: Placed
    centre_inputs: CentreInputs
    made: Centred
    vectors: list[Tensor]
    root: Tensor  # sqrt(c)
    limits: Limits
    block: Block

    @classmethod
    def of(cls, x: NormalizeInputs, state: _State, limits: Limits, block: Block) -> _ForwardPass:
        root = x.c.sqrt()
        units = _Units.of(x, block)
        place_inputs = PlaceInputs(state.q, _patch(x), state.dot_b, units.b)
        placed = place(place_inputs, limits, block.placement, want_slope=True)
        centre_inputs = _centre_inputs(placed, units, state.mean, state.dot_beta, state.dot_mean)
        made = centre(centre_inputs, limits, block.normalization)
        b = x.b if state.dot_b is not None else None
        vectors = [v for v in (b, state.mean / root, x.beta) if v is not None]
        return cls(
            x, state, promoted(rows(x.y)), units, place_inputs, placed, centre_inputs, made, vectors, root,
            limits, block,
        )  # fmt: skip


def _finish_vjp(g: Tensor, out: Tensor | None, forward: _ForwardPass) -> tuple[Tensor, list[Tensor]]:
    """Backward of `_finish`: gradient of its input (a new tensor), and the parts of that of log sqrt(c).

    The residual is saved only if its sum is rescaled.
    """
    block, x, q_exit, through = forward.block, forward.x, forward.state.q_exit, []
    points = None if out is None else promoted(rows(out))
    if block.exit == "log0":
        assert points is not None and q_exit is not None
        exit_map = radial(q_exit, "logmap0", forward.limits, want_slope=True)
        factor = exit_map.factor
        points = points / factor.unsqueeze(-1)
        g_q = exit_map.vjp(row_dots(g, points))
        g = (g * factor.unsqueeze(-1)).addcmul_(points, (x.c * g_q).unsqueeze(-1), value=2)
        through = [dot(g_q, q_exit)] * 2
    if block.activation:
        assert points is not None
        g = torch.ops.aten.threshold_backward(g, points, 0)
    elif block.exit != "log0":
        g = g.clone()  # the steps behind work in place, and this is still the gradient that came in
    if x.residual is None:
        return g, through
    g, through_residual = _residual_vjp(g, x.residual, forward)
    return g, [*through, *through_residual]


def _residual_vjp(g: Tensor, residual: Tensor, forward: _ForwardPass) -> tuple[Tensor, list[Tensor]]:
    """Backward of the rescaling of the residual sum; `g` is overwritten."""
    c = forward.x.c
    z = _combine(forward.points, forward.made.a, forward.made.coefficients, forward.vectors).add_(rows(residual))
    q = c * row_squares(z)
    rescaling = _residual_factor(q, forward.limits, want_slope=True)
    g_factor = row_dots(g, z)
    g_q = rescaling.vjp(g_factor)
    g = g.mul_(rescaling.factor.unsqueeze(-1)).addcmul_(z, (c * g_q).unsqueeze(-1), value=2)
    through, limited = dot(g_q, q), rescaling.limits_vjp(g_factor)
    return g, [through, through, *([] if limited is None else [limited])]


class _CentreStep(NamedTuple):
    """Gradients behind the centring: of its scalars, of the vectors and of the vectors that y was multiplied with.

    log_root: the parts of the gradient of log sqrt(c) that arise here.
    """

    scalars: CentreGradients
    vectors: Tensor
    beta_dot: Tensor
    mean: Tensor
    log_root: list[Tensor]


def _centre_vjp(g: Tensor, forward: _ForwardPass) -> _CentreStep:
    """Backward of `A y + sum S_i v_i` and of centring, scaling and shifting; g: (B, L, n)."""
    flat_g, root, made, state = g.flatten(0, 1), forward.root, forward.made, forward.state
    g_vectors = torch.stack(made.coefficients).flatten(1) @ flat_g
    if torch.compiler.is_compiling():  # one kernel with the other dot products of g
        g_coefficients = tuple(row_dots(g, vector) for vector in forward.vectors)
    else:
        g_coefficients = (torch.stack(forward.vectors) @ flat_g.t()).view(len(forward.vectors), *made.a.shape).unbind()
    scalars = centre_vjp(
        made,
        row_dots(g, forward.points),
        g_coefficients,
        forward.centre_inputs,
        forward.limits,
        forward.block.normalization,
    )
    both = torch.stack([scalars.dot_beta, scalars.dot_mean])
    g_beta_dot, g_mean_dot = both.flatten(1) @ forward.points.flatten(0, 1)
    g_mean = scalars.mean + g_vectors[-2] / root + g_mean_dot * root
    log_root = [root * dot(g_mean_dot, state.mean), -dot(g_vectors[-2], state.mean) / root]
    return _CentreStep(scalars, g_vectors, g_beta_dot, g_mean, log_root)


class _CentroidStep(NamedTuple):
    """Gradients of the placed points' scalars and of b behind the centroid, and of the images' sums of points.

    space: None where the mean was given. log_root: the parts of the gradient of log sqrt(c) that arise here.
    """

    a: Tensor | None
    s: Tensor | None
    t: Tensor
    b: Tensor | None
    space: Tensor | None
    log_root: list[Tensor]


def _centroid_vjp(centring: _CentreStep, forward: _ForwardPass) -> _CentroidStep:
    """Backward of the batch's centroid, nothing where the mean was given."""
    scalars, state = centring.scalars, forward.state
    g_a, g_s, g_t, g_b = scalars.a, scalars.s, scalars.t, scalars.b
    if forward.x.mean is not None:
        return _CentroidStep(g_a, g_s, g_t, g_b, None, [])
    assert state.space is not None and state.time is not None
    g_space, g_time = mean_of_vjp(centring.mean, state.space, state.time, forward.limits, forward.block.normalization)
    g_t = g_t + g_time.unsqueeze(1)
    s, b, plain = forward.placed.point.s, forward.units.b, state.space
    if s is not None and b is not None:
        assert g_s is not None and g_b is not None
        sums = s.sum(1, keepdim=True)
        g_s = g_s + (g_space @ b).unsqueeze(1)
        g_b = g_b + (sums * g_space).sum(0)
        plain = state.space - sums * b  # sqrt(c) times the sum of A y
    log_root = [dot(g_space, plain)]
    g_space = forward.root * g_space
    if g_a is not None:
        g_a = g_a + torch.bmm(forward.points, g_space.unsqueeze(-1)).squeeze(-1)
    return _CentroidStep(g_a, g_s, g_t, g_b, g_space, log_root)


class _Columns(NamedTuple):
    """The part `sum of (column x direction)` of the gradient of y: columns (B, i, L), directions (B, i, n)."""

    columns: Tensor
    directions: Tensor


def _columns(
    centring: _CentreStep,
    centroid: _CentroidStep,
    placing: PlaceGradients,
    forward: _ForwardPass,
) -> _Columns:
    """What y was multiplied with, and image by image A times the gradient of the centroid's sum."""
    columns = [centring.scalars.dot_beta, centring.scalars.dot_mean]
    directions = [forward.units.beta_dot, forward.root * forward.state.mean]
    if placing.dot_b is not None and forward.units.b_dot is not None:
        columns.append(placing.dot_b)
        directions.append(forward.units.b_dot)
    matrix = torch.stack(directions).expand(forward.x.y.shape[0], -1, -1)
    if centroid.space is not None:
        a = forward.placed.point.a
        columns.append(torch.ones_like(placing.q) if a is None else a)
        matrix = torch.cat([matrix, centroid.space.unsqueeze(1)], dim=1)
    return _Columns(torch.stack(columns, dim=1), matrix)


def _gradient_of_y(g: Tensor, columns: _Columns, g_q: Tensor, forward: _ForwardPass, *, overwrite: bool) -> Tensor:
    """`A' g + 2 g_q y + sum of (column x direction)`, (B, n, H, W). overwrite: write over g, which nothing else has."""
    scale = forward.made.a.unsqueeze(-1)
    g_y = g.mul_(scale) if overwrite else g * scale
    g_y = g_y.addcmul_(forward.points, (forward.x.c * g_q).unsqueeze(-1), value=2)
    g_y = g_y.baddbmm_(columns.columns.mT, columns.directions)
    return feature_map(g_y.to(forward.x.y.dtype), forward.x.y)


def _out_of_units(
    g_y: Tensor,
    g_residual: Tensor | None,
    centring: _CentreStep,
    centroid: _CentroidStep,
    placing: PlaceGradients,
    log_root: list[Tensor],
    forward: _ForwardPass,
) -> NormalizeInputs:
    """Gradients in the layer's units; that of c from all parts of those of log sqrt(c) and log c."""
    x, root, c, units, scalars = forward.x, forward.root, forward.x.c, forward.units, centring.scalars
    log_c = dot(placing.q, forward.state.q)
    g_patch, g_b, g_mean, g_dispersion = placing.q_patch, added(centroid.b, placing.b), None, None
    patch = forward.place_inputs.q_patch
    if g_patch is not None and patch is not None and x.q_patch is not None:
        log_c = log_c + dot(g_patch, patch)
        g_patch = (c * g_patch).view_as(x.q_patch)
    at_beta = torch.addcmul(root * scalars.beta, c, centring.beta_dot, value=2)
    log_root = [*log_root, dot(at_beta, x.beta), root * dot(scalars.gamma, x.gamma), scalars.eps * units.eps]
    if placing.dot_b is not None and g_b is not None and x.b is not None:
        g_b_dot = placing.dot_b.flatten() @ forward.points.flatten(0, 1)
        log_root.append(dot(torch.addcmul(root * g_b, c, g_b_dot, value=2), x.b))
        g_b = root * g_b + c * g_b_dot + centring.vectors[0]
    if x.mean is not None:
        assert x.dispersion is not None and scalars.dispersion is not None
        g_mean, g_dispersion = root * centring.mean, root * scalars.dispersion
        log_root += [dot(g_mean, x.mean), dot(g_dispersion, x.dispersion)]
    return NormalizeInputs(
        y=g_y,
        q_patch=g_patch,
        residual=g_residual,
        b=g_b,
        beta=root * scalars.beta + c * centring.beta_dot + centring.vectors[-1],
        gamma=root * scalars.gamma,
        c=(torch.stack(log_root).sum() + log_c + log_c) / (c + c),
        mean=g_mean,
        dispersion=g_dispersion,
    )


def normalize(x: NormalizeInputs, *, limits: Limits, block: Block) -> tuple[Tensor, Tensor, Tensor]:
    """Placement, batch norm and `block` of a convolution's output.

    mean, dispersion: given in eval mode, measured from the batch when None. Returns the output, the mean (n,) and the
    dispersion (); the latter two carry no gradient.
    """
    x = x._replace(y=channels_last(x.y))
    with torch.autocast(x.y.device.type, enabled=False):
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            out, _, mean, dispersion = _normalize(x, limits, block)
            return out, mean.detach(), dispersion.detach()
        result: tuple[Tensor, Tensor, Tensor] = _Normalize.apply(*x, limits.detach(), block)
        return result

"""The fused conv - norm - activation path: nothing of feature-map size between the convolution and the ReLU.

Every Lorentz operation between a convolution's output y and the nonlinearity is `y -> A y + S V`, with scalars A, S of
each position and a few channel vectors V (`scalars.py`). Two autograd functions do the work of feature-map size and
save what a Euclidean conv-BN-ReLU saves (the convolution's input, y, and the output); their backward passes recompute
the scalars and differentiate them with autograd. Under `torch.compile` the same bodies run as plain PyTorch, because
the compiler's partitioner makes the same choice by itself.

Values and gradients equal those of the layers run one by one (`LorentzConv2d`, `LorentzBatchNorm2d`, ...).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from hyplearn.nn import monitor
from hyplearn.nn.layout import channels_last, feature_map, rows
from hyplearn.nn.scalars import Limits, Normalization, Placement, Rows, centre, mean_of, place, radial_factor

_CHUNK = 1 << 20  # elements of a temporary that stays in the processor's cache


# ------------------------------------------------------------------------------------------------- small pieces


def squared_norm(x: Tensor) -> Tensor:
    """|x|^2 of each position of a feature map: (B, n, H, W) -> (B, 1, H, W) in float32 or better."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=dtype).square()


def _row_squares(y: Tensor) -> Tensor:
    return torch.linalg.vector_norm(y, dim=-1).square()


def _row_dots(x: Tensor, y: Tensor) -> Tensor:
    """Dot product of each row, (B, L, n) -> (B, L), in chunks so that the product need not be kept."""
    if torch.compiler.is_compiling() or x.device.type != "cpu" or x.numel() <= _CHUNK:
        return (x * y).sum(-1)
    step = max(1, _CHUNK // (x.shape[1] * x.shape[2]))
    return torch.cat([(xs * ys).sum(-1) for xs, ys in zip(x.split(step), y.split(step), strict=True)])


def _full(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return torch.dot(x.flatten(), y.flatten())


@dataclass(frozen=True)
class Entry:
    """How Euclidean features enter the manifold before a convolution, Bdeir Section 3.2."""

    kind: str = "project"  # project: the (rescaled) vector is the space part; exp0: exponential map at the origin
    rescale: bool = True


def entry_factor(q: Tensor, limits: Limits, entry: Entry) -> Tensor:
    """Factor that takes a Euclidean feature z, q = c |z|^2, to its point."""
    factor = torch.ones_like(q)
    if entry.rescale:
        limited = radial_factor(q, "rescale0", limits)
        monitor.give("rescaled/entry", lambda: limited < 1)
        factor = limited
    if entry.kind == "exp0":
        factor = factor * radial_factor(factor * factor * q, "expmap0", limits)
    return factor


def exit_factor(q: Tensor, limits: Limits, kind: str) -> Tensor:
    """Factor that takes a point, q = c |x|^2, to Euclidean features: `log0` at the origin or `space` (1)."""
    return radial_factor(q, "logmap0", limits) if kind == "log0" else torch.ones_like(q)


def _grad(outputs: list[Tensor], inputs: list[Tensor], grads: list[Tensor]) -> list[Tensor]:
    """autograd.grad that yields zeros for inputs without influence."""
    pairs = [(output, grad) for output, grad in zip(outputs, grads, strict=True) if output.requires_grad]
    if not pairs:
        return [torch.zeros_like(x) for x in inputs]
    found = torch.autograd.grad([o for o, _ in pairs], inputs, [g for _, g in pairs], allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]


def _leaf(x: Tensor) -> Tensor:
    return x.detach().requires_grad_()


# ---------------------------------------------------------------------------------------------------- convolution


@dataclass(frozen=True)
class Convolution:
    """Everything of a convolution that is not a tensor. `patch` is what norm matching needs of the input patch."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    kernel: tuple[int, int]
    patch: str = "exact"  # exact | sum | mean | none: Bdeir Section 3.3 (exact) and the variants of existing code

    def patch_square(self, q: Tensor) -> Tensor:
        """|x_patch|^2 (B, 1, H', W') from |x|^2 of each position: a convolution with a kernel of ones."""
        if self.patch in ("exact", "none"):
            return self._window_sum(q)
        total = self._window_sum(torch.sqrt(q + torch.finfo(q.dtype).tiny))
        return (total if self.patch == "sum" else total / (self.kernel[0] * self.kernel[1])).square()

    def _window_sum(self, q: Tensor) -> Tensor:
        if self.kernel == (1, 1) and self.padding == (0, 0):
            return q[..., :: self.stride[0], :: self.stride[1]]
        if self.dilation == (1, 1) and all(2 * p <= k for p, k in zip(self.padding, self.kernel, strict=True)):
            return F.avg_pool2d(q, self.kernel, self.stride, self.padding, divisor_override=1)
        ones = q.new_ones(1, 1, *self.kernel)
        return F.conv2d(q, ones, None, self.stride, self.padding, self.dilation)


def _convolve(
    features: Tensor,
    weight: Tensor,
    weight_time: Tensor | None,
    bias: Tensor | None,
    c: Tensor,
    limits: Limits,
    convolution: Convolution,
    entry: Entry | None,
) -> tuple[Tensor, Tensor]:
    """conv2d and the squared patch norm; with `weight_time` the published HCNN layer, linear in the patch's time."""
    q = squared_norm(features)
    x = features
    if entry is not None:
        factor = entry_factor(c * q, limits, entry)
        x, q = (features * factor).to(features.dtype), factor * factor * q
    y = channels_last(F.conv2d(x, weight, bias, convolution.stride, convolution.padding, convolution.dilation))
    q_patch = convolution.patch_square(q)
    if weight_time is not None:
        y = y + (torch.sqrt(q_patch + 1 / c) * weight_time.view(1, -1, 1, 1)).to(y.dtype)
    return y, q_patch


class _Convolve(torch.autograd.Function):
    """`_convolve` that saves the features alone."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor]:
        features, weight, weight_time, bias, c, limits, convolution, entry = args
        y, q_patch = _convolve(*args)
        ctx.save_for_backward(features, weight, weight_time, bias, c, q_patch)
        ctx.limits, ctx.convolution, ctx.entry = limits, convolution, entry
        return y, q_patch

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        g_y, g_patch = grads
        features, weight, weight_time, bias, c, q_patch = ctx.saved_tensors
        g_c = torch.zeros_like(c)
        g_y = channels_last(g_y)
        g_time = None
        if weight_time is not None:
            time = torch.sqrt(q_patch + 1 / c)
            flat = rows(g_y).flatten(0, 1)
            g_time = (flat.t() @ time.to(flat.dtype).flatten()).to(weight_time.dtype)
            through_time = (flat @ weight_time.to(flat.dtype)).view_as(q_patch).to(c.dtype) / (2 * time)
            g_patch = g_patch + through_time
            g_c = g_c - through_time.sum() / (c * c)
        with torch.enable_grad():
            q_in, c_in = _leaf(squared_norm(features)), _leaf(c)
            q, factor = q_in, None
            if ctx.entry is not None:
                factor = entry_factor(c_in * q_in, ctx.limits, ctx.entry)
                q = factor * factor * q_in
            patch = ctx.convolution.patch_square(q)
        x = features if factor is None else (features * factor.detach()).to(features.dtype)
        need_input = ctx.needs_input_grad[0] or factor is not None
        g_x, g_weight, g_bias = torch.ops.aten.convolution_backward(
            g_y, x, weight, None if bias is None else list(bias.shape),
            ctx.convolution.stride, ctx.convolution.padding, ctx.convolution.dilation,
            False, [0, 0], 1, [need_input, True, bias is not None],
        )  # fmt: skip
        if not need_input:
            return None, g_weight, g_time, g_bias, g_c, None, None, None
        if factor is None:
            (g_q,) = _grad([patch], [q_in], [g_patch])
        else:
            g_factor = _row_dots(rows(g_x), rows(features)).view_as(factor)
            g_q, more = _grad([patch, factor], [q_in, c_in], [g_patch, g_factor.to(factor.dtype)])
            g_c = g_c + more
            g_x = g_x.mul_(factor.detach())
        g_x = g_x.addcmul_(features, (2 * g_q).to(features.dtype))
        return g_x, g_weight, g_time, g_bias, g_c, None, None, None


# ------------------------------------------------------------------------------------------------- normalization


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
    points = _full(rows(y))
    units = _Units.of(b, beta, gamma, c, mean, dispersion, block)
    q = c * _row_squares(points)
    dot_b = None if units.b_dot is None else points @ units.b_dot
    dot_beta = points @ units.beta_dot
    patch = None if q_patch is None else c * q_patch.flatten(1)
    a, s, t = place(patch, q, dot_b, units.b, limits, block.placement)
    mean, space, time = units.mean, None, None
    if mean is None:
        space = torch.bmm((torch.ones_like(q) if a is None else a).unsqueeze(1), points).squeeze(1) * c.sqrt()
        if s is not None and units.b is not None:
            space = space + s.sum(1, keepdim=True) * units.b
        time = t.sum(1)
        mean = mean_of(space, time, limits, block.normalization)
    dot_mean = points @ (c.sqrt() * mean)
    a, coefficients, measured = centre(
        Rows(a, s, t, dot_beta, dot_mean), units.vector, units.beta, mean, units.gamma, units.eps, limits,
        block.normalization, units.dispersion,
    )  # fmt: skip
    out = _combine(points, a, coefficients, _vectors(b if dot_b is not None else None, mean * c.rsqrt(), beta))
    out, q_exit = _finish(out, residual, c, limits, block)
    state = _State(q, dot_b, dot_beta, dot_mean, space, time, mean, measured, q_exit)
    return feature_map(out.to(y.dtype), y), state


def _vectors(b: Tensor | None, mean: Tensor, beta: Tensor) -> Tensor:
    return torch.stack([v for v in (b, mean, beta) if v is not None])


def _combine(y: Tensor, a: Tensor, coefficients: list[Tensor], vectors: Tensor) -> Tensor:
    """`A y + sum S_i v_i` in one new tensor."""
    out = torch.stack(coefficients, dim=-1).flatten(0, 1) @ vectors
    return out.view_as(y).addcmul_(y, a.unsqueeze(-1))


def _finish(
    out: Tensor, residual: Tensor | None, c: Tensor, limits: Limits, block: Block
) -> tuple[Tensor, Tensor | None]:
    """Residual sum, rescaling, ReLU, way out of the manifold; `out` is overwritten."""
    if residual is not None:
        out = out.add_(rows(residual))
        if block.rescale_residual:
            out = _scaled(out, _residual_factor(c * _row_squares(out), limits))
    if block.activation:
        out = out.relu_()
    if block.exit is None:
        return out, None
    q = c * _row_squares(out)
    return _scaled(out, exit_factor(q, limits, block.exit)), q


def _scaled(x: Tensor, factor: Tensor) -> Tensor:
    """x times a scalar per position; overwrites x where autograd does not watch."""
    factor = factor.unsqueeze(-1)
    return x * factor if torch.is_grad_enabled() else x.mul_(factor)


def _residual_factor(q: Tensor, limits: Limits) -> Tensor:
    factor = radial_factor(q, "rescale", limits)
    monitor.give("rescaled/residual", lambda: factor < 1)
    return factor


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
    def backward(ctx: Any, g_out: Tensor, *_: Tensor) -> Any:
        (y, q_patch, residual, b, beta, gamma, c, mean_in, dispersion_in, out,
         q, dot_b, dot_beta, dot_mean, space, time, mean, q_exit) = ctx.saved_tensors  # fmt: skip
        limits, block = ctx.limits, ctx.block
        root = c.sqrt()
        points = _full(rows(y))

        # recompute the scalars
        inputs = [None if x is None else _leaf(x) for x in (b, beta, gamma, c, mean_in, dispersion_in)]
        with torch.enable_grad():
            made = _Units.of(*inputs, block)  # type: ignore[arg-type]
            names = ("b", "beta", "gamma", "eps", "b_dot", "beta_dot", "mean", "dispersion")
            units = _Units(**{n: None if getattr(made, n) is None else _leaf(getattr(made, n)) for n in names})
            q, dot_beta, dot_mean, mean = _leaf(q), _leaf(dot_beta), _leaf(dot_mean), _leaf(mean)
            dot_b = None if dot_b is None else _leaf(dot_b)
            patch = None if q_patch is None else _leaf(c * q_patch.flatten(1))
            a0, s0, t0 = place(patch, q, dot_b, units.b, limits, block.placement)
            a1, s1 = (None if x is None else _leaf(x) for x in (a0, s0))
            t1 = _leaf(t0)
            a2, coefficients, _ = centre(
                Rows(a1, s1, t1, dot_beta, dot_mean), units.vector, units.beta, mean, units.gamma, units.eps, limits,
                block.normalization, units.dispersion,
            )  # fmt: skip
        a2_value, values = a2.detach(), torch.stack(coefficients, dim=-1).detach().flatten(0, 1)
        vectors = _vectors(b if dot_b is not None else None, mean.detach() / root, beta)

        # gradient of A' y + sum S_i v_i
        g = _full(rows(channels_last(g_out)))
        g, g_c = _through_finish(g, out, residual, q_exit, c, limits, block, points, a2_value, values, vectors)
        has_residual = ctx.residual_dtype is not None
        g_residual = feature_map(g.to(ctx.residual_dtype), y) if has_residual else None

        # coefficients and vectors
        flat_g, flat_y = g.flatten(0, 1), points.flatten(0, 1)
        g_vectors = values.t() @ flat_g
        g_coefficients = (flat_g @ vectors.t()).view(*a2.shape, -1).unbind(-1)
        optional = [units.b, a1, s1, units.dispersion]
        found = _grad(
            [a2, *coefficients],
            [t1, dot_beta, dot_mean, units.beta, mean, units.gamma, units.eps, *[x for x in optional if x is not None]],
            [_row_dots(g, points), *g_coefficients],
        )
        g_t, g_dot_beta, g_dot_mean, g_beta, g_mean, g_gamma, g_eps = found[:7]
        rest = iter(found[7:])
        g_b, g_a, g_s, g_dispersion = (None if x is None else next(rest) for x in optional)
        g_beta_dot, g_mean_dot = torch.stack([g_dot_beta, g_dot_mean], dim=-1).flatten(0, 1).t() @ flat_y
        g_mean = g_mean + g_vectors[-2] / root + g_mean_dot * root
        g_c = g_c + (_dot(g_mean_dot, mean.detach()) - _dot(g_vectors[-2], mean.detach()) / c) / (2 * root)
        columns, directions = [g_dot_beta, g_dot_mean], [units.beta_dot.detach(), root * mean.detach()]

        # the batch's centroid
        g_space = None
        if mean_in is None:
            with torch.enable_grad():
                space, time = _leaf(space), _leaf(time)
                centroid = mean_of(space, time, limits, block.normalization)
            g_space, g_time = _grad([centroid], [space, time], [g_mean])
            g_t = g_t + g_time.unsqueeze(1)
            plain = space.detach()  # root * sum A y
            if s1 is not None and units.b is not None:
                sums = s1.detach().sum(1, keepdim=True)
                assert g_s is not None and g_b is not None
                g_s = g_s + (g_space @ units.b.detach()).unsqueeze(1)
                g_b = g_b + (sums * g_space).sum(0)
                plain = plain - sums * units.b.detach()
            g_c = g_c + _dot(g_space, plain) / (2 * c)
            g_space = root * g_space
            if g_a is not None:
                g_a = g_a + torch.bmm(points, g_space.unsqueeze(-1)).squeeze(-1)

        # placement of y on the manifold
        outputs = [(x, gx) for x, gx in ((a0, g_a), (s0, g_s), (t0, g_t)) if x is not None and gx is not None]
        optional = [patch, dot_b, units.b]
        found = _grad(
            [x for x, _ in outputs], [q, *[x for x in optional if x is not None]], [gx for _, gx in outputs]
        )
        rest = iter(found[1:])
        g_q, (g_patch, g_dot_b, more_b) = found[0], (None if x is None else next(rest) for x in optional)
        g_b = more_b if g_b is None or more_b is None else g_b + more_b
        g_c = g_c + _dot(g_q, q.detach()) / c
        g_b_dot = None
        if g_patch is not None and patch is not None:
            g_c = g_c + _dot(g_patch, patch.detach()) / c
            g_patch = (c * g_patch).view_as(q_patch)
        if g_dot_b is not None and units.b_dot is not None:
            g_b_dot = g_dot_b.flatten() @ flat_y
            columns.append(g_dot_b)
            directions.append(units.b_dot.detach())

        # y: A' g + 2 g_q y + sum of (column x direction) [+ A x gradient of the centroid's sum, image by image]
        scale = a2_value.unsqueeze(-1)
        g_y = g * scale if has_residual else g.mul_(scale)
        g_y = g_y.addcmul_(points, (2 * c) * g_q.unsqueeze(-1))
        matrix = torch.stack(directions).expand(y.shape[0], -1, -1)
        if g_space is not None:
            columns.append(torch.ones_like(g_q) if a1 is None else a1.detach())
            matrix = torch.cat([matrix, g_space.unsqueeze(1)], dim=1)
        g_y = g_y.baddbmm_(torch.stack(columns, dim=-1), matrix)

        # back from units of k
        grads = (g_b, g_beta, g_gamma, g_eps, g_b_dot, g_beta_dot, None if mean_in is None else g_mean, g_dispersion)
        outs = [(getattr(made, n), gx) for n, gx in zip(names, grads, strict=True) if gx is not None]
        present = [x for x in inputs if x is not None]
        found = _grad([x for x, _ in outs], present, [gx for _, gx in outs])
        rest = iter(found)
        g_b, g_beta, g_gamma, more_c, g_mean_in, g_dispersion_in = (None if x is None else next(rest) for x in inputs)
        if dot_b is not None and g_b is not None:
            g_b = g_b + g_vectors[0]
        return (feature_map(g_y.to(y.dtype), y), g_patch, g_residual, g_b, g_beta + g_vectors[-1], g_gamma,
                g_c + more_c, g_mean_in, g_dispersion_in, None, None)  # fmt: skip


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
) -> tuple[Tensor, Tensor]:
    """Backward of `_finish`: gradient of its input (a new tensor) and of c. residual: None if not rescaled."""
    g_c = torch.zeros_like(c)
    points = None if out is None else _full(rows(out))
    if block.exit is not None:
        assert points is not None and q_exit is not None
        with torch.enable_grad():
            q = _leaf(q_exit)
            factor = exit_factor(q, limits, block.exit)
        points = points / factor.detach().unsqueeze(-1)
        (g_q,) = _grad([factor], [q], [_row_dots(g, points)])
        g = (g * factor.detach().unsqueeze(-1)).addcmul_(points, (2 * c) * g_q.unsqueeze(-1))
        g_c = _dot(g_q, q_exit) / c
    if block.activation:
        assert points is not None
        g = torch.ops.aten.threshold_backward(g, points, 0)
    elif block.exit is None:
        g = g.clone()
    if residual is None:
        return g, g_c
    z = (coefficients @ vectors).view_as(y).addcmul_(y, a.unsqueeze(-1)).add_(rows(residual))
    with torch.enable_grad():
        q = _leaf(c * _row_squares(z))
        factor = _residual_factor(q, limits)
    (g_q,) = _grad([factor], [q], [_row_dots(g, z)])
    g = g.mul_(factor.detach().unsqueeze(-1)).addcmul_(z, (2 * c) * g_q.unsqueeze(-1))
    return g, g_c + _dot(g_q, q.detach()) / c


# ------------------------------------------------------------------------------------------------------- the seam


def convolve(
    features: Tensor,
    weight: Tensor,
    weight_time: Tensor | None,
    bias: Tensor | None,
    *,
    c: Tensor,
    limits: Limits,
    convolution: Convolution,
    entry: Entry | None = None,
) -> tuple[Tensor, Tensor]:
    """Convolution of a feature map (B, C, H, W): (y, |x_patch|^2), with y (B, C', H', W') and the norm (B, 1, H', W')."""
    device = features.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        features, weight = features.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    args = (channels_last(features), weight, weight_time, bias, c, limits, convolution, entry)
    with torch.autocast(device, enabled=False):
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return _convolve(*args)
        result: tuple[Tensor, Tensor] = _Convolve.apply(*args)
        return result


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
        result: tuple[Tensor, Tensor, Tensor] = _Normalize.apply(*args)
        return result

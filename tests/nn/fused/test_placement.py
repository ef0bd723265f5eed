"""Scalars of norm match, rescaling and boost against the same steps on points, and their backward against autograd."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from hyplearn.geometry import lorentz
from hyplearn.nn.fused.placement import PlaceInputs, Placement, match_factor, place, place_vjp
from hyplearn.nn.fused.scalars import Limits
from tests.support.gradients import assert_same, random

N = 4
PLACEMENTS = st.builds(
    Placement,
    match=st.booleans(),
    rescale_before=st.booleans(),
    boost=st.sampled_from(["vector", "scale", "none"]),
    rescale_after=st.booleans(),
)
UNIT = torch.ones((), dtype=torch.float64)
LIMITS = Limits.of(UNIT, s=2.0, x_t_max=2e3)


def inputs(placement: Placement) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """y (2, 5, N), the squared patch norm, the boost."""
    y = random(2, 5, N)
    b = {"vector": 0.4 * random(N, seed=1), "scale": torch.tensor(1.3, dtype=torch.float64), "none": None}
    return y, random(2, 5, seed=2).square() + 0.1 if placement.match else None, b[placement.boost]


def on_points(y: Tensor, q_patch: Tensor | None, b: Tensor | None, placement: Placement) -> Tensor:
    if q_patch is not None:
        y = y * match_factor(q_patch, y.square().sum(-1)).unsqueeze(-1)
    if placement.rescale_before:
        y = lorentz.rescale(y, c=1.0, s=2.0, x_t_max=2e3)
    if placement.boost == "vector":
        assert b is not None
        y = lorentz.boost(y, b, c=1.0)
    if placement.boost == "scale":
        y = lorentz.expmap0(b * lorentz.logmap0(y, c=1.0), c=1.0)
    return lorentz.rescale(y, c=1.0, s=2.0, x_t_max=2e3) if placement.rescale_after else y


@given(placement=PLACEMENTS)
def test_scalars_give_the_point(placement: Placement) -> None:
    y, q_patch, b = inputs(placement)
    y[0, 0] = 0
    dot_b = y @ b if placement.boost == "vector" else None
    placed = place(PlaceInputs(y.square().sum(-1), q_patch, dot_b, b), LIMITS, placement)
    x = placed.point.a.unsqueeze(-1) * y
    if placed.point.s is not None:
        x = x + placed.point.s.unsqueeze(-1) * b
    expected = on_points(y, q_patch, b, placement)
    assert_close(x, expected, rtol=1e-9, atol=1e-12)
    assert_close(placed.point.q, expected.square().sum(-1), rtol=1e-9, atol=1e-12)
    assert_close(placed.t, lorentz.time(expected, c=1.0), rtol=1e-9, atol=0)


@given(placement=PLACEMENTS)
def test_backward_is_that_of_autograd(placement: Placement) -> None:
    y, q_patch, b = inputs(placement)
    leaves = [x.clone().requires_grad_() for x in (y.square().sum(-1), q_patch, b) if x is not None]
    dot_b = (y @ b).requires_grad_() if placement.boost == "vector" else None
    root = UNIT.clone().requires_grad_()  # sqrt(c) through the limits alone
    leaves = [*leaves, *([dot_b] if dot_b is not None else []), root]
    values = iter(leaves)
    q = next(values)
    patch = next(values) if q_patch is not None else None
    boost = next(values) if b is not None else None
    scalars = PlaceInputs(q, patch, dot_b, boost)

    def plain() -> list[Tensor]:
        placed = place(scalars, Limits.of(root.square(), s=2.0, x_t_max=2e3), placement)
        return [v for v in (placed.point.a, placed.point.s, placed.t) if v is not None]

    class ByHand(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, *_: Tensor) -> tuple[Tensor, ...]:
            ctx.placed = place(scalars, LIMITS, placement, want_slope=True)
            return tuple(v for v in (ctx.placed.point.a, ctx.placed.point.s, ctx.placed.t) if v is not None)

        @staticmethod
        def backward(ctx: object, *g: Tensor) -> tuple[Tensor | None, ...]:
            g_s = g[1] if ctx.placed.point.s is not None else None
            got = place_vjp(ctx.placed, g[0], g_s, g[-1], scalars, placement)
            wanted = [(got.q, q), (got.q_patch, patch), (got.b, boost), (got.dot_b, dot_b)]
            return (*(x for x, given_ in wanted if given_ is not None), got.log_root)

    assert_same(lambda: ByHand.apply(*leaves), plain, leaves, tolerance=1e-8)


def test_without_placement_the_output_is_the_point() -> None:
    q = random(2, 5).square()
    placed = place(PlaceInputs(q), LIMITS, None)
    assert placed.point.a is None and placed.point.s is None
    assert_close(placed.t, torch.sqrt(1 + q))
    assert_close(place_vjp(placed, None, None, torch.ones_like(q), PlaceInputs(q), None).q, 0.5 / placed.t)


def test_matching_keeps_the_patch_norm_and_dead_patches_at_zero() -> None:
    q_patch, q = torch.tensor([4.0, 0.0, 4.0]), torch.tensor([1.0, 0.0, 0.0])
    factor = match_factor(q_patch, q)
    assert_close(factor[0] ** 2 * q[0], q_patch[0])
    assert factor.isfinite().all()
    assert_close(factor[1], torch.tensor(1.0))

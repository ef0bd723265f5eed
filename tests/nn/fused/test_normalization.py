"""Scalars of the Lorentz batch norm against the same steps on points, and their backward against autograd."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from hyplearn.geometry import lorentz
from hyplearn.nn.fused.normalization import (
    CentreInputs,
    Normalization,
    centre,
    centre_vjp,
    mean_of,
    mean_of_vjp,
    midpoint,
)
from hyplearn.nn.fused.scalars import Limits
from tests.support.gradients import assert_same, random

N = 4
UNIT = torch.ones((), dtype=torch.float64)
LIMITS = Limits.of(UNIT, s=2.0, x_t_max=2e3)
NORMALIZATIONS = st.builds(
    Normalization,
    dispersion=st.sampled_from(["mean_distance", "rms"]),
    two_stage=st.booleans(),
    rescale=st.booleans(),
)


def on_points(
    x: Tensor, beta: Tensor, mean: Tensor, gamma: Tensor, dispersion: Tensor | None, normalization: Normalization
) -> tuple[Tensor, Tensor]:
    v = lorentz.logmap0(lorentz.boost(x, -mean, c=1.0), c=1.0)
    if dispersion is None:
        norms = v.norm(dim=-1)
        dispersion = norms.mean() if normalization.dispersion == "mean_distance" else norms.square().mean().sqrt()
    v = v * gamma / (dispersion + normalization.eps)
    if normalization.rescale:
        v = lorentz.rescale0(v, c=1.0, s=2.0, x_t_max=2e3)
    return lorentz.boost(lorentz.expmap0(v, c=1.0), beta, c=1.0), dispersion


class Case:
    """Points x = a y + s b (a and s per position, or x = y) and what `centre` wants of them."""

    def __init__(self, *, placed: bool, boosted: bool, given_dispersion: bool) -> None:
        self.y, self.b = random(2, 5, N), 0.4 * random(N, seed=1) if placed and boosted else None
        self.a = random(2, 5, seed=2).abs() + 0.5 if placed else None
        self.s = random(2, 5, seed=3) if self.b is not None else None
        self.beta, self.mean, self.gamma = 0.5 * random(N, seed=4), 0.3 * random(N, seed=5), UNIT * 1.2
        self.eps = UNIT * 1e-5
        self.dispersion = UNIT * 0.7 if given_dispersion else None

    @property
    def points(self) -> Tensor:
        x = self.y if self.a is None else self.a.unsqueeze(-1) * self.y
        return x if self.s is None else x + self.s.unsqueeze(-1) * self.b

    def arguments(self) -> list[Tensor | None]:
        """The tensors of `centre` in order, with the time as the variable that the squared norm derives from."""
        t = lorentz.time(self.points, c=1.0)
        dots = self.y @ self.beta, self.y @ self.mean
        return [self.a, self.s, t, *dots, self.b, self.beta, self.mean, self.gamma, self.eps, self.dispersion]


def inputs(arguments: list[Any]) -> CentreInputs:
    a, s, t, *rest = arguments
    return CentreInputs(a, s, t.square() - 1, t, *rest)


CASES = st.builds(Case, placed=st.booleans(), boosted=st.booleans(), given_dispersion=st.booleans())


@given(case=CASES, normalization=NORMALIZATIONS)
def test_scalars_give_the_normalized_points(case: Case, normalization: Normalization) -> None:
    made = centre(inputs(case.arguments()), LIMITS, normalization)
    vectors = [v for v in (case.b, case.mean, case.beta) if v is not None]
    out = made.a.unsqueeze(-1) * case.y + torch.stack(made.coefficients, dim=-1) @ torch.stack(vectors)
    expected, dispersion = on_points(
        case.points, case.beta, case.mean, case.gamma, case.dispersion, normalization
    )  # fmt: skip
    assert_close(out, expected, rtol=1e-8, atol=1e-10)
    assert_close(made.dispersion, dispersion)


@given(case=CASES, normalization=NORMALIZATIONS)
def test_backward_is_that_of_autograd(case: Case, normalization: Normalization) -> None:
    arguments = [None if x is None else x.clone().requires_grad_() for x in case.arguments()]
    root = UNIT.clone().requires_grad_()
    leaves = [x for x in arguments if x is not None] + [root]

    def plain() -> list[Tensor]:
        made = centre(inputs(arguments), Limits.of(root.square(), s=2.0, x_t_max=2e3), normalization)
        return [made.a, *made.coefficients]

    class ByHand(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *_: Tensor) -> tuple[Tensor, ...]:
            ctx.made = centre(inputs(arguments), LIMITS, normalization)
            return ctx.made.a, *ctx.made.coefficients

        @staticmethod
        def backward(ctx: Any, g_a: Tensor, *g: Tensor) -> tuple[Tensor, ...]:
            got = centre_vjp(ctx.made, g_a, g, inputs(arguments), LIMITS, normalization)
            grads = [got.a, got.s, got.t, got.dot_beta, got.dot_mean, got.b, got.beta, got.mean, got.gamma,
                     got.eps.sum(), got.dispersion]  # fmt: skip
            return (*(x for x, given_ in zip(grads, arguments, strict=True) if given_ is not None), got.log_root)

    assert_same(lambda: ByHand.apply(*leaves), plain, leaves, tolerance=1e-8)


@given(normalization=NORMALIZATIONS)
def test_mean_is_the_centroid_and_its_backward_that_of_autograd(normalization: Normalization) -> None:
    x = random(3, 5, N)
    points = lorentz.centroid(x, c=1.0, dim=1) if normalization.two_stage else x.flatten(0, 1)
    sums = x.sum(1).requires_grad_(), lorentz.time(x, c=1.0).sum(1).requires_grad_()

    def plain() -> Tensor:
        return mean_of(*sums, LIMITS, normalization)

    class ByHand(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, space: Tensor, time: Tensor) -> Tensor:
            return mean_of(space, time, LIMITS, normalization)

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
            return mean_of_vjp(g, sums[0].detach(), sums[1].detach(), LIMITS, normalization)

    assert_close(plain().detach(), lorentz.centroid(points, c=1.0, dim=0))
    assert_same(lambda: ByHand.apply(*sums), plain, sums, tolerance=1e-10)


def test_midpoint_of_far_coinciding_points_stays_within_reach() -> None:
    """In float32 time^2 - |space|^2 of points near d_max is rounding alone, and may be below 0."""
    limits = Limits.of(torch.ones(()), s=2.0, x_t_max=2e3)
    x = torch.nn.functional.normalize(torch.randn(200, 1, 8), dim=-1) * 1.9e3
    x = x.expand(-1, 7, -1)
    made = midpoint(x.sum(1), lorentz.time(x, c=1.0).sum(1), limits)
    assert made.isfinite().all()
    assert made.norm(dim=-1).max() <= 2.1e3

"""Lorentz multinomial logistic regression."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from hyplearn.manifolds import Lorentz
from hyplearn.nn.mlr import LorentzMLR
from tests.support.gradients import random


def four_terms(x: torch.Tensor, mlr: LorentzMLR) -> torch.Tensor:
    """The published formula: w_t, w_s, beta and an explicit sign."""
    k, x_t = mlr.manifold.c.rsqrt(), mlr.manifold.time(x, keepdim=True)
    norm = mlr.z.norm(dim=-1)
    w_t, w_s = torch.sinh(mlr.a / k) * norm, torch.cosh(mlr.a / k).unsqueeze(-1) * mlr.z
    alpha = x @ w_s.mT - x_t * w_t
    beta = (w_s.square().sum(-1) - w_t.square()).sqrt()
    return alpha.sign() * beta * k * torch.asinh(alpha / (k * beta)).abs()


@pytest.mark.parametrize("c", [0.05, 0.3, 1.0, 4.0, 20.0])
def test_logits_are_those_of_the_four_term_formula(c: float) -> None:
    mlr = LorentzMLR(6, 5, manifold=Lorentz(c)).double()
    x = 2 * random(20, 6)
    assert_close(mlr(x), four_terms(x, mlr), rtol=1e-8, atol=1e-10)


def test_logit_is_the_norm_times_the_signed_distance_to_the_hyperplane() -> None:
    """A point reached from the plane's foot along its normal by a step d has the logit |z| d."""
    mlr = LorentzMLR(3, 1, manifold=Lorentz(0.6)).double()
    direction = torch.nn.functional.normalize(mlr.z.detach()[0], dim=0)
    for step in (-1.5, 0.0, 0.8):
        x = mlr.manifold.expmap0((mlr.a.detach() + step) * direction)
        assert_close(mlr(x).squeeze(), step * mlr.z.detach().norm())


def test_gradient_on_the_hyperplane_is_not_zero() -> None:
    """The published sign-and-absolute-value form has none."""
    mlr = LorentzMLR(4, 3, manifold=Lorentz())
    with torch.no_grad():
        mlr.a.zero_()
    x = torch.zeros(1, 4, requires_grad=True)
    logits = mlr(x)
    assert_close(logits, torch.zeros(1, 3))
    assert_close(torch.autograd.grad(logits[0, 0], x)[0][0], mlr.z[0].detach())


def test_start_draws_z_then_a_and_multiplies_z_by_the_scale() -> None:
    def made(**scale: float) -> LorentzMLR:
        torch.manual_seed(3)
        return LorentzMLR(16, 5, manifold=Lorentz(), **scale)

    torch.manual_seed(3)
    z, a = torch.empty(5, 16).uniform_(-0.25, 0.25), torch.empty(5).uniform_(-0.25, 0.25)
    for mlr, expected in ((made(), z), (made(scale=4.0), 4 * z)):
        assert_close(mlr.z.detach(), expected, rtol=0, atol=0)
        assert_close(mlr.a.detach(), a, rtol=0, atol=0)


def test_start_is_uniform_as_in_hcnn() -> None:
    mlr = LorentzMLR(100, 50, manifold=Lorentz())
    for p in (mlr.z, mlr.a):
        assert 0.08 < p.abs().max() <= 0.1
    assert "100, 50" in repr(mlr)
    with pytest.raises(ValueError, match="classes=0 must be an integer >= 1"):
        LorentzMLR(4, 0, manifold=Lorentz())

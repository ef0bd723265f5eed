"""ReLU with entry into the hyperboloid: the explicit backward against autograd, and against the layers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from hyplearn.manifolds import Lorentz
from hyplearn.nn import monitor
from hyplearn.nn.fused.lift import Entry, _lift_relu, _LiftReLU, entry_factor, lift_relu
from hyplearn.nn.fused.scalars import Limits
from hyplearn.nn.lift import Lift
from tests.support.gradients import assert_same, random

ENTRIES = [Entry(kind, rescale) for kind in ("project", "exp0") for rescale in (True, False)]


@given(c=st.sampled_from([0.05, 0.3, 1.0, 4.0, 20.0]), entry=st.sampled_from(ENTRIES))
def test_backward_is_that_of_autograd(c: float, entry: Entry) -> None:
    h, curvature = random(2, 4, 3, 5), torch.tensor(c, dtype=torch.float64, requires_grad=True)
    h[0, :, 0, 0] = -1.0  # a position that the ReLU takes to the origin
    h = (h / c**0.5).contiguous(memory_format=torch.channels_last).requires_grad_()
    limits = Limits.of(curvature, s=2.0, x_t_max=2e3)
    assert_same(
        lambda: _LiftReLU.apply(h, curvature, limits.detach(), entry),
        lambda: _lift_relu(h, curvature, limits, entry)[0],
        [h, curvature],
        tolerance=1e-9,
    )


@pytest.mark.parametrize("entry", ENTRIES, ids=str)
def test_equals_relu_then_lift(entry: Entry) -> None:
    manifold, h = Lorentz(0.7).double(), random(2, 4, 3, 5).requires_grad_()
    lift = Lift(manifold, kind=entry.kind, rescale=entry.rescale)
    leaves = [h, manifold.curvature.raw]
    assert_same(lambda: lift.of_relu(h), lambda: lift(torch.relu(h)), leaves, tolerance=1e-9)


@pytest.mark.parametrize("entry", ENTRIES, ids=str)
def test_with_and_without_gradient_and_strides_it_is_the_same(entry: Entry) -> None:
    manifold, h = Lorentz(), random(2, 4, 3, 5)
    arguments = {"c": manifold.c.double(), "limits": Limits.of_manifold(manifold.double()), "entry": entry}
    with torch.no_grad():
        plain = lift_relu(h, **arguments)
    assert_close(lift_relu(h.requires_grad_(), **arguments), plain)
    assert plain.is_contiguous(memory_format=torch.channels_last)


def test_only_one_map_is_kept_for_backward() -> None:
    """As by a ReLU: a second map would double what a stage's border costs."""
    manifold, h, kept = Lorentz(), torch.randn(2, 16, 8, 8, requires_grad=True), []

    def keep(x: Tensor) -> Tensor:
        kept.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        Lift(manifold, kind="exp0").of_relu(h)
    assert sum(size >= h.numel() for size in kept) == 1


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e3])
def test_factor_never_leaves_the_reach(scale: float) -> None:
    limits = Limits.of(torch.ones(()), s=2.0, x_t_max=2e3)
    q = torch.tensor([0.0, scale])
    for kind, largest in (("project", float(limits.d_max)), ("exp0", 2e3)):
        made = entry_factor(q, limits, Entry(kind), want_slope=True)
        assert made.factor.isfinite().all() and made.slope.isfinite().all()
        assert (made.factor * q.sqrt()).max() <= largest * (1 + 1e-3)


def test_share_of_rescaled_points_is_read() -> None:
    manifold = Lorentz()
    near_and_far = torch.tensor([0.1, 100.0]).view(2, 1, 1, 1).expand(2, 3, 2, 2).contiguous()
    with monitor.record() as readings:
        Lift(manifold).of_relu(near_and_far)
    assert readings == {"rescaled/entry": 0.5}

"""Placement, batch norm, residual, activation and exit: the explicit backward against autograd."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck
from torch.testing import assert_close

from hyplearn.nn import monitor
from hyplearn.nn.fused.norm import Block, NormalizeInputs, _Normalize, _normalize, normalize
from hyplearn.nn.fused.normalization import Normalization
from hyplearn.nn.fused.placement import Placement
from hyplearn.nn.fused.scalars import Limits
from tests.support.gradients import assert_same, random

N = 4
CURVATURES = st.sampled_from([0.05, 0.3, 1.0, 4.0, 20.0])
PLACEMENTS = st.builds(
    Placement,
    match=st.booleans(),
    rescale_before=st.booleans(),
    boost=st.sampled_from(["vector", "scale", "none"]),
    rescale_after=st.booleans(),
)
BLOCKS = st.builds(
    Block,
    placement=st.one_of(PLACEMENTS, st.none()),
    normalization=st.builds(
        Normalization,
        dispersion=st.sampled_from(["mean_distance", "rms"]),
        two_stage=st.booleans(),
        rescale=st.booleans(),
    ),
    activation=st.booleans(),
    rescale_residual=st.booleans(),
    exit=st.sampled_from([None, "log0", "space"]),
)
DEFAULT = Block(Placement(), Normalization(), exit="log0")


class Case:
    """Leaves of one normalization, lengths in proportion to k."""

    def __init__(
        self, block: Block, *, residual: bool, training: bool, c: float, size: tuple[int, int] = (3, 2)
    ) -> None:
        k, place = c**-0.5, block.placement
        y, shape = random(2, N, *size), (2, N, *size)
        y[0, :, 0, 0] = 0  # a dead patch
        boosts = {"vector": 0.3 * k * random(N, seed=1), "scale": torch.tensor(1.3, dtype=torch.float64)}
        number = torch.ones((), dtype=torch.float64)
        made: dict[str, Tensor | None] = {
            "y": (k * y).contiguous(memory_format=torch.channels_last),
            "q_patch": (k * random(2, 1, *size, seed=2)).square() + 0.1 / c if place and place.match else None,
            "residual": k * random(*shape, seed=3) if residual else None,
            "b": boosts.get(place.boost) if place else None,
            "beta": 0.3 * k * random(N, seed=4),
            "gamma": 1.2 * k * number,
            "c": c * number,
            "mean": None if training else 0.2 * k * random(N, seed=5),
            "dispersion": None if training else 1.7 * k * number,
        }
        self.block = block
        self.inputs = NormalizeInputs(**{name: None if x is None else x.requires_grad_() for name, x in made.items()})
        self.leaves = [x for x in self.inputs if x is not None]
        self.limits = Limits.of(self.inputs.c, s=2.0, x_t_max=2e3)

    def plain(self) -> Tensor:
        return _normalize(self.inputs, self.limits, self.block)[0]

    def fused(self) -> Tensor:
        return _Normalize.apply(*self.inputs, self.limits.detach(), self.block)[0]

    def normalized(self) -> tuple[Tensor, Tensor, Tensor]:
        return normalize(self.inputs, limits=self.limits, block=self.block)


@settings(max_examples=300)
@given(block=BLOCKS, residual=st.booleans(), training=st.booleans(), c=CURVATURES)
@example(block=DEFAULT, residual=True, training=True, c=1.0)
def test_backward_is_that_of_autograd(block: Block, residual: bool, training: bool, c: float) -> None:
    case = Case(block, residual=residual, training=training, c=c)
    assert_same(case.fused, case.plain, case.leaves, tolerance=1e-8)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "block",
    [
        DEFAULT,
        Block(Placement(boost="scale"), Normalization(dispersion="rms", two_stage=False)),
        Block(None, Normalization()),
    ],
    ids=["default", "scale", "original"],
)
def test_gradcheck(block: Block, training: bool) -> None:
    """The limits are lengths that do not follow c, so in units of k they are what c makes of them."""
    case = Case(block, residual=True, training=training, c=0.7, size=(2, 1))
    length, rate = case.limits.d_max.item() * 0.7**-0.5, case.limits.r.item() * 0.7**0.5
    present = [x is not None for x in case.inputs]

    def call(*leaves: Tensor) -> Tensor:
        values = iter(leaves)
        inputs = NormalizeInputs(*(next(values) if there else None for there in present))
        root = inputs.c.detach().sqrt()
        limits = replace(case.limits, d_max=length * root, r=rate / root)
        return _Normalize.apply(*inputs, limits, block)[0]

    with torch.no_grad():
        case.leaves[0][0, :, 0, 0] = 0.3  # off the ReLU's kink and the origin, where differences are no derivative
    assert gradcheck(call, case.leaves, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("training", [True, False])
def test_with_and_without_gradient_it_is_the_same(training: bool) -> None:
    case = Case(DEFAULT, residual=True, training=training, c=2.0)
    recorded = case.normalized()
    with torch.no_grad():
        assert_close([x.detach() for x in recorded], list(case.normalized()))


def test_statistics_are_lengths_and_carry_no_gradient() -> None:
    case = Case(DEFAULT, residual=False, training=False, c=4.0)
    _, mean, dispersion = case.normalized()
    assert_close(mean, case.inputs.mean.detach())
    assert_close(dispersion, case.inputs.dispersion.detach())
    assert not mean.requires_grad and not dispersion.requires_grad


def test_inputs_are_left_as_they_are() -> None:
    """The passes work in place on their own tensors only; the residual is used again by the next block."""
    case = Case(Block(Placement(), Normalization(), activation=False), residual=True, training=True, c=1.0)
    before = [x.detach().clone() for x in case.leaves]
    case.fused().sum().backward()
    assert_close([x.detach() for x in case.leaves], before, rtol=0, atol=0)


def test_gradient_that_comes_in_is_left_as_it_is() -> None:
    for block in (Block(None, Normalization(), activation=False, exit=way) for way in (None, "space", "log0")):
        case = Case(block, residual=True, training=True, c=1.0)
        g = random(2, N, 3, 2, seed=8).contiguous(memory_format=torch.channels_last)
        kept = g.clone()
        case.fused().backward(g)
        assert_close(g, kept, rtol=0, atol=0)


def test_what_is_kept_for_backward_is_two_maps() -> None:
    """The convolution's output and the activation, as by a Euclidean conv - norm - ReLU."""
    case, kept = Case(Block(Placement(), Normalization()), residual=False, training=True, c=1.0, size=(16, 16)), []

    def keep(x: Tensor) -> Tensor:
        kept.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        case.fused()
    assert sum(size >= case.leaves[0].numel() for size in kept) == 2


def test_shares_of_rescaled_points_are_read() -> None:
    case = Case(DEFAULT, residual=True, training=True, c=1.0)
    with monitor.record() as readings, torch.no_grad():
        case.inputs.q_patch.fill_(1e8)  # patches far beyond d_max
        case.normalized()
    assert set(readings) == {"rescaled/conv", "rescaled/norm", "rescaled/residual"}
    assert readings["rescaled/conv"] > 0.4

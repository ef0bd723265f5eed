"""Convolution with patch norm: the explicit backward against autograd, the patch norm against unfolding."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck
from torch.testing import assert_close

from hyplearn.nn.fused.conv import Convolution, ConvolveInputs, _Convolve, _convolve, convolve
from hyplearn.nn.fused.lift import Entry
from hyplearn.nn.fused.scalars import Limits
from hyplearn.nn.layout import squared_norm
from tests.support.gradients import assert_same, random

PAIRS = st.sampled_from([(1, 1), (2, 1), (2, 2)])
CONVOLUTIONS = st.builds(
    Convolution,
    stride=PAIRS,
    padding=st.sampled_from([(0, 0), (1, 1), (2, 1)]),
    dilation=PAIRS,
    kernel=st.sampled_from([(1, 1), (3, 3), (2, 3)]),
    patch=st.sampled_from(["exact", "sum", "mean", "none"]),
)
ENTRIES = st.one_of(st.none(), st.builds(Entry, kind=st.sampled_from(["project", "exp0"]), rescale=st.booleans()))
CURVATURES = st.sampled_from([0.05, 0.3, 1.0, 4.0, 20.0])


def unfolded(x: Tensor, conv: Convolution) -> Tensor:
    """Patches (B, C kh kw, L)."""
    return F.unfold(x, conv.kernel, conv.dilation, conv.padding, conv.stride)


@given(conv=CONVOLUTIONS)
def test_patch_square_is_that_of_the_unfolded_patch(conv: Convolution) -> None:
    x = random(2, 3, 7, 6)
    made = conv.patch_square(squared_norm(x)).flatten(1)
    if conv.patch in ("exact", "none"):
        expected = unfolded(x, conv).square().sum(1)
    else:
        norms = unfolded(x.norm(dim=1, keepdim=True), conv)
        expected = (norms.sum(1) if conv.patch == "sum" else norms.mean(1)).square()
    assert_close(made, expected, rtol=1e-9, atol=1e-12)


class Case:
    """Leaves of one convolution: features, weight, time weight and bias (of the published layer), curvature."""

    def __init__(self, conv: Convolution, c: float, *, original: bool, size: tuple[int, int] = (7, 6)) -> None:
        self.conv, k = conv, c**-0.5
        features = (k * random(2, 3, *size)).contiguous(memory_format=torch.channels_last)
        weight = random(4, 3, *conv.kernel, seed=1)
        extra = (random(4, seed=2), k * random(4, seed=3)) if original else (None, None)
        tensors = [features, weight, *extra, torch.tensor(c, dtype=torch.float64)]
        self.arguments = [None if x is None else x.requires_grad_() for x in tensors]
        self.leaves = [x for x in self.arguments if x is not None]
        self.limits = Limits.of(self.arguments[-1], s=2.0, x_t_max=2e3)

    def plain(self, entry: Entry | None) -> tuple[Tensor, Tensor]:
        return _convolve(ConvolveInputs(*self.arguments), self.limits, self.conv, entry)

    def fused(self, entry: Entry | None) -> tuple[Tensor, Tensor]:
        return _Convolve.apply(*self.arguments, self.limits.detach(), self.conv, entry)


@given(conv=CONVOLUTIONS, entry=ENTRIES, c=CURVATURES, original=st.booleans())
def test_backward_is_that_of_autograd(conv: Convolution, entry: Entry | None, c: float, original: bool) -> None:
    case = Case(conv, c, original=original)
    assert_same(lambda: case.fused(entry), lambda: case.plain(entry), case.leaves, tolerance=1e-8)


@pytest.mark.parametrize("original", [True, False])
@pytest.mark.parametrize("entry", [None, Entry("exp0")], ids=str)
def test_gradcheck(entry: Entry | None, original: bool) -> None:
    """The limits are lengths that do not follow c, so in units of k they are what c makes of them."""
    case = Case(Convolution((1, 1), (1, 1), (1, 1), (3, 3)), 0.7, original=original, size=(2, 3))
    length, rate = case.limits.d_max.item() * 0.7**-0.5, case.limits.r.item() * 0.7**0.5

    def call(*leaves: Tensor) -> Any:
        root = leaves[-1].detach().sqrt()
        limits = replace(case.limits, d_max=length * root, r=rate / root)
        arguments = leaves if original else (*leaves[:2], None, None, leaves[2])
        return _Convolve.apply(*arguments, limits, case.conv, entry)

    assert gradcheck(call, case.leaves)


@pytest.mark.parametrize("original", [True, False])
def test_input_without_gradient_gets_none_and_the_rest_is_the_same(original: bool) -> None:
    """The first layer, whose input is the image."""
    case = Case(Convolution((1, 1), (1, 1), (1, 1), (3, 3)), 0.7, original=original)
    rest = case.leaves[1:] if original else case.leaves[1:2]
    with_input = torch.autograd.grad(case.fused(None)[0].sum(), rest)
    case.arguments[0].requires_grad_(False)
    assert_close(torch.autograd.grad(case.fused(None)[0].sum(), rest), with_input)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_under_autocast_maps_are_half_and_norms_are_not(dtype: torch.dtype) -> None:
    case = Case(Convolution((1, 1), (1, 1), (1, 1), (3, 3)), 0.7, original=True)
    arguments = [x.detach().float().requires_grad_() for x in case.arguments]
    limits = Limits.of(arguments[-1], s=2.0, x_t_max=2e3)
    with torch.autocast("cpu", dtype):
        y, q = convolve(
            *arguments[:4], c=arguments[4], limits=limits, convolution=case.conv, entry=Entry("project")
        )  # fmt: skip
    assert (y.dtype, q.dtype) == (dtype, torch.float32)
    (y.float().sum() + q.sum()).backward()
    assert all(x.grad.dtype == torch.float32 and x.grad.isfinite().all() for x in arguments)
    assert_close(y.double(), case.plain(Entry("project"))[0], rtol=0.1, atol=0.1)


def test_only_the_features_are_kept_for_backward() -> None:
    features, weight = torch.randn(2, 8, 16, 16, requires_grad=True), torch.randn(8, 8, 3, 3, requires_grad=True)
    kept: list[int] = []

    def keep(x: Tensor) -> Tensor:
        kept.append(x.numel())
        return x

    c = torch.ones((), requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        convolve(
            features, weight, None, None, c=c, limits=Limits.of(c, s=2.0, x_t_max=2e3),
            convolution=Convolution((1, 1), (1, 1), (1, 1), (3, 3)), entry=Entry("exp0"),
        )  # fmt: skip
    assert sum(size >= features.numel() for size in kept) == 1


def test_gradient_through_the_norm_of_a_weak_patch_fits_float16() -> None:
    """Its factor of the features, like 1/|x|, is beyond float16 where the product is not."""
    c = torch.ones(())
    x = (1e-4 * torch.randn(1, 3, 5, 5)).half().requires_grad_()
    with torch.autocast("cpu", torch.float16):
        _, q = convolve(
            x, torch.randn(4, 3, 3, 3), None, None, c=c, limits=Limits.of(c, s=2.0, x_t_max=2e3),
            convolution=Convolution((1, 1), (1, 1), (1, 1), (3, 3)),
        )  # fmt: skip
    (1e3 * torch.sqrt(q)).sum().backward()
    assert x.grad.isfinite().all()
    assert x.grad.abs().max() > 1e3

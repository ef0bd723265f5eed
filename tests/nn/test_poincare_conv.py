from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.testing import assert_close

from hyplearn.manifolds import PoincareBall
from hyplearn.nn.poincare_conv import PoincareConv2d, beta_ratio
from hyplearn.nn.poincare_linear import PoincareLinear
from tests.support import reference_poincare as reference


def random(*size: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer(c: float, channels: int = 3, outputs: int = 4, kernel: int = 3, **geometry: int) -> PoincareConv2d:
    conv = PoincareConv2d(channels, outputs, kernel, manifold=PoincareBall(c=c), init="normal", **geometry).double()
    with torch.no_grad():
        conv.weight.copy_(random(*conv.weight.shape, seed=1, scale=0.3))
        assert conv.bias is not None
        conv.bias.copy_(random(outputs, seed=2, scale=0.2))
    return conv


@pytest.mark.parametrize("c", [0.1, 1.0, 4.0])
@pytest.mark.parametrize(
    ("kernel", "geometry"),
    [
        (3, {"padding": 1}),
        (3, {"stride": 2, "padding": 1}),
        (1, {"stride": 2}),
        (3, {"stride": 1, "padding": 2, "dilation": 2}),
        (2, {}),
    ],
)
def test_it_is_the_unfolded_definition(c: float, kernel: int, geometry: dict[str, int]) -> None:
    conv, v = layer(c, kernel=kernel, **geometry), random(2, 3, 6, 5, scale=0.5)
    c_exact = conv.manifold.c.detach()
    expected = reference.convolution(v, conv.weight, conv.bias, c_exact, **geometry)
    assert_close(conv(v), expected, rtol=1e-9, atol=1e-12)


def test_one_by_one_is_the_linear_layer_at_each_pixel() -> None:
    conv, v = layer(0.5, kernel=1), random(2, 3, 4, 4)
    linear = PoincareLinear(3, 4, manifold=conv.manifold).double()
    linear.load_state_dict({**conv.state_dict(), "weight": conv.weight.flatten(1)})
    assert_close(conv(v), linear(v.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("channels", "positions"), [(3, 9), (64, 9), (512, 9), (5, 1)])
def test_beta_ratio(channels: int, positions: int) -> None:
    if channels * positions < 300:  # beyond, the gamma function overflows
        expected = reference.beta(channels * positions / 2, 0.5) / reference.beta(channels / 2, 0.5)
        assert beta_ratio(channels, positions) == pytest.approx(expected, rel=1e-12)
    # B(n/2, 1/2) ~ sqrt(2 pi / n): concatenation keeps the expected norm of a pixel
    assert beta_ratio(channels, positions) == pytest.approx(positions**-0.5, rel=1 / channels)


def test_identity_initialization_keeps_a_pixel() -> None:
    conv = PoincareConv2d(4, 4, 1, manifold=PoincareBall(c=0.3)).double()
    v = random(1, 4, 3, 3)
    assert_close(conv(v), v, rtol=1e-12, atol=0)
    wide = PoincareConv2d(2, 20, 3, manifold=PoincareBall(c=0.3))
    assert_close(wide.weight.flatten(1), torch.eye(20, 18) / 2)


def test_padding_pads_with_the_origin() -> None:
    conv, v = layer(0.5, padding=1), random(1, 3, 4, 4)
    padded = torch.nn.functional.pad(v, (1, 1, 1, 1))
    bare = layer(0.5)
    assert_close(conv(v), bare(padded), rtol=1e-12, atol=0)


def test_gradients() -> None:
    conv, v = layer(0.7, channels=2, outputs=3, padding=1, stride=2), random(1, 2, 3, 3).requires_grad_()
    names = [name for name, _ in conv.named_parameters()]

    def call(v: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(conv, dict(zip(names, values, strict=True)), (v,))

    assert gradcheck(call, (v, *conv.parameters()))


def test_gradients_are_finite_on_an_image_of_zeros() -> None:
    conv = PoincareConv2d(3, 8, 3, manifold=PoincareBall(c=0.1), padding=1)
    v = torch.zeros(1, 3, 4, 4, requires_grad=True)
    conv(v).sum().backward()
    for tensor in (v, *conv.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()


@pytest.mark.parametrize("c", [0.05, 1.0, 20.0])
def test_float32_agrees_with_float64(c: float) -> None:
    conv, v = layer(c, padding=1), random(2, 3, 8, 8, scale=min(1.0, c**-0.5))
    expected = conv(v)
    error = (conv.float()(v.float()).double() - expected).norm(dim=1) / expected.norm(dim=1)
    assert error.max() < 1e-5


def test_autocast_computes_in_full_precision_and_keeps_channels_last() -> None:
    conv = layer(1.0, padding=1).float()
    v = random(2, 3, 8, 8).float().contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = conv(v)
        assert_close(conv(v.bfloat16()), conv(v.bfloat16().float()), rtol=0, atol=0)
    assert inside.is_contiguous(memory_format=torch.channels_last)
    assert_close(inside, conv(v), rtol=0, atol=0)


def test_wrong_arguments_are_named() -> None:
    ball = PoincareBall(c=1.0)
    with pytest.raises(ValueError, match="stride=0"):
        PoincareConv2d(2, 2, 3, manifold=ball, stride=0)
    with pytest.raises(ValueError, match="padding=-1"):
        PoincareConv2d(2, 2, 3, manifold=ball, padding=-1)
    with pytest.raises(ValueError, match="init='zero'"):
        PoincareConv2d(2, 2, 3, manifold=ball, init="zero")
    with pytest.raises(ValueError, match=r"\(1, 3, 4, 4\) must be \(B, 2, H, W\)"):
        PoincareConv2d(2, 2, 3, manifold=ball)(torch.zeros(1, 3, 4, 4))

"""Each Lorentz layer of HCNN against the plain ambient reference, values and gradients, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from hyplearn.manifolds import Lorentz
from hyplearn.nn import monitor
from hyplearn.nn.activation import LorentzReLU
from hyplearn.nn.batchnorm import LorentzBatchNorm2d
from hyplearn.nn.block import LorentzBlock
from hyplearn.nn.conv import OriginalLorentzConv2d
from hyplearn.nn.lift import Transfer
from hyplearn.nn.linear import OriginalLorentzLinear
from hyplearn.nn.mlr import LorentzMLR
from hyplearn.nn.pool import LorentzGlobalPool
from hyplearn.nn.residual import LorentzResidual
from tests.support import reference_hcnn as reference

KS = [0.05, 0.5, 1.0, 4.0, 20.0]  # the checkpoints' k = 1/c


def random(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def manifolds(k: float) -> tuple[Lorentz, reference.Manifold]:
    ours, theirs = Lorentz(c=1 / k).double(), reference.Manifold(k).double()
    with torch.no_grad():
        theirs.k.copy_(1 / ours.c)  # float32's 1/k
    return ours, theirs


def ambient(x: Tensor, manifold: reference.Manifold) -> Tensor:
    """(B, n, H, W) to (B, H, W, n + 1)."""
    return manifold.add_time(x.permute(0, 2, 3, 1))


def space(x: Tensor) -> Tensor:
    """(B, H, W, n + 1) to (B, n, H, W)."""
    return x[..., 1:].permute(0, 3, 1, 2)


def check(ours: Callable[..., Tensor], theirs: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> None:
    """Same values and same gradients of the inputs; leaves the gradients of the parameters."""
    leaves = [x.clone().requires_grad_() for x in inputs], [x.clone().requires_grad_() for x in inputs]
    out, expected = ours(*leaves[0]), theirs(*leaves[1])
    assert_close(out, expected, rtol=1e-8, atol=1e-10)
    probe = random(*out.shape, seed=99)
    (out * probe).sum().backward()
    (expected * probe).sum().backward()
    for a, b in zip(*leaves, strict=True):
        assert_close(a.grad, b.grad, rtol=1e-7, atol=1e-9)


@torch.no_grad()
def copy_convolution(ours: OriginalLorentzConv2d, theirs: reference.Convolution) -> None:
    outputs, channels, *kernel = ours.weight.shape
    linear = theirs.linearized_kernel.weight
    ours.weight.copy_(linear.weight[1:, 1:].view(outputs, *kernel, channels).permute(0, 3, 1, 2))
    ours.weight_time.copy_(linear.weight[1:, 0])
    ours.bias.copy_(linear.bias[1:])


@torch.no_grad()
def copy_norm(ours: LorentzBatchNorm2d, theirs: reference.BatchNorm) -> None:
    ours.beta.copy_(theirs.beta[1:])
    ours.gamma.copy_(theirs.gamma.squeeze())
    ours.running_mean.copy_(theirs.running_mean[1:])
    ours.running_dispersion.copy_(theirs.running_var.squeeze())


@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (1, 2, 0), (7, 2, 3)])
def test_original_convolution(k: float, kernel: int, stride: int, padding: int) -> None:
    ball, theirs_manifold = manifolds(k)
    theirs = reference.Convolution(theirs_manifold, 4, 6, kernel, stride=stride, padding=padding).double()
    ours = OriginalLorentzConv2d(3, 5, kernel, manifold=ball, stride=stride, padding=padding).double()
    copy_convolution(ours, theirs)
    check(ours, lambda x: space(theirs(ambient(x, theirs_manifold))), (random(2, 3, 9, 8),))
    linear = theirs.linearized_kernel.weight
    expected = linear.weight.grad[1:, 1:].view(5, kernel, kernel, 3).permute(0, 3, 1, 2)
    assert_close(ours.weight.grad, expected, rtol=1e-7, atol=1e-9)
    assert_close(ours.weight_time.grad, linear.weight.grad[1:, 0], rtol=1e-7, atol=1e-9)
    assert_close(ours.bias.grad, linear.bias.grad[1:], rtol=1e-7, atol=1e-9)


def test_original_linear() -> None:
    ours_manifold, theirs_manifold = manifolds(0.5)
    theirs = reference.FullyConnected(theirs_manifold, 5, 4).double()
    ours = OriginalLorentzLinear(4, 3, manifold=ours_manifold).double()
    with torch.no_grad():
        ours.weight.copy_(theirs.weight.weight[1:, 1:])
        ours.weight_time.copy_(theirs.weight.weight[1:, 0])
        ours.bias.copy_(theirs.weight.bias[1:])
    check(ours, lambda x: theirs(theirs_manifold.add_time(x))[..., 1:], (random(6, 4),))


@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("path", ["fused", "by_definition"])
def test_batch_norm(k: float, training: bool, path: str) -> None:
    ours_manifold, theirs_manifold = manifolds(k)
    theirs = reference.BatchNorm(theirs_manifold, 5).double().train(training)
    ours = LorentzBatchNorm2d(4, manifold=ours_manifold, rescale=False).double().train(training)
    with torch.no_grad():
        theirs.beta.copy_(theirs_manifold.add_time(0.3 * random(4, seed=1)))
        theirs.gamma.fill_(1.3)
        theirs.running_mean[1:] = 0.2 * random(4, seed=2)
        theirs.running_var.fill_(0.7)
    copy_norm(ours, theirs)
    run = ours if path == "fused" else ours.by_definition
    x = random(3, 4, 3, 2, seed=3) + 0.3
    check(run, lambda x: space(theirs(ambient(x, theirs_manifold))), (x,))
    # the ambient reference treats the time of beta as free; at fixed space coordinates its gradient is the sum
    g, beta = theirs.beta.grad, theirs.beta.detach()
    assert_close(ours.beta.grad, g[1:] + g[0] * beta[1:] / beta[0], rtol=1e-6, atol=1e-8)
    assert_close(ours.gamma.grad, theirs.gamma.grad.squeeze(), rtol=1e-7, atol=1e-9)
    assert_close(ours.running_mean, theirs.running_mean[1:], rtol=1e-8, atol=1e-10)
    assert_close(ours.running_dispersion, theirs.running_var.squeeze(), rtol=1e-8, atol=1e-10)
    if not training:
        assert_close(ours.running_mean, 0.2 * random(4, seed=2), rtol=0, atol=0)


def far(manifold: reference.Manifold, distance: float) -> Tensor:
    """A feature map (6, 4, 5, 4) near the origin but for two pixels at distance * sqrt(k), multiples of 2^-10."""
    x = random(6, 4, 5, 4, seed=3)
    for image, row, column in ((0, 0, 0), (4, 2, 3)):
        x[image, :, row, column] *= math.sinh(distance) / x[image, :, row, column].norm()
    return (x * manifold.k.detach().sqrt()).mul(1024).round().div(1024)


@pytest.mark.parametrize("k", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("path", ["fused", "by_definition"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 5e-3)])
@pytest.mark.parametrize("training", [True, False])
def test_tangent_limit_of_batch_norm(k: float, path: str, dtype: torch.dtype, tolerance: float, training: bool) -> None:
    """float32 against the reference in float64 too, whose ambient formulas are no measure in float32."""
    theirs_manifold = reference.Manifold(k, limit=10).double()
    theirs = reference.BatchNorm(theirs_manifold, 5).double().train(training)
    ours = LorentzBatchNorm2d(4, manifold=Lorentz(c=1 / k), rescale=False, tangent_limit=10).to(dtype).train(training)
    with torch.no_grad():
        theirs.beta.copy_(theirs_manifold.add_time(0.3 * random(4, seed=1).float()))
        theirs.gamma.fill_(2.5 * k**0.5)
        theirs.running_mean[1:] = 0.2 * random(4, seed=2).float()
        theirs.running_var.fill_(0.75 * k**0.5)
    copy_norm(ours, theirs)
    probe = random(6, 4, 5, 4, seed=99)
    x, y = far(theirs_manifold, 9).to(dtype).requires_grad_(), far(theirs_manifold, 9).requires_grad_()
    with monitor.record() as readings:
        out = ours(x) if path == "fused" else ours.by_definition(x)
    (out * probe).sum().backward()
    expected = space(theirs(ambient(y, theirs_manifold)))
    (expected * probe).sum().backward()
    assert readings["limited/norm"] == pytest.approx(2 / 120)
    g, beta = theirs.beta.grad, theirs.beta.detach()
    for found, wanted in (
        (out, expected),
        (x.grad, y.grad),
        (ours.beta.grad, g[1:] + g[0] * beta[1:] / beta[0]),
        (ours.gamma.grad, theirs.gamma.grad.squeeze()),
        (ours.running_mean, theirs.running_mean[1:]),
        (ours.running_dispersion, theirs.running_var.squeeze()),
    ):
        scale = wanted.abs().max().item()
        assert_close(found.double(), wanted, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("k", KS)
def test_mlr(k: float) -> None:
    ours_manifold, theirs_manifold = manifolds(k)
    theirs, ours = reference.MLR(theirs_manifold, 7, 5).double(), LorentzMLR(6, 5, manifold=ours_manifold).double()
    ours.load_state_dict({**ours.state_dict(), "a": theirs.a, "z": theirs.z})
    check(ours, lambda x: theirs(theirs_manifold.add_time(x)), (random(8, 6),))
    assert_close(ours.a.grad, theirs.a.grad, rtol=1e-7, atol=1e-9)
    assert_close(ours.z.grad, theirs.z.grad, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("k", KS)
def test_pool(k: float) -> None:
    ours_manifold, theirs_manifold = manifolds(k)
    theirs = reference.GlobalAveragePool(theirs_manifold)
    check(
        LorentzGlobalPool(ours_manifold), lambda x: theirs(ambient(x, theirs_manifold))[..., 1:], (random(3, 4, 3, 2),)
    )


def test_residual_and_relu() -> None:
    ours_manifold, theirs_manifold = manifolds(0.5)

    def theirs(x: Tensor, y: Tensor) -> Tensor:
        total = theirs_manifold.add_time(ambient(x, theirs_manifold)[..., 1:] + ambient(y, theirs_manifold)[..., 1:])
        return space(reference.ReLU(theirs_manifold)(total))

    residual, relu = LorentzResidual(ours_manifold, rescale=False), LorentzReLU()
    check(lambda x, y: relu(residual(x, y)), theirs, (random(2, 3, 4, 4), random(2, 3, 4, 4, seed=1)))


@pytest.mark.parametrize(("source", "target"), [(0.5, 4.0), (4.0, 0.5), (1.0, 1.0)])
def test_move_between_curvatures(source: float, target: float) -> None:
    ours, theirs = manifolds(source), manifolds(target)
    transfer = Transfer(ours[0], theirs[0], rescale=False)

    def expected(x: Tensor) -> Tensor:
        v = ours[1].logmap(ours[1].origin(3), ours[1].add_time(x))
        return theirs[1].expmap(theirs[1].origin(3), v)[..., 1:]

    check(transfer, expected, (random(5, 3),))


def block_of(
    manifold: Lorentz, convolution: reference.Convolution, norm: reference.BatchNorm, **options: object
) -> LorentzBlock:
    """Our block with the weights of a reference convolution and batch norm."""
    channels, outputs = convolution.channels, norm.beta.shape[0] - 1
    conv = OriginalLorentzConv2d(
        channels, outputs, convolution.kernel, manifold=manifold, stride=convolution.stride, padding=convolution.padding
    )
    block = LorentzBlock(conv, LorentzBatchNorm2d(outputs, manifold=manifold, rescale=False), **options).double()
    copy_convolution(conv, convolution)
    copy_norm(block.norm, norm)
    return block


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_residual_block(fused: bool, training: bool) -> None:
    """conv - norm - ReLU - conv - norm - sum with the shortcut's conv - norm, ReLU."""
    manifold, theirs_manifold = manifolds(2.0)
    theirs = reference.BasicBlock(theirs_manifold, 3, 4, 2).double()
    reference.make_trained(theirs, torch.Generator().manual_seed(0))
    theirs.train(training)
    first = block_of(manifold, theirs.conv[0], theirs.conv[1], fused=fused)
    residual = LorentzResidual(manifold, rescale=False)
    second = block_of(manifold, theirs.conv[3], theirs.conv[4], fused=fused, residual=residual)
    shortcut = block_of(manifold, theirs.shortcut[0], theirs.shortcut[1], fused=fused, activation=False)
    blocks = torch.nn.ModuleList([first, second, shortcut]).train(training)

    def ours(x: Tensor) -> Tensor:
        return second(first(x), shortcut(x))

    check(ours, lambda x: space(theirs(ambient(x, theirs_manifold))), (random(2, 3, 6, 5),))
    for block, norm in ((first, theirs.conv[1]), (second, theirs.conv[4]), (shortcut, theirs.shortcut[1])):
        assert_close(block.norm.running_mean, norm.running_mean[1:], rtol=1e-8, atol=1e-10)
        assert_close(block.norm.running_dispersion, norm.running_var.squeeze(), rtol=1e-8, atol=1e-10)
    if training:
        (curvature,) = [p for name, p in blocks.named_parameters() if "curvature" in name]
        assert_close(curvature.grad, numerical_gradient(manifold, ours), rtol=1e-4, atol=1e-6)


@torch.no_grad()
def numerical_gradient(manifold: Lorentz, call: Callable[[Tensor], Tensor]) -> Tensor:
    """Central difference in the raw curvature of the quantity that `check` differentiates."""
    x, raw, values = random(2, 3, 6, 5), manifold.curvature.raw, []
    for step in (1e-5, -1e-5):
        raw.add_(step)
        out = call(x)
        values.append((out * random(*out.shape, seed=99)).sum())
        raw.sub_(step)
    return (values[0] - values[1]) / 2e-5

"""Every Lorentz layer where formulas divide by zero or overflow: values and gradients stay finite, half types too."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from hyplearn.geometry import lorentz
from hyplearn.manifolds import Lorentz
from hyplearn.nn.batchnorm import LorentzBatchNorm2d
from hyplearn.nn.block import LorentzBlock
from hyplearn.nn.boost import LorentzBoost
from hyplearn.nn.conv import LorentzConv2d, OriginalLorentzConv2d
from hyplearn.nn.lift import Lift, Transfer, Unlift
from hyplearn.nn.linear import LorentzLinear, OriginalLorentzLinear
from hyplearn.nn.mlr import LorentzMLR
from hyplearn.nn.pool import LorentzGlobalPool
from hyplearn.nn.residual import LorentzResidual

N, SHAPE = 6, (4, 6, 5, 5)
BOUNDS = [0.05, 20.0]  # of the curvature


class Twice(nn.Module):
    """A residual with the features as their own shortcut."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, x)


class Flat(nn.Module):
    """A layer of points on the positions of a map."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.permute(0, 2, 3, 1).reshape(-1, N))


class ByDefinition(LorentzBatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return self.by_definition(x)


def block(m: Lorentz, *, fused: bool) -> nn.Module:
    conv, norm = LorentzConv2d(N, N, 3, manifold=m, padding=1), LorentzBatchNorm2d(N, manifold=m)
    return Twice(LorentzBlock(conv, norm, residual=LorentzResidual(m), exit=Unlift(m), fused=fused))


LAYERS: dict[str, Callable[[Lorentz], nn.Module]] = {
    "lift": lambda m: Lift(m),
    "project": lambda m: Lift(m, kind="project"),
    "clip": lambda m: Lift(m, clip=1.0, rescale=False),
    "unlift": lambda m: Unlift(m),
    "transfer": lambda m: Transfer(m, Lorentz(1.0)),
    "boost": lambda m: LorentzBoost(N, manifold=m),
    "scale": lambda m: LorentzBoost(N, manifold=m, kind="scale"),
    "linear": lambda m: Flat(LorentzLinear(N, 3, manifold=m)),
    "orthogonal linear": lambda m: Flat(LorentzLinear(N, 8, manifold=m)),
    "original linear": lambda m: Flat(OriginalLorentzLinear(N, 3, manifold=m)),
    "conv": lambda m: LorentzConv2d(N, 4, 3, manifold=m, padding=1),
    "sum conv": lambda m: LorentzConv2d(N, 4, 3, manifold=m, padding=1, norm_match="sum"),
    "original conv": lambda m: OriginalLorentzConv2d(N, 4, 3, manifold=m, padding=1),
    "batch norm": lambda m: LorentzBatchNorm2d(N, manifold=m),
    "rms": lambda m: LorentzBatchNorm2d(N, manifold=m, dispersion="rms"),
    "joint": lambda m: LorentzBatchNorm2d(N, manifold=m, centroid="joint"),
    "per channel": lambda m: LorentzBatchNorm2d(N, manifold=m, dispersion="per_channel"),
    "batch norm by definition": lambda m: ByDefinition(N, manifold=m),
    "residual": lambda m: Twice(LorentzResidual(m)),
    "pool": lambda m: LorentzGlobalPool(m),
    "mlr": lambda m: Flat(LorentzMLR(N, 3, manifold=m)),
    "fused block": lambda m: block(m, fused=True),
    "layered block": lambda m: block(m, fused=False),
}


def at_limit(directions: Tensor, c: float) -> Tensor:
    limit = lorentz.d_max(c=c)
    return lorentz.expmap0((limit * directions).movedim(1, -1), c=c).movedim(-1, 1)


def maps(c: float) -> dict[str, Tensor]:
    directions = nn.functional.normalize(torch.randn(SHAPE), dim=1)
    one = nn.functional.normalize(torch.randn(1, N, 1, 1), dim=1).expand(SHAPE)
    dead = directions / c**0.5
    dead[:, :, :, :3] = 0
    axis = torch.zeros(SHAPE)
    axis[:, 0] = c**-0.5
    return {
        "zeros": torch.zeros(SHAPE),
        "constant image": torch.full(SHAPE, 0.7),
        "underflow": 1e-20 * directions,
        "near the origin": 1e-6 * directions,
        "coincident": one / c**0.5,
        "at d_max": at_limit(directions, c),
        "coincident at d_max": at_limit(one, c),
        "dead patches": dead,
        "one axis": axis,
    }


def check(layer: nn.Module, x: Tensor, name: str, scale: float, dtype: torch.dtype | None = None) -> Tensor:
    x = x.detach().clone().requires_grad_()
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        out = layer(x)
    assert out.isfinite().all(), f"{name}: value"
    layer.zero_grad()
    (scale * out.float() * torch.randn(out.shape)).sum().backward()
    grads = {"input": x.grad, **{key: p.grad for key, p in layer.named_parameters() if p.grad is not None}}
    for key, grad in grads.items():
        assert grad.isfinite().all(), f"{name}: gradient of {key}"
    return out


@pytest.mark.parametrize("c", BOUNDS)
@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_values_and_gradients_are_finite_everywhere(make: Callable[[Lorentz], nn.Module], c: float) -> None:
    """Also under the factor of a gradient scaler, 65536."""
    layer = make(Lorentz(c))
    for name, x in maps(c).items():
        for scale in (1.0, 65536.0):
            check(layer, x, name, scale)


@pytest.mark.parametrize("c", BOUNDS)
@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_no_product_overflows_before_the_square_of_a_time(make: Callable[[Lorentz], nn.Module], c: float) -> None:
    layer, directions = make(Lorentz(c)), nn.functional.normalize(torch.randn(SHAPE), dim=1)
    for exponent in (5, 8, 10, 12, 14):
        check(layer, 10.0**exponent * directions, f"at 1e{exponent}", 1.0)
    layer.eval()
    assert layer(1e17 * directions).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("c", BOUNDS)
@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_half_precision_features_under_autocast(
    make: Callable[[Lorentz], nn.Module], c: float, dtype: torch.dtype
) -> None:
    """Where a batch has no dispersion its norm multiplies gradients by 1/eps = 1e5, so these start from 1e-3 here."""
    layer = make(Lorentz(c))
    for name, x in maps(c).items():
        x = x.clamp(-500, 500) if name.endswith("d_max") else x  # sums over patches must fit float16
        out = check(layer, x.to(dtype), name, 1e-3, dtype)
        assert out.dtype in (dtype, torch.float32)


@pytest.mark.parametrize("make", [LAYERS[k] for k in ("batch norm", "per channel", "fused block")])
def test_evaluation_of_extremes_is_finite_after_training_on_them(make: Callable[[Lorentz], nn.Module]) -> None:
    layer, extremes = make(Lorentz(1.0)), maps(1.0)
    for x in extremes.values():
        layer(x)
    layer.eval()
    for name, x in extremes.items():
        check(layer, x, name, 1.0)

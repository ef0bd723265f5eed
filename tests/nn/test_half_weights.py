"""Layers whose weights were made half precision: finite results, or word of what to use instead. And empty
batches, which give an empty result or are refused."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import hyplearn.nn
from hyplearn.manifolds import Lorentz, PoincareBall
from hyplearn.nn.activation import LorentzDropout, LorentzReLU
from hyplearn.nn.batchnorm import LorentzBatchNorm2d
from hyplearn.nn.block import LorentzBlock
from hyplearn.nn.boost import LorentzBoost
from hyplearn.nn.conv import LorentzConv2d, OriginalLorentzConv2d
from hyplearn.nn.lift import Lift, Transfer, Unlift
from hyplearn.nn.linear import LorentzLinear, OriginalLorentzLinear
from hyplearn.nn.mlr import LorentzMLR
from hyplearn.nn.poincare_batchnorm import PoincareBatchNorm2d
from hyplearn.nn.poincare_conv import PoincareConv2d
from hyplearn.nn.poincare_lift import PoincareLift
from hyplearn.nn.poincare_linear import PoincareLinear
from hyplearn.nn.poincare_mlr import PoincareMLR
from hyplearn.nn.poincare_pool import PoincareGlobalPool
from hyplearn.nn.poincare_residual import PoincareResidual
from hyplearn.nn.pool import LorentzGlobalPool
from hyplearn.nn.residual import LorentzResidual
from hyplearn.nn.rotation import CayleyColumns, RotationBoost
from hyplearn.nn.space import Space
from hyplearn.nn.strided import PointwiseConv2d
from hyplearn.nn.unfolded_conv import UnfoldedLorentzConv2d
from tests.support.gradients import finite_or_refused

N, SHAPE, ROWS = 6, (4, 6, 5, 5), (4, 6)
HALF = [torch.bfloat16, torch.float16]


class Twice(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, 0.5 * x)


def block(fused: bool) -> nn.Module:
    m = Lorentz(0.7)
    conv, norm = LorentzConv2d(N, N, 3, manifold=m, padding=1), LorentzBatchNorm2d(N, manifold=m)
    return LorentzBlock(conv, norm, fused=fused)


def mlr(made: Callable[..., nn.Module], m: Lorentz | PoincareBall, **options: str) -> nn.Module:
    return made(N, 3, manifold=m, **options)


# Every layer of hyplearn.nn, by what it is fed: feature maps or rows.
MAPS: dict[str, tuple[type[nn.Module], Callable[[], nn.Module]]] = {
    "relu": (LorentzReLU, LorentzReLU),
    "dropout": (LorentzDropout, lambda: LorentzDropout(0.5)),
    "norm": (LorentzBatchNorm2d, lambda: LorentzBatchNorm2d(N, manifold=Lorentz(0.7))),
    "norm per channel": (
        LorentzBatchNorm2d, lambda: LorentzBatchNorm2d(N, manifold=Lorentz(0.7), dispersion="per_channel"),
    ),
    "block": (LorentzBlock, lambda: block(fused=True)),
    "layered block": (LorentzBlock, lambda: block(fused=False)),
    "boost": (LorentzBoost, lambda: LorentzBoost(N, manifold=Lorentz(0.7))),
    "conv": (LorentzConv2d, lambda: LorentzConv2d(N, 4, 3, manifold=Lorentz(0.7))),
    "orthogonal conv": (LorentzConv2d, lambda: LorentzConv2d(N, 8, 1, manifold=Lorentz(0.7))),
    "original conv": (OriginalLorentzConv2d, lambda: OriginalLorentzConv2d(N, 4, 3, manifold=Lorentz(0.7))),
    "unfolded conv": (UnfoldedLorentzConv2d, lambda: UnfoldedLorentzConv2d(N, 4, 3, manifold=Lorentz(0.7))),
    "lift": (Lift, lambda: Lift(Lorentz(0.7))),
    "unlift": (Unlift, lambda: Unlift(Lorentz(0.7))),
    "transfer": (Transfer, lambda: Transfer(Lorentz(0.7), Lorentz(1.0))),
    "residual": (LorentzResidual, lambda: Twice(LorentzResidual(Lorentz(0.7)))),
    "pool": (LorentzGlobalPool, lambda: LorentzGlobalPool(Lorentz(0.7))),
    "poincare norm": (PoincareBatchNorm2d, lambda: PoincareBatchNorm2d(N, manifold=PoincareBall(0.7))),
    "poincare conv": (PoincareConv2d, lambda: PoincareConv2d(N, 4, 3, manifold=PoincareBall(0.7))),
    "poincare residual": (PoincareResidual, lambda: Twice(PoincareResidual(PoincareBall(0.7)))),
    "poincare pool": (PoincareGlobalPool, lambda: PoincareGlobalPool(PoincareBall(0.7))),
    "pointwise": (PointwiseConv2d, lambda: PointwiseConv2d(N, 4, stride=2)),
}  # fmt: skip
OF_ROWS: dict[str, tuple[type[nn.Module], Callable[[], nn.Module]]] = {
    "linear": (LorentzLinear, lambda: LorentzLinear(N, 3, manifold=Lorentz(0.7))),
    "orthogonal linear": (LorentzLinear, lambda: LorentzLinear(N, 8, manifold=Lorentz(0.7))),
    "original linear": (OriginalLorentzLinear, lambda: OriginalLorentzLinear(N, 3, manifold=Lorentz(0.7))),
    "mlr": (LorentzMLR, lambda: mlr(LorentzMLR, Lorentz(0.7))),
    "poincare lift": (PoincareLift, lambda: PoincareLift(PoincareBall(0.7), clip=1.0)),
    "poincare linear": (PoincareLinear, lambda: PoincareLinear(N, 3, manifold=PoincareBall(0.7))),
    "poincare mlr": (PoincareMLR, lambda: mlr(PoincareMLR, PoincareBall(0.7))),
    "poincare mlr, weight norm": (
        PoincareMLR, lambda: mlr(PoincareMLR, PoincareBall(0.7), orientation="weight_norm"),
    ),
}  # fmt: skip
LAYERS = {name: (make, SHAPE) for name, (_, make) in MAPS.items()}
LAYERS |= {name: (make, ROWS) for name, (_, make) in OF_ROWS.items()}
PARTS = {RotationBoost, CayleyColumns, Space}  # a base, a parametrization, a pair of a manifold and a weight


def test_every_layer_is_here() -> None:
    found = set()
    for module in pkgutil.iter_modules(hyplearn.nn.__path__, "hyplearn.nn."):
        members = inspect.getmembers(importlib.import_module(module.name), inspect.isclass)
        found |= {kind for _, kind in members if kind.__module__ == module.name and issubclass(kind, nn.Module)}
    assert found == {kind for kind, _ in (MAPS | OF_ROWS).values()} | PARTS


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_half_weights_are_finite_or_refused(name: str, dtype: torch.dtype) -> None:
    make, shape = LAYERS[name]
    for given in (dtype, torch.float32):  # also what a layer before it, computing in float32, hands on
        torch.manual_seed(0)
        layer = make().to(dtype)
        finite_or_refused(layer, (0.5 * torch.randn(shape)).to(given))
        finite_or_refused(layer.eval(), (0.5 * torch.randn(shape)).to(given))


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_half_features_of_full_weights_are_finite_or_refused(name: str, dtype: torch.dtype) -> None:
    make, shape = LAYERS[name]
    finite_or_refused(make(), (0.5 * torch.randn(shape)).to(dtype))


def test_what_was_refused_works_once_it_is_float32_again() -> None:
    norm = LorentzBatchNorm2d(N, manifold=Lorentz(0.7)).half()
    with pytest.raises(ValueError, match=r"weights of LorentzBatchNorm2d are torch\.float16.*trainer\.precision=bf16"):
        norm(torch.randn(SHAPE))
    assert norm.float()(torch.randn(SHAPE)).isfinite().all()


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", LAYERS)
def test_empty_batches_work_or_are_refused(name: str, training: bool) -> None:
    make, shape = LAYERS[name]
    layer, x = make().train(training), torch.randn(0, *shape[1:]).requires_grad_()
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    try:
        out = layer(x)
    except ValueError as error:
        assert training and "no image" in str(error)  # noqa: PT017
    else:
        assert out.shape[0] == 0
        out.sum().backward()
    after = layer.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())

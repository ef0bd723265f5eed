"""One block, two paths: fused and layer by layer give the same values, gradients and running statistics."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from hyplearn.manifolds import Lorentz
from hyplearn.nn.batchnorm import LorentzBatchNorm2d
from hyplearn.nn.block import LorentzBlock
from hyplearn.nn.conv import LorentzConv2d, OriginalLorentzConv2d
from hyplearn.nn.lift import Lift, Transfer, Unlift
from hyplearn.nn.residual import LorentzResidual
from tests.support.gradients import assert_same, difference, random, values_and_gradients

INTO, OUT = 3, 4
CURVATURES = [0.05, 1.0, 20.0]
MANIFOLD = Lorentz()
# One option of the block changed at a time
CHANGES: dict[str, dict[str, Any]] = {
    "default": {},
    "original": {"conv": {"kind": OriginalLorentzConv2d}, "norm": {"rescale": False}},
    "orthogonal": {"out": 32},
    "1x1": {"conv": {"kernel_size": 1, "padding": 0, "stride": 2}},
    "stride": {"conv": {"stride": 2}},
    "dilation": {"conv": {"dilation": 2, "padding": 3}},
    "axis": {"conv": {"boost": "axis"}},
    "scale": {"conv": {"boost": "scale"}},
    "no boost": {"conv": {"boost": "none"}},
    "sum": {"conv": {"norm_match": "sum"}},
    "mean": {"conv": {"norm_match": "mean"}},
    "no match": {"conv": {"norm_match": "none"}},
    "pre boost": {"conv": {"rescale": "pre_boost"}},
    "post boost": {"conv": {"rescale": "post_boost"}},
    "tangent limit": {"norm": {"rescale": False, "tangent_limit": 0.4}},
    "both limits": {"norm": {"tangent_limit": 0.4}},
    "no rescaling": {"conv": {"rescale": "none"}, "norm": {"rescale": False}},
    "rms": {"norm": {"dispersion": "rms"}},
    "joint": {"norm": {"centroid": "joint"}},
    "per channel": {"norm": {"dispersion": "per_channel"}},
    "residual": {"residual": True},
    "plain residual": {"residual": False},
    "no activation": {"activation": False},
    "project": {"entry": {"kind": "project"}, "exit": "log0"},
    "exp0": {"entry": {"kind": "exp0"}, "exit": "space"},
    "unscaled entry": {"entry": {"kind": "project", "rescale": False}},
    "clip": {"entry": {"clip": 1.0}},
    "transfer": {"exit": "transfer"},
}


def block_of(
    c: float, *, fused: bool = True, out: int = OUT, conv: dict[str, Any] | None = None,
    norm: dict[str, Any] | None = None, residual: bool | None = None, activation: bool = True,
    entry: dict[str, Any] | None = None, exit: str | None = None, dtype: torch.dtype = torch.float64,
) -> LorentzBlock:  # fmt: skip
    torch.manual_seed(0)
    manifold = Lorentz(c, x_t_max=2e3)
    convolution = {"kind": LorentzConv2d, "kernel_size": 3, "padding": 1, **(conv or {})}
    layer = convolution.pop("kind")
    ways = {
        None: None,
        "transfer": Transfer(manifold, Lorentz(0.5)),
        **{k: Unlift(manifold, kind=k) for k in ("log0", "space")},
    }
    block = LorentzBlock(
        layer(INTO, out, manifold=manifold, **convolution),
        LorentzBatchNorm2d(out, manifold=manifold, **(norm or {})),
        activation=activation,
        residual=None if residual is None else LorentzResidual(manifold, rescale=residual),
        entry=None if entry is None else Lift(manifold, **entry),
        exit=ways[exit],
        fused=fused,
    )
    with torch.no_grad():
        block.norm.beta.copy_(0.3 * random(out, seed=5) / c**0.5)
        block.norm.gamma.div_(c**0.5)
    return block.to(dtype)


def pair(c: float, **options: Any) -> tuple[LorentzBlock, LorentzBlock]:
    fused, layers = block_of(c, **options), block_of(c, fused=False, **options)
    layers.load_state_dict(fused.state_dict())
    return fused, layers


def inputs(block: LorentzBlock, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """The features, with a dead corner, and the shortcut where there is one."""
    k = block.manifold.c.item() ** -0.5
    x = k * random(3, INTO, 7, 6)
    x[0, :, :4, :4] = 0
    with torch.no_grad():
        y = block.conv(x.to(dtype))
    made = [x] if block.residual is None else [x, k * random(*y.shape, seed=1)]
    return [m.to(dtype).requires_grad_() for m in made]


def run(block: LorentzBlock, given: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    return values_and_gradients(block(*given), [*given, *block.parameters()])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_both_paths_are_the_same_in_float64(change: dict[str, Any], c: float, training: bool) -> None:
    fused, layers = pair(c, **change)
    given = inputs(fused)
    results = [run(block.train(training), given) for block in (fused, layers)]
    for made, expected in zip(*(values + grads for values, grads in results), strict=True):
        assert difference(made, expected) <= 1e-7
    for made, expected in zip(fused.norm.buffers(), layers.norm.buffers(), strict=True):
        assert_close(made, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("change", [CHANGES[k] for k in ("default", "original", "residual", "project")])
def test_both_paths_are_the_same_in_float32(change: dict[str, Any], c: float) -> None:
    """Each within 1e-4 of float64, relative to the largest entry; the gradient of the curvature cancels most."""
    fused, layers = pair(c, **change, dtype=torch.float32)
    exact = block_of(c, **change)
    exact.load_state_dict(fused.state_dict())
    given = inputs(exact)
    values, grads = run(exact, given)
    for block in (fused, layers):
        made, made_grads = run(block, [x.detach().float().requires_grad_() for x in given])
        for a, b in zip(made + made_grads, values + grads, strict=True):
            assert difference(a.double(), b) <= 1e-4


def test_running_statistics_do_not_depend_on_gradients_being_wanted() -> None:
    with_gradient, without = block_of(1.0, residual=True), block_of(1.0, residual=True)
    given = inputs(with_gradient)
    out = with_gradient(*given)
    with torch.no_grad():
        assert_close(without(*given), out.detach())
    assert_close(dict(without.norm.named_buffers()), dict(with_gradient.norm.named_buffers()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("change", [CHANGES[k] for k in ("default", "original", "orthogonal", "residual", "project")])
def test_under_autocast_values_are_close_and_gradients_finite(
    change: dict[str, Any], fused: bool, dtype: torch.dtype
) -> None:
    block, exact = block_of(1.0, fused=fused, dtype=torch.float32, **change), block_of(1.0, **change)
    exact.load_state_dict(block.state_dict())
    given = inputs(exact)
    half = [x.detach().to(dtype).requires_grad_() for x in given]
    with torch.autocast("cpu", dtype):
        out = block(*half)
    assert out.dtype == (dtype if fused else torch.float32)
    expected = exact(*given).detach()
    assert (out.detach().double() - expected).abs().mean() <= 0.02 * expected.abs().max()
    (32.0 * out.float()).sum().backward()
    for leaf in (*half, *block.parameters()):
        assert leaf.grad is not None and leaf.grad.isfinite().all()
    assert all(p.grad.dtype == torch.float32 for p in block.parameters())


def test_fusion_is_used_where_it_can_be() -> None:
    """Nothing of feature-map size between the convolution and the activation is kept."""
    sizes = {}
    for fused in (True, False):
        block, kept = block_of(1.0, fused=fused, dtype=torch.float32), []
        x = torch.randn(4, INTO, 16, 16, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t) or t, lambda t: t):
            block(x)
        sizes[fused] = sum(t.numel() >= 4 * OUT * 256 for t in kept)
    assert sizes[True] == 2 < sizes[False]


def test_a_block_can_be_compiled_to_the_same() -> None:
    """Plain PyTorch under the compiler, checked without building kernels."""
    block = block_of(1.0, residual=True, dtype=torch.float32)
    twin, given = copy.deepcopy(block), inputs(block, torch.float32)
    compiled = torch.compile(twin, backend="aot_eager", fullgraph=False)
    made = values_and_gradients(compiled(*given), [*given, *twin.parameters()])
    for a, b in zip(itertools.chain(*made), itertools.chain(*run(block, given)), strict=True):
        assert difference(a, b) <= 1e-4
    assert_close(dict(twin.norm.named_buffers()), dict(block.norm.named_buffers()))


@pytest.mark.parametrize("fused", [True, False])
def test_a_shortcut_is_given_exactly_where_it_is_added(fused: bool) -> None:
    with_residual, without = block_of(1.0, fused=fused, residual=True), block_of(1.0, fused=fused)
    x, shortcut = random(2, INTO, 5, 5), random(2, OUT, 5, 5)
    with pytest.raises(ValueError, match="shortcut must be given exactly where the block has a residual"):
        with_residual(x)
    with pytest.raises(ValueError, match="shortcut must be given exactly where the block has a residual"):
        without(x, shortcut)


@pytest.mark.parametrize("fused", [True, False])
def test_a_single_position_in_training_is_named(fused: bool) -> None:
    block = block_of(1.0, fused=fused)
    with pytest.raises(ValueError, match="has no dispersion"):
        block(random(1, INTO, 1, 1))
    assert block.eval()(random(1, INTO, 1, 1)).isfinite().all()


def test_curvature_has_one_gradient_from_everywhere() -> None:
    """Central difference in the raw value, with the lengths d_max and 1/r held as they are (they carry no gradient)."""
    block = block_of(0.7, conv={"rescale": "none"}, norm={"rescale": False}, residual=False, exit="log0")
    given, raw = inputs(block), block.manifold.curvature.raw
    _, (made,) = values_and_gradients(block(*given), [raw])
    sums = []
    with torch.no_grad():
        for step in (1e-6, -2e-6):
            raw.add_(step)
            out = block(*given)
            sums.append((out * random(*out.shape, seed=90)).sum())
    assert_close(made, (sums[0] - sums[1]) / 2e-6, rtol=1e-5, atol=1e-7)


def test_fused_path_serves_any_module_as_exit() -> None:
    block = block_of(1.0)
    block.exit = nn.Tanh()
    assert_same(lambda: block._fused(x, None), lambda: block._layers(x, None), [x := inputs(block)[0]], tolerance=1e-8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_backward_may_be_called_inside_autocast(dtype: torch.dtype) -> None:
    block = block_of(1.0, residual=True, entry={}, dtype=torch.float32)
    given, grads = inputs(block, torch.float32), []
    for inside in (True, False):
        with torch.autocast("cpu", dtype):
            loss = Lift(block.manifold).of_relu(block(*given)).float().sum()
        with torch.autocast("cpu", dtype, enabled=inside):
            grads.append(torch.autograd.grad(loss, [*given, *block.parameters()]))
    for a, b in zip(*grads, strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("part", ["norm", "residual", "entry"])
def test_a_block_has_one_manifold(part: str) -> None:
    manifolds = {name: Lorentz(2.0) if name == part else MANIFOLD for name in ("norm", "residual", "entry")}
    with pytest.raises(ValueError, match=f"{part} lies on another manifold than conv"):
        LorentzBlock(
            LorentzConv2d(INTO, OUT, 3, manifold=MANIFOLD),
            LorentzBatchNorm2d(OUT, manifold=manifolds["norm"]),
            residual=LorentzResidual(manifolds["residual"]),
            entry=Lift(manifolds["entry"]),
        )


def test_the_exit_may_read_points_as_of_another_manifold() -> None:
    fused, layers = pair(1.0)
    fused.exit = layers.exit = Unlift(Lorentz(4.0).double())
    x = inputs(fused)[0]
    assert_close(fused(x), layers(x))

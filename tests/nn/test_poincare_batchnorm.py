from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.testing import assert_close

from hyplearn.manifolds import PoincareBall
from hyplearn.nn import poincare_batchnorm
from hyplearn.nn.poincare_batchnorm import PoincareBatchNorm2d
from tests.support import reference_poincare as reference


def random(*size: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer(c: float, features: int = 3, **options: float) -> PoincareBatchNorm2d:
    norm = PoincareBatchNorm2d(features, manifold=PoincareBall(c=c), **options).double()
    with torch.no_grad():
        norm.beta.copy_(random(features, seed=1, scale=0.3))
        norm.gamma.fill_(0.8)
    return norm


def rows(v: Tensor) -> Tensor:
    return v.permute(0, 2, 3, 1).flatten(0, 2)


@pytest.mark.parametrize("c", [0.05, 1.0, 4.0])
def test_training_is_the_definition_in_the_ball(c: float) -> None:
    norm, v = layer(c, momentum=1.0), random(4, 3, 2, 3, scale=0.4) + 0.2
    c_exact = norm.manifold.c.detach()
    expected, mean, variance = reference.batch_norm(rows(v), norm.beta, norm.gamma, norm.eps, c_exact)
    assert_close(rows(norm(v)), expected, rtol=1e-8, atol=1e-10)
    assert_close(norm.running_mean, mean, rtol=1e-9, atol=1e-12)
    assert_close(norm.running_var, variance, rtol=1e-9, atol=0)


def test_the_result_has_the_asked_mean_and_variance() -> None:
    norm, v = layer(0.5), random(8, 3, 4, 4) + 1
    c = norm.manifold.c.detach()
    x = reference.expmap0(rows(norm(v)), c)
    centre = reference.expmap0(norm.beta, c)
    assert_close(reference.dist(x, centre, c).square().mean(), norm.gamma.square(), rtol=1e-4, atol=0)


@torch.no_grad()
def test_eval_with_the_statistics_of_the_batch_is_training() -> None:
    norm, v = layer(0.5, momentum=1.0), random(4, 3, 5, 5)
    trained = norm(v)
    assert_close(norm.eval()(v), trained, rtol=1e-10, atol=1e-12)
    single = norm(v[:1])  # eval does not look at the batch
    assert_close(single, trained[:1], rtol=1e-10, atol=1e-12)


@torch.no_grad()
def test_running_statistics_follow_the_batches_and_stay_in_eval() -> None:
    norm = layer(0.5)
    batches = [random(4, 3, 3, 3, seed=seed) + 0.5 for seed in range(60)]
    for batch in batches:
        norm(batch)
    _, mean, variance = reference.batch_norm(rows(torch.cat(batches)), norm.beta, norm.gamma, norm.eps, norm.manifold.c)
    assert_close(norm.running_mean, mean, rtol=0, atol=0.1)
    assert_close(norm.running_var, variance, rtol=0.1, atol=0)
    before = norm.running_mean.clone(), norm.running_var.clone()
    norm.eval()(batches[0])
    assert_close((norm.running_mean, norm.running_var), before, rtol=0, atol=0)


@torch.no_grad()
def test_one_step_of_the_running_statistics() -> None:
    norm, v = layer(2.0, momentum=0.3), random(4, 3, 3, 3, scale=0.5)
    norm.running_mean.copy_(random(3, seed=5, scale=0.2))
    old, c = reference.expmap0(norm.running_mean, norm.manifold.c), norm.manifold.c
    _, mean, variance = reference.batch_norm(rows(v), norm.beta, norm.gamma, norm.eps, c)
    pair = torch.stack([old, reference.expmap0(mean, c)])
    shares = pair.new_tensor([[0.7], [0.3]])
    weights = shares * reference.conformal(pair, c)
    klein = (weights * pair).sum(0) / (weights - shares).sum(0)
    expected = reference.logmap0(klein / (1 + (1 - c * klein.square().sum()).sqrt()), c)
    norm(v)
    assert_close(norm.running_mean, expected, rtol=1e-9, atol=1e-12)
    assert_close(norm.running_var, 0.7 + 0.3 * variance, rtol=1e-9, atol=0)


@pytest.mark.parametrize("training", [True, False])
def test_gradients(training: bool) -> None:
    norm, v = layer(0.7).train(training), random(2, 3, 2, 1).requires_grad_()
    names = [name for name, _ in norm.named_parameters()]

    def call(v: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(norm, dict(zip(names, values, strict=True)), (v,))

    norm.running_mean.copy_(random(3, seed=3, scale=0.1))
    norm.momentum = 1e-30  # keeps the function fixed between the calls of gradcheck
    assert gradcheck(call, (v, *norm.parameters()))


def test_a_constant_batch_and_the_origin_have_finite_gradients() -> None:
    for value in (0.0, 0.5):
        norm = PoincareBatchNorm2d(3, manifold=PoincareBall(c=1.0))
        v = torch.full((2, 3, 2, 2), value, requires_grad=True)
        norm(v).square().sum().backward()
        for tensor in (v, *norm.parameters()):
            assert tensor.grad is not None
            assert tensor.grad.isfinite().all()


@pytest.mark.parametrize("c", [0.05, 1.0, 20.0])
@pytest.mark.parametrize("scale", [1e-6, 3e-3, 0.05, 0.3])
@torch.no_grad()
def test_float32_agrees_with_float64(c: float, scale: float) -> None:
    """Points at radii from 8e-6/sqrt(c) to 2.4/sqrt(c)."""
    norm, v = layer(c, 16), random(8, 16, 4, 4, scale=scale * c**-0.5).float().double()
    expected = norm(v)
    error = (norm.float()(v.float()).double() - expected).norm(dim=1) / expected.norm(dim=1)
    assert error.max() < 1e-5


@pytest.mark.parametrize("c", [0.05, 1.0, 20.0])
def test_points_that_coincide_at_the_limit_stay_finite(c: float) -> None:
    norm = PoincareBatchNorm2d(8, manifold=PoincareBall(c=c))
    for seed in range(40):
        v = (1e3 * random(1, 8, 1, 1, seed=seed) + 1e-2 * random(2, 8, 3, 1, seed=seed)).float().requires_grad_()
        norm.zero_grad()
        out = norm(v)
        out.square().sum().backward()
        assert out.isfinite().all()
        for tensor in (v, *norm.parameters()):
            assert tensor.grad is not None
            assert tensor.grad.isfinite().all()
    assert norm.running_mean.isfinite().all()


def test_autocast_computes_in_full_precision() -> None:
    norm, v = layer(1.0).float(), random(4, 3, 4, 4).float()
    outside = norm(v)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_close(norm(v), outside, rtol=0, atol=0)


@torch.no_grad()
def test_synchronized_statistics_are_those_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes with the halves of a batch: each sum is completed by the other's, recorded in its own order."""
    v = random(6, 3, 4, 4) + 0.3
    whole = layer(0.6)
    expected = whole(v)
    halves = [v[:2], v[2:]]
    sums: list[list[Tensor]] = [[], []]
    for i, half in enumerate(halves):  # what each process contributes, given the whole mean from the second pass on
        _contributions(monkeypatch, layer(0.6, synchronized=True), half, sums[i], others=None)
    for _ in range(2):
        outputs = []
        latest: list[list[Tensor]] = [[], []]
        for i, half in enumerate(halves):
            norm = layer(0.6, synchronized=True)
            outputs.append(_contributions(monkeypatch, norm, half, latest[i], others=sums[1 - i]))
        sums = latest
    assert_close(torch.cat(outputs), expected, rtol=1e-10, atol=1e-12)
    assert_close(norm.running_mean, whole.running_mean, rtol=1e-10, atol=1e-12)
    assert_close(norm.running_var, whole.running_var, rtol=1e-10, atol=1e-12)


def _contributions(
    monkeypatch: pytest.MonkeyPatch,
    norm: PoincareBatchNorm2d,
    v: Tensor,
    own: list[Tensor],
    *,
    others: list[Tensor] | None,
) -> Tensor:
    """Run the norm with `total` recording what this process gives and adding what the other one gave."""

    def total(x: Tensor) -> Tensor:
        own.append(x)
        return x if others is None else x + others[len(own) - 1]

    monkeypatch.setattr(poincare_batchnorm, "total", total)
    return norm(v)


def test_wrong_arguments_are_named() -> None:
    ball = PoincareBall(c=1.0)
    with pytest.raises(ValueError, match="num_features=0"):
        PoincareBatchNorm2d(0, manifold=ball)
    with pytest.raises(ValueError, match=r"momentum=0.*\(0, 1\]"):
        PoincareBatchNorm2d(2, manifold=ball, momentum=0)
    with pytest.raises(ValueError, match="eps=0"):
        PoincareBatchNorm2d(2, manifold=ball, eps=0)
    with pytest.raises(ValueError, match=r"must be \(B, 2, H, W\)"):
        PoincareBatchNorm2d(2, manifold=ball)(torch.zeros(1, 3, 4, 4))

"""The Lorentz batch norm does what its parameters ask for, in both precisions, in training and evaluation."""

from __future__ import annotations

import copy
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from hyplearn.geometry import lorentz
from hyplearn.manifolds import Lorentz
from hyplearn.nn import monitor
from hyplearn.nn.batchnorm import Centroid, LorentzBatchNorm2d
from tests.support.gradients import assert_same, random

CURVATURES = [0.05, 0.1, 1.0, 4.0, 20.0]
N = 4


def rows(x: Tensor) -> Tensor:
    """(B, n, H, W) to (B, H W, n)."""
    return x.flatten(2).mT


def norm_of(c: float = 1.0, n: int = N, *, dtype: torch.dtype = torch.float64, **options: Any) -> LorentzBatchNorm2d:
    """A batch norm with a shift and a scale, lengths in proportion to k. One x_t_max for both precisions."""
    norm = LorentzBatchNorm2d(n, manifold=Lorentz(c, x_t_max=2e3), **options).to(dtype)
    with torch.no_grad():
        if norm.coordinates == "space":
            norm.beta.copy_((0.3 * random(n, seed=5) / c**0.5).float())
        norm.gamma.copy_((1 + 0.2 * random(*norm.gamma.shape, seed=6)).abs().float() / c**0.5)
    return norm


def points(c: float = 1.0, *, radius: float = 1.0, n: int = N, spread: float = 1.0) -> Tensor:
    """A map of points at most radius * k from the origin; spread < 1 gathers them around one direction."""
    v = spread * random(4, n, 4, 3) + (1 - spread) * 3 * random(1, n, 1, 1, seed=1)
    size = radius * (0.5 + 0.5 * torch.rand(4, 1, 4, 3, dtype=torch.float64)) / c**0.5
    v = torch.nn.functional.normalize(v, dim=1) * size
    return lorentz.expmap0(v.movedim(1, -1), c=c).movedim(-1, 1)


def centroid(norm: LorentzBatchNorm2d, x: Tensor) -> Tensor:
    made = norm.manifold.centroid(rows(x), dim=1)
    return norm.manifold.centroid(made if norm.centroid == "two_stage" else rows(x).flatten(0, 1), dim=0)


# What comes out


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("centroid_kind", get_args(Centroid))
@pytest.mark.parametrize("dispersion", ["mean_distance", "rms"])
def test_with_the_batch_s_own_dispersion_it_is_an_isometry_to_beta(
    c: float, centroid_kind: str, dispersion: str
) -> None:
    norm, x = norm_of(c, centroid=centroid_kind, dispersion=dispersion, rescale=False, momentum=1.0), points(c)
    norm(x)
    with torch.no_grad():
        norm.gamma.copy_(norm.running_dispersion + norm.eps)
    out, manifold = norm(x), norm.manifold
    assert_close(centroid(norm, out), norm.beta.detach(), rtol=1e-6, atol=1e-8)
    flat_in, flat_out = rows(x).flatten(0, 1), rows(out).flatten(0, 1)
    assert_close(manifold.cdist(flat_out, flat_out), manifold.cdist(flat_in, flat_in), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("dispersion", ["mean_distance", "rms"])
def test_dispersion_around_beta_is_gamma(c: float, dispersion: str) -> None:
    norm, x = norm_of(c, dispersion=dispersion, rescale=False, eps=1e-12), points(c, radius=2.0)
    distances = norm.manifold.dist(rows(norm(x)), norm.beta)
    made = distances.mean() if dispersion == "mean_distance" else distances.square().mean().sqrt()
    assert_close(made, norm.gamma.detach(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("c", CURVATURES)
def test_per_channel_dispersion_is_the_share_of_gamma_in_each_tangent_coordinate(c: float) -> None:
    norm, x = norm_of(c, dispersion="per_channel", rescale=False, eps=1e-12), points(c, radius=2.0)
    v = norm.manifold.logmap0(norm.manifold.boost(rows(norm(x)), -norm.beta))
    assert_close(v.square().mean((0, 1)).sqrt(), norm.gamma.detach() / N**0.5, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dispersion", ["mean_distance", "rms", "per_channel"])
@pytest.mark.parametrize("n", [4, 64])
def test_a_new_norm_makes_the_dispersion_of_vectors_1_whatever_their_number_of_channels(
    dispersion: str, n: int
) -> None:
    manifold = Lorentz(c=1.0)
    norm = LorentzBatchNorm2d(n, manifold=manifold, dispersion=dispersion, rescale=False).double()
    out = norm(torch.randn(8, n, 3, 3, dtype=torch.double) * (0.5 + torch.rand(n, 1, 1)))
    distances = manifold.dist0(rows(out))
    measured = distances.mean() if dispersion == "mean_distance" else distances.square().mean().sqrt()
    assert_close(measured.item(), 1.0, rtol=1e-3, atol=0)


@pytest.mark.parametrize("dispersion", ["mean_distance", "rms", "per_channel"])
@pytest.mark.parametrize("centroid_kind", get_args(Centroid))
def test_statistics_of_a_batch_become_the_running_ones_with_weight_momentum(
    dispersion: str, centroid_kind: str
) -> None:
    c = 0.7
    norm, x = norm_of(c, dispersion=dispersion, centroid=centroid_kind, momentum=0.1), points(c)
    norm(x)
    mean = centroid(norm, x)
    pair = torch.stack([torch.zeros_like(mean), mean])
    expected = norm.manifold.centroid(pair, weights=torch.tensor([0.9, 0.1]).double())
    assert_close(norm.running_mean, norm.manifold.logmap0(expected))
    v = norm.manifold.logmap0(norm.manifold.boost(rows(x), -mean)).flatten(0, 1)
    measured = {
        "mean_distance": v.norm(dim=-1).mean(),
        "rms": v.square().sum(-1).mean().sqrt(),
        "per_channel": (v.square().mean(0) + norm.eps).sqrt(),
    }
    assert_close(norm.running_dispersion, 0.9 + 0.1 * measured[dispersion])
    assert norm.num_batches_tracked == 1


@pytest.mark.parametrize("dispersion", ["mean_distance", "rms", "per_channel"])
def test_evaluation_is_training_where_the_running_statistics_are_the_batch_s(dispersion: str) -> None:
    norm, x = norm_of(0.7, dispersion=dispersion, momentum=1.0), points(0.7)
    trained = norm(x)
    before = copy.deepcopy(dict(norm.named_buffers()))
    norm.eval()
    assert_close(norm(x), trained, rtol=1e-6, atol=1e-8)
    assert_close(dict(norm.named_buffers()), before, rtol=0, atol=0)


def test_evaluation_sees_each_image_alone() -> None:
    norm, x = norm_of(0.7), points(0.7)
    norm(x)
    norm.eval()
    assert_close(norm(x)[1:2], norm(x[1:2]))


def test_running_mean_keeps_its_distance_when_the_curvature_changes() -> None:
    norm, x = norm_of(0.7), points(0.7)
    norm(x)
    norm.eval()
    before = norm.manifold.dist0(norm.statistics()[0])
    with torch.no_grad():
        norm.manifold.curvature.raw.fill_(0.2)
    assert norm.manifold.c.item() == pytest.approx(5.0)
    assert_close(norm.manifold.dist0(norm.statistics()[0]), before)
    assert norm(x).isfinite().all()


def test_far_points_are_rescaled_before_they_are_moved_to_beta() -> None:
    norm, x = norm_of(1.0, dtype=torch.float32), points(1.0, radius=3.0).float()
    with torch.no_grad():
        norm.gamma.fill_(100.0)
        norm.beta.zero_()
    with monitor.record() as readings:
        out = norm(x)
    assert norm.manifold.time(rows(out)).max() <= 2e3 * (1 + 1e-3)
    assert readings["rescaled/norm"] > 0.9


# Precision


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("dispersion", ["mean_distance", "rms", "per_channel"])
@pytest.mark.parametrize(
    ("spread", "share"),
    [(1.0, share) for share in (0.0, 1e-3, 0.01, 0.1, 0.3, 0.6)] + [(0.3, share) for share in (0.0, 1e-3, 0.1, 0.4)],
)
def test_float32_is_accurate_away_from_the_limit(c: float, dispersion: str, spread: float, share: float) -> None:
    """Values and gradients. spread=1: around the origin, 0.3: to one side. share: of d_max; 0 is a radius of 1e-6.

    Points to one side that are far from the origin and near each other lose digits with the square of their time: at
    0.6 d_max and c = 20 (time 180 in units of k) the error is 4e-5, by definition and per channel it stays at 1e-6.
    """
    radius = 1e-6 if share == 0 else share * float(lorentz.d_max(c=c, x_t_max=2e3)) * c**0.5
    x, results = points(c, radius=radius, n=8, spread=spread).float(), {}
    for dtype in (torch.float32, torch.float64):
        leaf = x.to(dtype, copy=True).requires_grad_()
        out = norm_of(c, 8, dtype=dtype, dispersion=dispersion)(leaf)
        (grad,) = torch.autograd.grad(out, leaf, random(*out.shape, seed=9).to(dtype))
        results[dtype] = out, grad
    for made, expected in zip(results[torch.float32], results[torch.float64], strict=True):
        assert (made - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("dispersion", ["mean_distance", "rms"])
@pytest.mark.parametrize("training", [True, False])
def test_fused_and_by_definition_are_the_same(dispersion: str, training: bool) -> None:
    norm, x = norm_of(2.0, dispersion=dispersion).train(training), points(2.0).requires_grad_()
    leaves = [x, norm.beta, norm.gamma, norm.manifold.curvature.raw]
    assert_same(lambda: norm(x), lambda: norm.by_definition(x), leaves, tolerance=1e-8)


# Training


def test_two_batches_accumulate_the_gradients_of_each() -> None:
    norm, batches = norm_of(0.7), (points(0.7), points(0.7, radius=2.0))
    parameters = [norm.beta, norm.gamma, norm.manifold.curvature.raw]
    single = [torch.autograd.grad(norm(x).square().sum(), parameters) for x in batches]
    (norm(batches[0]).square().sum() + norm(batches[1]).square().sum()).backward()
    for p, *grads in zip(parameters, *single, strict=True):
        assert_close(p.grad, sum(grads))
    assert norm.num_batches_tracked == 4


def test_layers_of_one_manifold_share_its_gradient() -> None:
    manifold = Lorentz(0.7).double()
    first, second = (LorentzBatchNorm2d(N, manifold=manifold).double() for _ in range(2))
    second(first(points(0.7))).square().sum().backward()
    assert first.beta.manifold is manifold
    assert sum("curvature" in name for name, _ in torch.nn.Sequential(first, second).named_parameters()) == 1


def test_copies_and_state_dicts_are_the_same_layer() -> None:
    norm, x = norm_of(0.7), points(0.7)
    norm(x)
    norm.eval()
    other = norm_of(3.0).eval()
    other.load_state_dict(norm.state_dict())
    twin = copy.deepcopy(norm)
    assert_close(twin(x), norm(x))
    assert_close(other(x), norm(x))
    assert twin.beta.manifold is twin.manifold is not norm.manifold


# Beta with a time of its own, the ablation of Bdeir Table 5


def test_ambient_beta_on_the_manifold_is_the_same_layer() -> None:
    norm, ambient, x = norm_of(0.7), norm_of(0.7, coordinates="ambient"), points(0.7)
    with torch.no_grad():
        ambient.beta.copy_(norm.manifold.to_ambient(norm.beta))
        ambient.gamma.copy_(norm.gamma)
    assert_close(ambient(x), norm(x))
    assert not ambient.fusable


def test_ambient_beta_leaves_the_manifold_when_the_curvature_moves_alone() -> None:
    norm, x = norm_of(0.7, coordinates="ambient"), points(0.7)
    shares = []
    for raw in (1 / 0.7, 1.0):
        with torch.no_grad():
            norm.manifold.curvature.raw.fill_(raw)
        with monitor.record() as readings:
            norm(x)
        shares.append(readings["off_manifold/beta"])
    assert shares[0] < 1e-6 < 0.1 < shares[1]


# Messages


def test_wrong_shapes_are_named() -> None:
    norm = LorentzBatchNorm2d(N, manifold=Lorentz())
    for size in ((2, 3, 4, 4), (2, N, 4), (2, N)):
        with pytest.raises(ValueError, match=r"x of shape .* must be \(B, 4, H, W\)"):
            norm(torch.randn(*size))
    with pytest.raises(ValueError, match="has no dispersion; use more images per batch"):
        norm(torch.randn(1, N, 1, 1))
    assert norm.eval()(torch.randn(1, N, 1, 1)).isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_features": 0}, "num_features=0 must be an integer >= 1"),
        ({"dispersion": "variance"}, "dispersion='variance' must be one of 'mean_distance', 'rms', 'per_channel'"),
        ({"centroid": "twostage"}, r"centroid='twostage'.*Did you mean two_stage"),
        ({"coordinates": "time"}, "coordinates='time' must be one of 'space', 'ambient'"),
        ({"momentum": 0.0}, r"momentum=0.0 must lie in \(0, 1\]"),
        ({"momentum": 1.5}, r"momentum=1.5 must lie in \(0, 1\]"),
    ],
)
def test_wrong_arguments_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LorentzBatchNorm2d(**{"num_features": N, "manifold": Lorentz(), **options})


def test_what_it_is_is_printed() -> None:
    assert "4, dispersion=rms, centroid=joint" in repr(norm_of(dispersion="rms", centroid="joint"))

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytorch_metric_learning import losses as pml
from torch import Tensor
from torch.testing import assert_close

from hyplearn.losses import NormalizedSoftmax, ProxyAnchor, ProxyNCA, ProxyNCAPlusPlus, SoftTriple
from hyplearn.losses.class_proxies import ClassProxyLoss
from hyplearn.manifolds import Lorentz, PoincareBall
from hyplearn.nn.space import Space
from tests.support.loss_zoo import CLASSES, LABELS, SIZES, WITH_PROXIES, built, points_of, spaces_of, vectors_of

Similarities = Callable[[Tensor, Tensor], Tensor]


def cosine(x: Tensor, p: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x, dim=1) @ torch.nn.functional.normalize(p, dim=1).mT


def points(kind: str) -> list[Tensor]:
    return [x.detach() for x in points_of(vectors_of(kind, dtype=torch.float64), spaces_of(kind))]


def proxy_anchor(s: Tensor, labels: list[int], alpha: float, delta: float) -> float:
    """As printed by Kim et al. 2020, Eq. 4; s: (B, C)."""
    present, total = set(labels), 0.0
    for c in range(s.shape[1]):
        pos = sum(math.exp(-alpha * (s[i, c].item() - delta)) for i, y in enumerate(labels) if y == c)
        neg = sum(math.exp(alpha * (s[i, c].item() + delta)) for i, y in enumerate(labels) if y != c)
        total += math.log1p(pos) / len(present) * (c in present) + math.log1p(neg) / s.shape[1]
    return total


@pytest.mark.parametrize("kind", ["sphere", "poincare", "two"])
def test_proxy_anchor_is_its_definition(kind: str) -> None:
    spaces, x = spaces_of(kind), points(kind)
    loss = ProxyAnchor(spaces=spaces, sizes=SIZES[kind], num_classes=10).double()
    blocks = loss.vectors.detach().split(SIZES[kind], 1)
    weights = [space.weight.item() for space in spaces]
    s = sum(w * cosine(a, p) for w, a, p in zip(weights, x, blocks, strict=True)) / sum(weights)
    assert isinstance(s, Tensor)
    expected = proxy_anchor(s, LABELS.tolist(), 32, 0.1)  # 10 proxies, 8 classes present
    assert loss(x, LABELS, spaces).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("temperature", [1 / 9, 0.5])
def test_proxy_nca_pp_is_its_definition(temperature: float) -> None:
    spaces, (x,) = spaces_of("sphere"), points("sphere")
    loss = ProxyNCAPlusPlus(spaces=spaces, sizes=[5], num_classes=CLASSES, temperature=temperature).double()
    squared = torch.cdist(x, torch.nn.functional.normalize(loss.rho.detach(), dim=1)).square()
    expected = 0.0
    for row, label in zip(squared.tolist(), LABELS.tolist(), strict=True):
        total = sum(math.exp(-d / temperature) for d in row)
        expected -= math.log(math.exp(-row[label] / temperature) / total) / len(LABELS)
    assert loss([x], LABELS, spaces).item() == pytest.approx(expected, rel=1e-6)


def test_proxy_nca_pp_is_pml_proxy_nca_at_the_inverse_scale_but_keeps_every_sample() -> None:
    spaces, x = spaces_of("sphere"), points("sphere")
    options: Any = {"spaces": spaces, "sizes": [5], "num_classes": CLASSES}
    for inverse, equal in ((9.0, True), (600.0, False)):
        theirs = ProxyNCA(**options, softmax_scale=inverse)
        ours = ProxyNCAPlusPlus(**options, temperature=1 / inverse)
        with torch.no_grad():
            theirs.vectors.copy_(ours.vectors)
        values = [each([x[0].float()], LABELS, spaces).item() for each in (theirs, ours)]
        assert (values[0] == pytest.approx(values[1], rel=1e-4)) is equal


def test_soft_triple_and_normalized_softmax_on_the_sphere_are_those_of_pml() -> None:
    spaces, (x,) = spaces_of("sphere"), points("sphere")
    options: Any = {"spaces": spaces, "sizes": [5], "num_classes": CLASSES}
    pairs: list[tuple[ClassProxyLoss, Any, str]] = [
        (SoftTriple(**options, centers_per_class=3), pml.SoftTripleLoss(CLASSES, 5, centers_per_class=3), "fc"),
        (NormalizedSoftmax(**options), pml.NormalizedSoftmaxLoss(CLASSES, 5), "W"),
        (ProxyAnchor(**options), pml.ProxyAnchorLoss(CLASSES, 5), "proxies"),
    ]
    for ours, theirs, name in pairs:
        ours.double()
        getattr(theirs, name).data = ours.vectors.detach().clone()
        expected = theirs(x, LABELS)
        value = ours([x], LABELS, spaces)
        assert_close(value, expected)
        (gradient,) = torch.autograd.grad(value, ours.vectors)
        assert_close(gradient, torch.autograd.grad(expected, getattr(theirs, name))[0], atol=1e-10, rtol=1e-7)


@pytest.mark.parametrize("kind", ["poincare", "lorentz"])
def test_proxies_of_a_geometry_are_points_at_the_distance_to_which_embeddings_are_compared(kind: str) -> None:
    (space,), (x,) = spaces_of(kind), points(kind)
    loss = ProxyNCAPlusPlus(spaces=[space], sizes=[5], num_classes=CLASSES, similarity="geometry", scale=4.6).double()
    half = 2 if kind == "poincare" else 1
    p = space.manifold.expmap0(space.manifold.rescale0(loss.rho.detach() / half))
    expected = torch.nn.functional.cross_entropy(-2 * space.manifold.cdist(x, p) / 4.6 * 9, LABELS)
    assert_close(loss([x], LABELS, [space]), expected)


@pytest.mark.parametrize("manifold", [PoincareBall, Lorentz])
@pytest.mark.parametrize("length", [0.0, 1e-3, 10.0, 1e4])
def test_proxies_of_any_length_are_finite_points_for_any_curvature(manifold: Any, length: float) -> None:
    for c in (0.05, 20.0):
        space = Space(manifold(c, learned=False))
        loss = ProxyAnchor(spaces=[space], sizes=[5], num_classes=CLASSES, similarity="geometry")
        with torch.no_grad():
            loss.vectors.mul_(length)
        value = loss([torch.zeros(24, 5)], LABELS, [space])
        assert value.isfinite()
        assert torch.autograd.grad(value, loss.vectors)[0].isfinite().all()


@pytest.mark.parametrize("kind", ["poincare", "lorentz", "euclidean"])
def test_proxies_of_a_geometry_start_near_the_radius_of_the_embeddings(kind: str) -> None:
    (space,) = spaces_of(kind)
    for name in WITH_PROXIES:
        loss = built(name, kind, [space], similarity="geometry", scale=4.6)
        assert isinstance(loss, ClassProxyLoss)
        rows = loss._rows(loss.vectors.detach())
        assert rows.norm(dim=1).square().mean().sqrt().item() == pytest.approx(0.9 * 4.6, rel=0.35)


def test_class_proxies_are_one_group_and_the_only_parameters() -> None:
    for name in WITH_PROXIES:
        loss = built(name, "two", spaces_of("two"))
        assert isinstance(loss, ClassProxyLoss)
        assert list(loss.parameters()) == [loss.vectors]
        assert loss.proxies() == {"class_proxies": [loss.vectors]}
        assert "num_classes=8" in repr(loss)


def test_wrong_sizes_labels_and_temperatures_are_named() -> None:
    spaces, x = spaces_of("sphere"), points("sphere")
    options: Any = {"spaces": spaces, "sizes": [5], "num_classes": 5}
    with pytest.raises(ValueError, match=r"labels in \[0, 7\] must lie in \[0, 5\)"):
        ProxyAnchor(**options)(x, LABELS, spaces)
    with pytest.raises(ValueError, match=r"points have sizes \[4\], the proxies \[5\]"):
        ProxyAnchor(**options)([x[0][:, :4]], LABELS % 5, spaces)
    with pytest.raises(ValueError, match=r"temperature=0.0 must be > 0"):
        NormalizedSoftmax(**options, temperature=0.0)
    with pytest.raises(ValueError, match=r"temperature=-1.0 must be > 0"):
        ProxyNCAPlusPlus(**options, temperature=-1.0)
    with pytest.raises(ValueError, match="num_classes=0 must be >= 1"):
        ProxyNCAPlusPlus(spaces=spaces, sizes=[5], num_classes=0)
    with pytest.raises(ValueError, match=r"sizes=\[5, 5\] must name one size"):
        ProxyAnchor(spaces=spaces, sizes=[5, 5], num_classes=5)

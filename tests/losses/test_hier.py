from __future__ import annotations

import functools
import math
import pickle
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from hyplearn.losses import HIER, HierarchicalLoss, hier
from hyplearn.losses.base import EmbeddingLoss
from hyplearn.losses.hier import hierarchical
from hyplearn.losses.triplets import Triplets
from hyplearn.manifolds import Euclidean, Lorentz, Manifold, ManifoldParameter, PoincareBall, Sphere
from hyplearn.nn.space import Space
from hyplearn.optim import RiemannianAdamW, parameter_groups

CURVED = {"lorentz": Lorentz, "poincare": PoincareBall}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_triplets(points: int, count: int, seed: int = 0) -> Triplets:
    ranks = torch.rand(count, points, generator=seeded(seed)).argsort(1)
    return Triplets(*ranks[:, :3].T)


def distances_to_proxies(points: int, proxies: int, seed: int = 0) -> Tensor:
    return (2 + 0.2 * torch.rand(points, proxies, dtype=torch.float64, generator=seeded(seed))).requires_grad_()


def by_autograd(
    distances: Tensor, triplets: Triplets, tau: float, margin: float, masked: bool, generator: torch.Generator
) -> Tensor:
    """Eq. 6 with the straight-through trick as it is usually written: hard + soft - soft.detach()."""
    d_i, d_j, d_k = (distances[index] for index in triplets.indices)
    uniform = torch.rand(len(d_i), 2, d_i.shape[1], dtype=distances.dtype, generator=generator)
    chosen = []
    for which, farthest in enumerate((torch.maximum(d_i, d_j), torch.stack([d_i, d_j, d_k]).max(0).values)):
        soft = (-farthest / tau - (-uniform[:, which].log()).log()).softmax(1)
        hard = torch.nn.functional.one_hot(soft.argmax(1), soft.shape[1]).to(soft)
        chosen.append(hard + soft - soft.detach())
    near, far = chosen
    value = torch.zeros(len(d_i), dtype=distances.dtype)
    for d, sign in ((d_i, 1), (d_j, 1), (d_k, -1)):
        value = value + torch.relu(sign * ((near * d).sum(1) - (far * d).sum(1)) + margin)
    if masked:
        value = value * (near.argmax(1) != far.argmax(1))
    return value.mean()


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("margin", [0.02, 0.1])
@pytest.mark.parametrize("block", [1 << 18, 60])
def test_value_and_gradient_are_those_of_autograd(
    masked: bool, margin: float, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hier, "BLOCK", block)  # 60: blocks of 3 triplets
    distances, triplets = distances_to_proxies(12, 20), random_triplets(12, 100)
    options: Any = {"tau": 0.1, "margin": margin, "masked": masked}
    ours = hierarchical(distances, triplets, **options, generator=seeded(1))
    expected = by_autograd(distances, triplets, **options, generator=seeded(1))
    assert ours.item() > 0
    assert_close(ours, expected)
    assert_close(*(torch.autograd.grad(3 * value, distances)[0] for value in (ours, expected)))


def test_value_for_ancestors_that_are_certain() -> None:
    """Two proxies: one near points 0 and 1, one that is the only tolerable one for point 2."""
    distances = torch.tensor([[0.5, 2.0], [0.7, 2.5], [9.0, 1.0]], dtype=torch.float64)
    triplet = Triplets(*(torch.tensor([i]) for i in range(3)))
    value = hierarchical(distances, triplet, tau=1e-3, margin=2.0, masked=True, generator=seeded())
    expected = (0.5 - 2.0 + 2.0) + (0.7 - 2.5 + 2.0) + max(0.0, 1.0 - 9.0 + 2.0)
    assert value.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("masked", "worth"), [(True, 0.0), (False, 0.3)])
def test_coinciding_ancestors_are_worth_nothing_or_three_margins(masked: bool, worth: float) -> None:
    distances, triplets = distances_to_proxies(8, 1), random_triplets(8, 5)
    value = hierarchical(distances, triplets, tau=0.1, margin=0.1, masked=masked, generator=seeded())
    assert value.item() == pytest.approx(worth)
    (gradient,) = torch.autograd.grad(value, distances)
    assert_close(gradient, torch.zeros_like(gradient), atol=1e-12, rtol=0)


def test_ancestors_are_drawn_as_the_softmax_of_the_logits_says() -> None:
    """Eq. 6 without margin for one triplet counts how often its two ancestors were proxies 0 and 1, or 1 and 0."""
    distances = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.9, 1.0]], dtype=torch.float64)
    count, tau = 40_000, 1.0
    triplets = Triplets(*(torch.full((count,), i) for i in range(3)))
    value = hierarchical(distances, triplets, tau=tau, margin=0.0, masked=True, generator=seeded())
    pair, triplet = (math.exp(-a / tau) / (math.exp(-a / tau) + math.exp(-1 / tau)) for a in (0.0, 0.9))
    # proxy 0 then 1: hinges of i and j are 0, of k 1.0 - 0.9; proxy 1 then 0: of i and j 1 each
    expected = pair * (1 - triplet) * 0.1 + (1 - pair) * triplet * 2.0
    assert value.item() == pytest.approx(expected, rel=0.03)


def test_without_triplets_the_term_is_zero_with_a_finite_gradient() -> None:
    distances = torch.full((4, 3), math.inf, requires_grad=True)
    empty = Triplets(*(torch.zeros(0, dtype=torch.long),) * 3)
    value = hierarchical(distances, empty, tau=0.1, margin=0.1, masked=True, generator=seeded())
    assert value.item() == 0
    assert_close(torch.autograd.grad(value, distances)[0], torch.zeros(4, 3))


def test_equal_distances_have_a_finite_gradient() -> None:
    distances = torch.zeros(6, 4, requires_grad=True)
    value = hierarchical(distances, random_triplets(6, 9), tau=0.1, margin=0.1, masked=False, generator=seeded())
    (gradient,) = torch.autograd.grad(value, distances)
    assert gradient.isfinite().all()


def hyperbolic(kind: str, *, c: float = 0.1, learned: bool = False) -> Space:
    return Space(CURVED[kind](c, learned=learned, bounds=(0.05, 20.0)))


def cloud(space: Space, count: int = 24, n: int = 6, seed: int = 0) -> Tensor:
    """Points about as far out as a clip of 2.3 puts them, with gradient."""
    v = torch.randn(count, n, generator=seeded(seed))
    scale = 4.0 if isinstance(space.manifold, Lorentz) else 2.0
    points: Tensor = space.manifold.expmap0(scale * torch.nn.functional.normalize(v, dim=1))
    return points.detach().requires_grad_()


LABELS = torch.arange(24) % 8


def small(space: Space, **options: Any) -> HIER:
    return HIER(spaces=[space], sizes=[6], **{"proxies": 32, "topk": 6, "triplets": 10, **options})


@pytest.mark.parametrize("kind", CURVED)
@pytest.mark.parametrize("parametrization", ["manifold", "tangent"])
def test_the_loss_is_the_sum_of_its_two_terms(kind: str, parametrization: Any) -> None:
    space = hyperbolic(kind)
    loss, x = small(space, parametrization=parametrization), cloud(space)
    value = loss([x], LABELS, [space], generator=seeded(1))
    generator, rho = seeded(1), loss.points().detach()
    total = 0.0
    for nodes, labels in ((x.detach(), LABELS), (rho, None)):
        among, below = space.distance(nodes, nodes), space.distance(nodes, rho)
        triplets = hier.reciprocal_triplets(among, labels, topk=6, per_anchor=10, generator=generator)
        assert len(triplets.anchor) > 0
        total += by_autograd(below, triplets, tau=0.1, margin=0.1, masked=True, generator=generator).item()
    assert value.item() == pytest.approx(total, rel=1e-4)
    gradients = torch.autograd.grad(value, [x, loss.rho])
    assert all(g.isfinite().all() and g.abs().sum() > 0 for g in gradients)


@pytest.mark.parametrize("kind", CURVED)
@pytest.mark.parametrize("parametrization", ["manifold", "tangent"])
def test_proxies_start_at_the_radius_of_the_authors(kind: str, parametrization: Any) -> None:
    space = hyperbolic(kind)
    loss = HIER(spaces=[space], sizes=[128], proxies=512, parametrization=parametrization, clip=100.0)
    radii = loss.manifold.dist0(loss.points())
    assert radii.mean().item() == pytest.approx(4.13, abs=0.03)


@pytest.mark.parametrize("kind", CURVED)
def test_tangent_proxies_are_clipped_and_their_gradient_is_riemannian(kind: str) -> None:
    space, gradients = hyperbolic(kind), []
    for riemannian in (False, True):
        torch.manual_seed(0)
        loss = small(space, parametrization="tangent", riemannian=riemannian)
        with torch.no_grad():
            loss.rho[0] *= 10
        assert loss.manifold.dist0(loss.points()[0]).item() == pytest.approx(4.6, abs=1e-4)
        points = loss.points()
        points.retain_grad()
        loss.manifold.dist0(points).square().sum().backward()
        gradients.append(points.grad)
    plain, scaled = gradients
    assert plain is not None
    assert_close(scaled, loss.manifold.egrad2rgrad(points.detach(), plain))


def test_rescaled_proxies_are_what_distances_are_taken_to() -> None:
    space = hyperbolic("lorentz")
    x = cloud(space)
    plain, rescaled = small(space), small(space, rescale=True)
    with torch.no_grad():
        plain.rho.copy_(space.manifold.rescale(rescaled.rho))
    values = [loss([x], LABELS, [space], generator=seeded()) for loss in (plain, rescaled)]
    assert_close(*values)


def test_the_first_hyperbolic_space_is_used() -> None:
    spaces = [Space(Sphere()), hyperbolic("poincare"), hyperbolic("lorentz")]
    loss = HIER(spaces=spaces, sizes=[3, 6, 4], proxies=32, topk=6)
    assert loss.rho.shape == (32, 6)
    assert loss.manifold is spaces[1].manifold
    x = cloud(spaces[1])
    value = loss([torch.zeros(24, 3), x, torch.zeros(24, 4)], LABELS, spaces, generator=seeded())
    alone = HIER(spaces=spaces[1:2], sizes=[6], proxies=32, topk=6)
    with torch.no_grad():
        alone.rho.copy_(loss.rho)
    assert_close(value, alone([x], LABELS, spaces[1:2], generator=seeded()))


@pytest.mark.parametrize("manifold", [Sphere(), Euclidean()])
def test_without_a_hyperbolic_space_the_way_out_is_named(manifold: Manifold) -> None:
    with pytest.raises(ValueError, match="none hyperbolic; HIER needs a lorentz or poincare space: choose"):
        HIER(spaces=[Space(manifold)], sizes=[4])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"proxies": 0}, "proxies=0 must be > 0"),
        ({"tau": -1.0}, r"tau=-1.0 must be > 0"),
        ({"topk": 0}, "topk=0 must be > 0"),
        ({"triplets": 0}, "triplets=0 must be > 0"),
        ({"margin": math.nan}, "margin=nan must be >= 0"),
        ({"clip": 0.0}, r"clip=0.0 must be > 0"),
        ({"parametrization": "ball"}, "parametrization='ball' must be one of 'manifold', 'tangent'"),
    ],
)
def test_values_out_of_range_are_named(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(hyperbolic("lorentz"), **option)


def test_a_missing_generator_and_a_foreign_space_are_named() -> None:
    space = hyperbolic("lorentz")
    loss, x = small(space), cloud(space)
    with pytest.raises(ValueError, match="generator=None: HIER draws"):
        loss([x], LABELS, [space])
    with pytest.raises(ValueError, match="another manifold object"):
        loss([x], LABELS, [hyperbolic("lorentz")], generator=seeded())


@pytest.mark.parametrize("kind", CURVED)
def test_the_loss_is_a_function_of_the_generator(kind: str) -> None:
    space = hyperbolic(kind)
    loss, x = small(space), cloud(space)
    first, again, different = (loss([x], LABELS, [space], generator=seeded(s)).item() for s in (0, 0, 1))
    assert first == again != different


def test_labels_steer_the_triplets_only_with_the_boost() -> None:
    space = hyperbolic("lorentz")
    loss, blind, x = small(space), small(space, label_boost=False), cloud(space)
    with torch.no_grad():
        blind.rho.copy_(loss.rho)
    values = [
        [each([x], labels, [space], generator=seeded()).item() for labels in (LABELS, LABELS.roll(5) // 2)]
        for each in (loss, blind)
    ]
    assert values[0][0] != values[0][1]
    assert values[1][0] == values[1][1]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_batch_too_small_for_triplets_is_no_error(count: int) -> None:
    space = hyperbolic("lorentz")
    x = cloud(space, count)
    value = small(space)([x], LABELS[:count], [space], generator=seeded())
    assert torch.autograd.grad(value, x)[0].isfinite().all()


@pytest.mark.parametrize("kind", CURVED)
def test_coincident_embeddings_have_a_finite_gradient(kind: str) -> None:
    space = hyperbolic(kind)
    x = cloud(space, 1).detach().repeat(24, 1).requires_grad_()
    loss = small(space)
    value = loss([x], LABELS, [space], generator=seeded())
    assert all(g.isfinite().all() for g in torch.autograd.grad(value, [x, loss.rho]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(dtype: torch.dtype) -> None:
    space = hyperbolic("poincare")
    loss, x = small(space), cloud(space)
    plain = loss([x], LABELS, [space], generator=seeded())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss([x], LABELS, [space], generator=seeded())
    assert value.dtype == torch.float32
    assert_close(value, plain)
    half = x.to(dtype)
    assert_close(
        loss([half], LABELS, [space], generator=seeded()), loss([half.float()], LABELS, [space], generator=seeded())
    )


@pytest.mark.parametrize("kind", CURVED)
@pytest.mark.parametrize("parametrization", ["manifold", "tangent"])
def test_a_few_steps_with_learned_curvature_reduce_the_loss(kind: str, parametrization: Any) -> None:
    space = hyperbolic(kind, c=0.5, learned=True)
    loss, x = small(space, parametrization=parametrization, rescale=True), cloud(space).detach()
    optimizer = RiemannianAdamW(parameter_groups(torch.nn.ModuleList([space, loss]), lr=0.1, curvature_lr=1e-2))
    before = space.c
    values = []
    for _ in range(30):
        optimizer.zero_grad()
        value = loss([x], LABELS, [space], generator=seeded())
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert sum(values[-5:]) < 0.9 * sum(values[:5])
    assert space.c != before
    loss.manifold.assert_check_point_on_manifold(loss.points())


def test_manifold_proxies_are_points_in_the_state_dict() -> None:
    space = hyperbolic("lorentz")
    loss, other = small(space), small(space)
    assert isinstance(loss.rho, ManifoldParameter)
    assert loss.proxies() == {"hierarchical_proxies": [loss.rho]}
    other.load_state_dict(loss.state_dict())
    assert_close(other.rho.detach(), loss.rho.detach())
    assert pickle.loads(pickle.dumps(loss)).rho.shape == (32, 6)
    assert "proxies=32" in repr(loss)


class Radius(EmbeddingLoss):
    """A base loss with a proxy of its own."""

    least_per_class, equal_per_class = 2, True

    def __init__(self, *, num_classes: int, power: float) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(num_classes))
        self.power = power

    def compute(
        self, points: Sequence[Tensor], labels: Tensor, spaces: Sequence[Space], *, generator: torch.Generator | None
    ) -> Tensor:
        return (points[0].norm(dim=1) ** self.power * self.weight[labels]).mean()

    def proxies(self) -> dict[str, list[torch.nn.Parameter]]:
        return {"class_proxies": [self.weight]}

    def distance_weights(self, spaces: Sequence[Space]) -> tuple[float, ...]:
        return (7.0,)


def test_the_hierarchical_loss_is_the_weighted_sum() -> None:
    space = hyperbolic("lorentz")
    x = cloud(space)
    loss = HierarchicalLoss(
        spaces=[space],
        sizes=[6],
        num_classes=8,
        base=functools.partial(Radius, power=2.0),
        hier=functools.partial(HIER, proxies=32, topk=6),
        lambda_metric=2.0,
        lambda_hier=0.5,
    )
    parts = [part([x], LABELS, [space], generator=seeded()).item() for part in (loss.base, loss.hier)]
    value = loss([x], LABELS, [space], generator=seeded())
    assert value.item() == pytest.approx(2 * parts[0] + 0.5 * parts[1], rel=1e-6)
    assert set(loss.proxies()) == {"class_proxies", "hierarchical_proxies"}
    assert loss.distance_weights([space]) == (7.0,)
    assert (loss.least_per_class, loss.equal_per_class) == (2, True)
    with pytest.raises(ValueError, match=r"lambda_hier=-1.0 must be >= 0"):
        HierarchicalLoss(spaces=[space], sizes=[6], num_classes=8, base=Radius, hier=HIER, lambda_hier=-1.0)


def test_neighbours_that_are_everybody_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    spaces = [Space(Lorentz(c=0.5))]
    HIER(spaces=spaces, sizes=(3,), proxies=8, topk=4).check(spaces, batch_size=12)
    assert not caplog.records
    HIER(spaces=spaces, sizes=(3,), proxies=4, topk=4).check(spaces, batch_size=3)
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "topk=4 covers all 3 points of the batch",
        "topk=4 covers all 4 points of the proxies",
    ]

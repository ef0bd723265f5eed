"""Necks against their formulas in float64: where points lie, which gradients they get, what a manifold fits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mpmath
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from hyplearn.geometry.isometry import lorentz_to_poincare
from hyplearn.geometry.lorentz import X_T_MAX
from hyplearn.manifolds import CurvatureParameter, Lorentz, Manifolds, PoincareBall
from hyplearn.models.necks import Branch, BranchHead, Head, LorentzHead, LorentzNeck, Neck, clipped
from hyplearn.nn import monitor
from hyplearn.nn.poincare_gradient import riemannian_gradient
from hyplearn.nn.space import numbered

C = 0.1
AT_CLIP = math.tanh(2.3 * math.sqrt(C)) / math.sqrt(C)  # 1.9651196; the reference divides by |u| + 1e-5: 1.965117
MIX = {"sphere": Branch("sphere"), "ball": Branch("poincare", weight=3.0)}


def ball(c: float = C, **options: Any) -> Manifolds:
    return Manifolds("poincare", c=c, **{"learned": False, "bounds": (1e-3, 20.0), **options})


def hyperboloid(c: float = 1.0, **options: Any) -> Manifolds:
    return Manifolds("lorentz", c=c, **{"bounds": (1e-3, 20.0), **options})


def head_of(neck: Neck | LorentzNeck, manifolds: Manifolds | None, *, features: int = 6) -> Head:
    """In float64, so that a formula is checked and not its rounding."""
    return neck.build(features, manifolds).double()


def features(*shape: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def neck(kind: str | None, **options: Any) -> Neck:
    return Neck(size=4, branches={"only": Branch(kind)}, **options)


# Where points lie


def test_the_linear_layer_is_orthogonal_without_bias() -> None:
    for size, rows in ((6, 4), (3, 4)):
        linear = neck("sphere").build(size, None).linear
        small = linear.weight if size > rows else linear.weight.mT
        assert_close(small @ small.mT, torch.eye(len(small)), atol=1e-5, rtol=0)
        assert not linear.bias.any()


def test_sphere() -> None:
    head, z = head_of(neck("sphere"), None), features(5, 6)
    (x,) = head(z)
    u = z @ head.linear.weight.mT
    assert_close(x, u / u.square().sum(1, keepdim=True).sqrt())


def test_ball_by_definition() -> None:
    head, z = head_of(neck("poincare", clip=2.3), ball()), features(20, 6, scale=1.5)
    u = z @ head.linear.weight.mT
    lengths = u.norm(dim=1)
    assert lengths.min() < 2.3 < lengths.max()
    for x, vector in zip(head(z)[0].tolist(), u.tolist(), strict=True):
        length = mpmath.norm(vector)
        reach = mpmath.tanh(mpmath.sqrt(C) * min(length, 2.3)) / mpmath.sqrt(C)
        assert x == pytest.approx([float(reach * value / length) for value in vector], rel=1e-6)


def test_anchors_of_the_published_setting() -> None:
    manifold = PoincareBall(C, bounds=(1e-3, 20.0))
    unit, far = torch.tensor([[0.6, 0.8]]), torch.tensor([[30.0, 40.0]])
    of_unit, of_far = (manifold.expmap0(clipped(u, "poincare", manifold, 2.3)) for u in (unit, far))
    assert of_unit.norm().item() == pytest.approx(0.967948, abs=1e-6)
    assert manifold.dist0(of_unit).item() == pytest.approx(2.0, rel=1e-6)
    assert of_far.norm().item() == pytest.approx(AT_CLIP, rel=1e-6)
    assert manifold.dist0(of_far).item() == pytest.approx(4.6, rel=1e-6)
    assert manifold.dist(of_far, -of_far).item() == pytest.approx(9.2, rel=1e-6)


@pytest.mark.parametrize("c", [0.01, 0.1, 1.0])
def test_the_hyperboloid_gets_the_isometric_points(c: float) -> None:
    first, second = head_of(neck(None, clip=2.3), ball(c)), head_of(neck(None, clip=2.3), hyperboloid(c))
    second.linear.load_state_dict(first.linear.state_dict())
    z = features(9, 6, scale=2)
    assert_close(lorentz_to_poincare(second(z)[0], c=c), first(z)[0], rtol=1e-6, atol=1e-8)


def test_points_stay_where_the_precision_holds_them() -> None:
    """At c = 20 the clip of 2.3 is beyond d_max: antipodal points at 4.6 have 1 - c |x|^2 below the resolution."""
    head = neck("poincare", clip=2.3).build(6, ball(20.0))
    (x,) = head(features(50, 6, scale=100).float())
    manifold = head.spaces[0].manifold
    assert (20 * x.square().sum(1)).max() < 1
    assert manifold.dist0(x).max() <= math.acosh(2e3 * 20**0.5) / 20**0.5 * (1 + 1e-3)
    assert_close(manifold.cdist(x, x).diagonal(), torch.zeros(50))


def test_euclidean_branch_is_the_linear_layer() -> None:
    head, z = head_of(neck("euclidean"), None), features(5, 6)
    assert_close(head(z)[0], head.linear(z))


def test_mix_of_unit_vectors_is_a_function_of_the_cosine() -> None:
    head, z = head_of(Neck(size=4, branches=MIX, clip=2.3, branch_input="unit"), ball()), features(5, 6, scale=9)
    on_sphere, in_ball = head(z)
    assert_close(on_sphere.norm(dim=1), torch.ones(5).double())
    assert_close(in_ball, on_sphere * math.tanh(math.sqrt(C)) / math.sqrt(C), rtol=1e-6, atol=0)
    cosine = on_sphere @ on_sphere.mT
    expected = torch.acosh((1 + math.sinh(2 * math.sqrt(C)) ** 2 * (1 - cosine)).clamp_min(1)) / math.sqrt(C)
    apart = ~torch.eye(5, dtype=torch.bool)
    assert_close(head.spaces[1].distance(in_ball, in_ball)[apart], expected[apart], rtol=1e-6, atol=0)


def test_mix_of_two_radii() -> None:
    head, z = head_of(Neck(size=4, branches=MIX, clip=2.3), ball()), features(5, 6)
    on_sphere, in_ball = head(z)
    assert in_ball.norm(dim=1).std() > 0.1
    assert_close(in_ball / in_ball.norm(dim=1, keepdim=True), on_sphere)


def test_features_are_normalised_before_they_branch() -> None:
    z = features(5, 6, scale=3)
    for kind, expected in (
        ("l2", z / z.norm(dim=1, keepdim=True)),
        ("layer_norm", (z - z.mean(1, keepdim=True)) / (z.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()),
    ):
        head = head_of(neck("euclidean", normalize=kind), None)
        assert_close(head(z)[0], head.linear(expected))


def test_many_geometries_with_curvatures_and_weights_of_their_own() -> None:
    branches = {
        "a": Branch("poincare", weight=2.0, learned=True),
        "b": Branch("poincare", c=1.0),
        "c": Branch("lorentz", c=0.5, weight=0.5),
        "d": Branch("sphere"),
        "gone": None,
        "e": Branch("euclidean"),
    }
    head = Neck(size=4, branches=branches, clip=2.3).build(6, ball(learned=True))
    assert list(head.named_spaces()) == ["poincare", "poincare2", "lorentz", "sphere", "euclidean"]
    assert head.sizes == (4,) * 5
    assert [space.c for space in head.spaces] == [
        pytest.approx(0.1),
        pytest.approx(1.0),
        pytest.approx(0.5),
        None,
        None,
    ]
    assert [space.weight.item() for space in head.spaces] == pytest.approx([2, 1, 0.5, 1, 1])
    assert [space.log_weight is not None for space in head.spaces] == [True, False, False, False, False]
    assert sum(isinstance(p, CurvatureParameter) for p in head.parameters()) == 3
    points = head(features(3, 6).float())
    total = sum(s.weight * s.distance(x, x).sum() for x, s in zip(points, head.spaces, strict=True))
    total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
    assert head.spaces[0].log_weight.grad != 0


def test_names_are_numbered() -> None:
    assert numbered(["a", "b", "a", "a"]) == ["a", "b", "a2", "a3"]


# Gradients


@pytest.mark.parametrize(
    "made",
    [
        lambda: head_of(neck("sphere"), None),
        lambda: head_of(neck("poincare", clip=2.3), ball(learned=True)),
        lambda: head_of(neck("lorentz", clip=2.3), hyperboloid()),
        lambda: head_of(neck("poincare"), ball()),
        lambda: head_of(Neck(size=4, branches=MIX, clip=2.3, branch_input="unit"), ball()),
        lambda: head_of(neck("poincare", clip=2.3, normalize="layer_norm", riemannian_gradient=True), ball()),
        lambda: head_of(neck("poincare", normalize="l2"), ball()),
        lambda: head_of(LorentzNeck(size=4), hyperboloid()),
        lambda: head_of(LorentzNeck(size=4, linear="original", entry="exp0"), hyperboloid()),
        lambda: head_of(LorentzNeck(size=4, clip=4.6), hyperboloid()),
    ],
)
def test_gradients_are_finite_at_zero_and_far_out(made: Callable[[], Head]) -> None:
    for scale in (0.0, 1e-12, 1.0, 1e6):
        head, z = made(), features(5, 6, scale=scale).requires_grad_()
        points = head(z)
        assert all(x.isfinite().all() for x in points)
        sum((x * features(*x.shape)).sum() for x in points).backward()
        assert z.grad is not None and z.grad.isfinite().all()
        assert all(p.grad is None or p.grad.isfinite().all() for p in head.parameters())


def test_gradient_by_differences() -> None:
    for made in (
        neck("poincare", clip=2.3),
        neck("lorentz", clip=2.3),
        LorentzNeck(size=4),
        LorentzNeck(size=4, clip=3),
    ):
        lorentz = isinstance(made, LorentzNeck) or made.branches["only"] == Branch("lorentz")
        head = head_of(made, hyperboloid(0.5) if lorentz else ball(0.5))
        assert torch.autograd.gradcheck(lambda z, head=head: head(z), features(3, 6, scale=0.7).requires_grad_())


def test_beyond_the_clip_nothing_pulls_back() -> None:
    manifold = PoincareBall(C, bounds=(1e-3, 20.0))
    for length, radial in ((2.2, True), (2.4, False), (1e4, False)):
        u = (length * torch.tensor([[0.6, 0.8, 0.0]])).double().requires_grad_()
        manifold.expmap0(clipped(u, "poincare", manifold, 2.3)).square().sum().backward()
        assert (u.grad.abs().max() > 1e-3) == radial  # of |x|^2, which only the radius moves
        across = torch.tensor([[0.0, 0.0, 1.0]]).double()
        u.grad = None
        (manifold.expmap0(clipped(u, "poincare", manifold, 2.3)) * across).sum().backward()
        assert u.grad[0, 2] > 0
        assert_close(u.grad[0, :2], torch.zeros(2).double(), atol=1e-15, rtol=0)


def test_riemannian_gradient() -> None:
    c = torch.tensor(C, dtype=torch.float64, requires_grad=True)
    x = torch.tensor([[1.965117, 0.0], [0.0, 0.0], [0.3, 0.4]], dtype=torch.float64, requires_grad=True)
    g = features(3, 2)
    same = riemannian_gradient(x, c=c)
    assert torch.equal(same, x)
    same.backward(g)
    factors = x.grad / g
    assert_close(factors[:, 0], factors[:, 1])
    assert factors[0, 0].item() == pytest.approx(0.094197, abs=1e-6)
    assert factors[1, 0].item() == 0.25
    assert factors[2, 0].item() == pytest.approx(((1 - C * 0.25) / 2) ** 2)
    assert c.grad is None


def test_two_heads_keep_their_own_curvature_in_the_gradient() -> None:
    """The reference holds c for the backward pass at the class: the last one built wins."""
    z = features(5, 6)
    grads = []
    for others in ([], [2.0]):
        torch.manual_seed(3)
        head = head_of(neck("poincare", clip=2.3, riemannian_gradient=True), ball())
        for c in others:
            head_of(neck("poincare", clip=2.3, riemannian_gradient=True), ball(c))(z)
        head(z)[0].sum().backward()
        grads.append(head.linear.weight.grad)
    plain = head_of(neck("poincare", clip=2.3), ball())
    plain.load_state_dict(head.state_dict())
    plain(z)[0].sum().backward()
    assert torch.equal(*grads)
    assert not torch.allclose(grads[0], plain.linear.weight.grad)


# LHIER


@pytest.mark.parametrize("linear", ["rotation_boost", "original"])
def test_lorentz_neck_step_by_step(linear: str) -> None:
    head, z = head_of(LorentzNeck(size=4, linear=linear), hyperboloid(0.5)), features(5, 6, scale=3)
    assert isinstance(head, LorentzHead)
    manifold = Lorentz(0.5, x_t_max=X_T_MAX[torch.float32]).double()  # of the family, whatever computes it
    normed = (z - z.mean(1, keepdim=True)) / (z.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    entered = manifold.rescale0(normed)
    if linear == "original":
        expected = manifold.rescale(head.linear(entered))
    else:
        y = entered @ head.linear.weight.mT
        y = manifold.rescale(y * (entered.norm(dim=1) / y.norm(dim=1)).unsqueeze(1))  # Eq. 5 keeps the norm
        expected = manifold.rescale(manifold.boost(y, head.linear.boost.point()))
    assert_close(head(z)[0], expected, rtol=1e-6, atol=1e-8)


def test_lorentz_neck_reaches_the_radius_that_hier_starts_from() -> None:
    """384 features and 128 numbers at c = 1: the distance of every point to the origin is near HIER's 4.1 to 4.6."""
    head = LorentzNeck(size=128).build(384, hyperboloid())
    (x,) = head(torch.randn(20, 384))
    assert head.spaces[0].manifold.dist0(x).sub(4.2).abs().max() < 0.2


def test_lorentz_neck_with_a_clip_in_place_of_rescaling() -> None:
    head, z = head_of(LorentzNeck(size=4, linear="original", clip=1.5), hyperboloid(0.5)), features(30, 6, scale=3)
    (x,) = head(z)
    manifold = head.spaces[0].manifold
    unclipped = head.linear(head.enter(torch.nn.functional.layer_norm(z, (6,))))
    lengths = manifold.dist0(unclipped)
    assert lengths.min() < 1.5 < lengths.max()
    assert_close(manifold.dist0(x), lengths.clamp_max(1.5), rtol=1e-6, atol=0)
    assert_close(x / x.norm(dim=1, keepdim=True), unclipped / unclipped.norm(dim=1, keepdim=True))


# Readings and precision


def test_the_share_of_clipped_points_is_read() -> None:
    head, z = head_of(Neck(size=4, branches=MIX, clip=2.3), ball()), features(40, 6, scale=1.2)
    with monitor.record() as readings:
        head(z)
    share = (head.linear(z).norm(dim=1) > 2.3).double().mean().item()
    assert 0.1 < share < 0.9
    assert readings == {"clipped/poincare": pytest.approx(share)}
    unit = head_of(Neck(size=4, branches=MIX, clip=2.3, branch_input="unit"), ball())
    with monitor.record() as readings:
        unit(z)
    assert readings == {"clipped/poincare": 0.0}


def test_hier_starts_with_every_point_at_the_clip() -> None:
    head = Neck(size=128, branches={"b": Branch("poincare")}, clip=2.3, normalize="layer_norm").build(384, ball())
    with monitor.record() as readings:
        (x,) = head(torch.randn(30, 384))
    assert readings == {"clipped/poincare": 1.0}
    assert_close(x.norm(dim=1), torch.full((30,), AT_CLIP), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("made", "family"),
    [
        (Neck(size=4, branches=MIX, clip=2.3), ball),
        (Neck(size=4, branches={"a": Branch("poincare")}, clip=2.3, normalize="layer_norm"), ball),
        (LorentzNeck(size=4), hyperboloid),
        (LorentzNeck(size=4, linear="original"), hyperboloid),
    ],
)
def test_points_are_the_same_under_autocast(made: Any, family: Callable[[], Manifolds], dtype: torch.dtype) -> None:
    head, z = made.build(6, family()), features(5, 6).to(dtype)
    with torch.autocast("cpu", dtype):
        points = head(z)
    for x, exact in zip(points, head(z.float()), strict=True):
        assert x.dtype == torch.float32
        assert torch.equal(x, exact)


# What does not go together


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: neck("poincare", clip=0.0), "clip=0.0 must be > 0: 0 would put every point at the origin"),
        (lambda: LorentzNeck(size=4, clip=-1.0), "clip=-1.0 must be > 0"),
        (lambda: Neck(size=0, branches=MIX), "size=0"),
        (lambda: LorentzNeck(size=0), "size=0"),
        (lambda: Neck(size=4, branches={}), "branches must name at least one"),
        (lambda: Neck(size=4, branches={"a": None}), "branches must name at least one"),
        (lambda: neck("poincare", normalize="l1"), r"normalize='l1' must be one of 'none', 'l2', 'layer_norm'"),
        (lambda: neck("poincare", branch_input="units"), "Did you mean unit"),
        (lambda: neck("poincar"), "Did you mean poincare"),
        (lambda: Branch("sphere", c=1.0), "a branch of kind sphere has no curvature"),
        (lambda: LorentzNeck(size=4, linear="boost"), "linear='boost' must be one of"),
        (lambda: LorentzNeck(size=4, entry="exp"), "entry='exp' must be one of"),
        (lambda: neck("sphere").build(6, ball()), "manifold=poincare: its curvature would be ignored.*manifold=sphere"),
        (lambda: neck("poincare").build(6, hyperboloid()), "manifold=lorentz.*use manifold=poincare_embedding"),
        (lambda: neck("lorentz").build(6, ball()), "manifold=poincare.*use manifold=lorentz_embedding"),
        (lambda: neck("poincare").build(6, Manifolds("sphere")), "manifold=sphere gives no curvature.*=poincare_emb"),
        (lambda: neck("poincare").build(6, None), "manifold=euclidean gives no curvature.*=poincare_embedding"),
        (lambda: neck("sphere", clip=2.3).build(6, None), "clip=2.3 is for points of a hyperbolic space.*clip=null"),
        (lambda: neck("lorentz", riemannian_gradient=True).build(6, hyperboloid()), "riemannian_gradient=false"),
        (lambda: LorentzNeck(size=4).build(6, ball()), "manifold=poincare: a Lorentz neck needs manifold=lorentz_emb"),
        (lambda: LorentzNeck(size=4).build(6, None), "manifold=euclidean: a Lorentz neck needs"),
        (lambda: Neck(size=4, branches={"a": Branch("poincare", c=99.0)}).build(6, ball()), "c=99.0 must lie in"),
        (lambda: Neck(size=4, branches={"a": Branch("poincare", weight=0.0)}).build(6, ball()), "weight=0.0"),
    ],
)  # fmt: skip
def test_what_does_not_go_together(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_branch_without_kind_is_of_the_manifold() -> None:
    families = {"poincare": ball(), "lorentz": hyperboloid(), "sphere": Manifolds("sphere"), "euclidean": None}
    for name, family in families.items():
        assert list(neck(None).build(6, family).named_spaces()) == [name]
    assert isinstance(neck(None).build(6, None), BranchHead)

from __future__ import annotations

import pytest
import torch
from pytorch_metric_learning.distances import CosineSimilarity, LpDistance
from torch.testing import assert_close

from hyplearn.losses import ProxyAnchor
from hyplearn.losses.adapter import Form, SpaceDistance, side_by_side
from hyplearn.nn.space import Space
from tests.support.loss_zoo import LABELS, SIZES, ZOO, built, points_of, seeded, spaces_of, vectors_of

KINDS = list(SIZES)


def matrix(form: Form, kind: str, similarity: str = "geometry", scale: float = 4.6) -> torch.Tensor:
    spaces = spaces_of(kind)
    x, sizes = side_by_side(points_of(vectors_of(kind, dtype=torch.float64), spaces))
    distance = SpaceDistance(form, similarity=similarity, scale=scale)  # type: ignore[arg-type]
    with distance.over(spaces, sizes):
        return distance(x, x[:7])


def embedded(kind: str) -> torch.Tensor:
    return side_by_side(points_of(vectors_of(kind, dtype=torch.float64), spaces_of(kind)))[0]


@pytest.mark.parametrize("similarity", ["cosine", "geometry"])
def test_on_the_sphere_the_forms_are_those_of_pml(similarity: str) -> None:
    x = embedded("sphere")
    assert_close(matrix("similarity", "sphere", similarity), CosineSimilarity()(x, x[:7]))
    assert_close(matrix("length", "sphere", similarity), LpDistance()(x, x[:7]), atol=1e-7, rtol=1e-7)
    assert_close(matrix("square", "sphere", similarity), LpDistance(power=2)(x, x[:7]), atol=1e-12, rtol=1e-9)
    assert_close(2 * matrix("share", "sphere", similarity), LpDistance(power=2)(x, x[:7]), atol=1e-12, rtol=1e-9)


def test_in_flat_space_the_length_is_that_of_pml() -> None:
    x = embedded("euclidean")
    assert_close(matrix("length", "euclidean", scale=1.0), LpDistance(normalize_embeddings=False)(x, x[:7]))


@pytest.mark.parametrize("kind", ["poincare", "lorentz"])
def test_in_a_hyperbolic_space_all_forms_follow_from_the_geodesic_distance(kind: str) -> None:
    (space,), x = spaces_of(kind), embedded(kind)
    u = space.distance(x, x[:7]) / 4.6
    for form, expected in (("similarity", 1 - u), ("share", u.clamp(max=2)), ("square", 2 * u), ("length", u)):
        assert_close(matrix(form, kind), expected)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["poincare", "lorentz", "euclidean"])
def test_the_cosine_is_of_directions_whatever_the_space(kind: str) -> None:
    x = embedded(kind)
    assert_close(matrix("similarity", kind, "cosine"), CosineSimilarity()(x, x[:7]))


def test_two_spaces_are_fused_by_their_weights() -> None:
    spaces = spaces_of("two")
    x, y = embedded("two").split(SIZES["two"], 1)
    expected = (1 * (1 - x @ x[:7].mT) + 3 * spaces[1].distance(y, y[:7]) / 4.6) / 4
    assert_close(matrix("square", "two"), 2 * expected)
    assert_close(matrix("length", "two"), expected)
    cosines = [torch.nn.functional.normalize(z) for z in (x, y)]
    assert_close(
        matrix("similarity", "two", "cosine"), sum(w * z @ z[:7].mT for w, z in zip((1, 3), cosines, strict=True)) / 4
    )


def test_antipodes_at_the_scale_have_similarity_minus_one() -> None:
    (space,) = spaces_of("poincare")
    x = space.manifold.expmap0(torch.tensor([[2.3, 0.0], [-2.3, 0.0]], dtype=torch.float64))
    distance = SpaceDistance("similarity", similarity="geometry", scale=4.6)
    with distance.over([space], [2]):
        assert_close(distance(x), torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("similarity", ["cosine", "geometry"])
def test_fusion_ranks_as_the_distance_that_is_trained(kind: str, similarity: str) -> None:
    spaces = spaces_of(kind)
    loss = built("margin", kind, spaces, similarity=similarity)
    weights = loss.distance_weights(spaces)
    expected = [s.weight.item() / (2 if s.name == "sphere" or similarity == "cosine" else 4.6) for s in spaces]
    assert weights == pytest.approx(expected)
    if similarity == "geometry":
        blocks = embedded(kind).split(SIZES[kind], 1)
        fused = sum(w * s.distance(x, x[:7]) for w, s, x in zip(weights, spaces, blocks, strict=True))
        assert isinstance(fused, torch.Tensor)
        assert torch.equal(matrix("length", kind).argsort(1), fused.argsort(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"similarity": "euclid"}, "similarity='euclid' must be one of 'cosine', 'geometry'"),
        ({"scale": 0.0}, r"scale=0.0 must be > 0: the radius"),
    ],
)
def test_values_out_of_range_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProxyAnchor(spaces=spaces_of("sphere"), sizes=[5], num_classes=3, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("similarity", ["cosine", "geometry"])
def test_every_loss_in_every_geometry_is_finite_and_falls(name: str, kind: str, similarity: str) -> None:
    spaces = spaces_of(kind)
    if name == "memory":
        loss = built(name, kind, spaces).train()
        loss.base.distance.similarity = similarity  # type: ignore[union-attr,assignment]
    else:
        loss = built(name, kind, spaces, similarity=similarity)
    vectors = vectors_of(kind)
    proxies = [p for group in loss.proxies().values() for p in group]
    values = []
    for step in range(12):
        value = loss(points_of(vectors, spaces), LABELS, spaces, generator=seeded())
        gradients = torch.autograd.grad(value, [*vectors, *proxies])
        assert value.shape == () and value.isfinite()
        assert all(g.isfinite().all() for g in gradients)
        if step == 0:
            assert all(g.abs().sum() > 0 for g in gradients)
        values.append(value.item())
        with torch.no_grad():
            for parameter, gradient in zip([*vectors, *proxies], gradients, strict=True):
                parameter -= 0.05 * gradient / gradient.norm().clamp_min(1e-6) * parameter.norm() / 4
    assert min(values[-3:]) < values[0] - 1e-3


@pytest.mark.parametrize("name", [name for name in ZOO if name != "memory"])
@pytest.mark.parametrize("kind", KINDS)
def test_coincident_embeddings_have_a_finite_gradient(name: str, kind: str) -> None:
    spaces = spaces_of(kind)
    loss = built(name, kind, spaces, similarity="geometry")
    vectors = [v.detach()[:1].repeat(24, 1).requires_grad_() for v in vectors_of(kind)]
    value = loss(points_of(vectors, spaces), LABELS, spaces, generator=seeded())
    assert all(g.isfinite().all() for g in torch.autograd.grad(value, vectors, allow_unused=False))


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("labels", [torch.zeros(6, dtype=torch.int64), torch.arange(6)], ids=["one", "all"])
def test_batches_of_one_class_or_of_all_different_ones_are_no_error(name: str, labels: torch.Tensor) -> None:
    spaces = spaces_of("lorentz")
    vectors = vectors_of("lorentz", 6)
    value = built(name, "lorentz", spaces)(points_of(vectors, spaces), labels, spaces, generator=seeded())
    assert value.isfinite()
    assert torch.autograd.grad(value, vectors)[0].isfinite().all()


@pytest.mark.parametrize("name", ZOO)
def test_autocast_and_half_precision_points_give_a_float32_loss(name: str) -> None:
    spaces = spaces_of("poincare")
    points = [x.detach() for x in points_of(vectors_of("poincare"), spaces)]
    plain = built(name, "poincare", spaces)(points, LABELS, spaces, generator=seeded())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = built(name, "poincare", spaces)(points, LABELS, spaces, generator=seeded())
    assert_close(value, plain)
    assert (
        built(name, "poincare", spaces)([points[0].bfloat16()], LABELS, spaces, generator=seeded()).dtype == plain.dtype
    )


@pytest.mark.parametrize("name", ZOO)
def test_the_state_goes_to_another_instance_and_holds_no_spaces(name: str) -> None:
    spaces = spaces_of("two")
    loss = built(name, "two", spaces)
    points = [x.detach() for x in points_of(vectors_of("two"), spaces)]
    loss(points, LABELS, spaces, generator=seeded())
    assert not any(isinstance(module, Space) for module in loss.modules())
    other = built(name, "two", spaces)
    for p in other.parameters():
        p.data.zero_()
    other.load_state_dict(loss.state_dict())
    values = [each(points, LABELS, spaces, generator=seeded()) for each in (loss, other)]
    assert_close(*values)

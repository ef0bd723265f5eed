"""The pairwise loss against its definition written as loops, and the reading of Eq. 10 behind the published tables."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.testing import assert_close

from hyplearn.losses import PairwiseCrossEntropy
from hyplearn.losses.pairwise import from_code_convention, to_code_convention
from hyplearn.manifolds import Euclidean, Lorentz, Manifold, PoincareBall, Sphere
from hyplearn.nn.space import Space

F64 = torch.float64
MANIFOLDS = {
    "sphere": Sphere,
    "euclidean": Euclidean,
    "poincare": lambda: PoincareBall(0.1, learned=False),
    "lorentz": lambda: Lorentz(0.7, learned=False),
}


def manifold(name: str) -> Manifold:
    made: Manifold = MANIFOLDS[name]()
    return made


def unit(*size: int, dtype: torch.dtype = F64) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(*size, dtype=dtype), dim=-1)


def embedding(name: str, *size: int, dtype: torch.dtype = F64) -> Tensor:
    x = unit(*size, dtype=dtype)
    return x if name == "sphere" else manifold(name).expmap0(1.3 * x)  # type: ignore[operator, no-any-return]


def distance(space: Space, x: Tensor, y: Tensor) -> float:
    """The distances of Yue Eqs. 2 and 5, one pair at a time."""
    if space.name == "sphere":
        return float((x - y).square().sum())
    return float(space.manifold.dist(x, y))


def by_definition(slots: Sequence[Sequence[int]], exponent: Tensor) -> list[float]:
    """The losses of all anchors of all ordered pairs of slots, from slots[a][i] and exponent (B, B) = -D / tau."""
    losses, classes = [], len(slots)
    for i in range(len(slots[0])):
        for j in range(len(slots[0])):
            if i == j:
                continue
            for a in range(classes):
                row = exponent[slots[a][i]]
                terms = [math.exp(row[slots[a][j]])]
                for b in range(classes):
                    if b != a:
                        terms += [math.exp(row[slots[b][j]]), math.exp(row[slots[b][i]])]
                assert len(terms) == 2 * classes - 1
                losses.append(-math.log(terms[0] / sum(terms)))
    return losses


def batch(m: int, classes: int) -> tuple[Tensor, list[list[int]]]:
    """Labels in no order, and the places of the images of each class."""
    labels = torch.arange(classes).repeat(m)[torch.randperm(m * classes)] * 7 - 3
    return labels, [(labels == label).nonzero().flatten().tolist() for label in labels.unique()]


@pytest.mark.parametrize("m", [2, 3, 4])
@pytest.mark.parametrize(
    "names", [("sphere",), ("poincare",), ("sphere", "poincare"), ("euclidean", "lorentz", "sphere")]
)
@pytest.mark.parametrize("reduction", ["pairs_sum", "mean", "sum", "m2"])
def test_loss_is_its_definition(names: tuple[str, ...], m: int, reduction: str) -> None:
    labels, slots = batch(m, 5)
    taus = [0.3, 0.2, 0.4][: len(names)]
    spaces = [Space(manifold(name), weight=1.0 + s).double() for s, name in enumerate(names)]
    points = [embedding(name, 5 * m, 6) for name in names]
    exponent = torch.zeros(5 * m, 5 * m, dtype=F64)
    for p in range(5 * m):
        for q in range(5 * m):
            parts = zip(spaces, points, taus, strict=True)
            exponent[p, q] = -sum(s.weight.item() * distance(s, x[p], x[q]) / tau for s, x, tau in parts)
    losses = by_definition(slots, exponent)
    pairs = m * (m - 1)
    expected = {
        "pairs_sum": sum(losses) / 5,
        "mean": sum(losses) / (5 * pairs),
        "sum": sum(losses),
        "m2": sum(losses) / (5 * m**2),
    }[reduction]
    got = PairwiseCrossEntropy(tau=taus, reduction=reduction)(points, labels, spaces)  # type: ignore[arg-type]
    assert_close(got.item(), expected, rtol=1e-11, atol=0)


def test_one_temperature_stands_for_all_spaces() -> None:
    labels, _ = batch(2, 4)
    spaces, points = [Space(Sphere()), Space(manifold("lorentz"))], [embedding(n, 8, 3) for n in ("sphere", "lorentz")]
    assert_close(
        PairwiseCrossEntropy(tau=0.3)(points, labels, spaces),
        PairwiseCrossEntropy(tau=[0.3, 0.3])(points, labels, spaces),
    )


@pytest.mark.parametrize("name", list(MANIFOLDS))
@pytest.mark.parametrize(("m", "classes"), [(2, 7), (9, 4)])
def test_equal_embeddings_leave_the_logarithm_of_the_number_of_terms(name: str, m: int, classes: int) -> None:
    """2 N - 1 terms (Yue Section 3.1); the gradient is that of equal distances: finite, without NaN."""
    points = embedding(name, 1, 5, dtype=torch.float32).repeat(m * classes, 1).requires_grad_()
    loss = PairwiseCrossEntropy(tau=0.2, reduction="mean")(
        [points], torch.arange(classes).repeat(m), [Space(manifold(name))]
    )
    assert_close(loss.item(), math.log(2 * classes - 1), rtol=1e-6, atol=0)
    assert torch.autograd.grad(loss, points)[0].isfinite().all()


@pytest.mark.parametrize("names", [("sphere",), ("lorentz",), ("sphere", "poincare")])
def test_gradients_of_points_temperatures_weights_and_curvature(names: tuple[str, ...]) -> None:
    labels, _ = batch(3, 3)
    spaces = [Space(manifold(name), weight=1.5, learned=True).double() for name in names]
    if names[-1] == "lorentz":
        spaces = [Space(Lorentz(0.7, learned=True), learned=True).double()]
    loss = PairwiseCrossEntropy(tau=[0.4] * len(names), learned_tau=True).double()
    parameters = [*loss.parameters(), *(p for space in spaces for p in space.parameters())]
    points = [embedding(name, 9, 3).requires_grad_() for name in names]

    def function(*inputs: Tensor) -> Tensor:
        value: Tensor = loss(inputs[: len(names)], labels, spaces)
        return value

    assert gradcheck(function, (*points, *parameters))
    gradients = torch.autograd.grad(function(*points), parameters)
    assert all(gradient.ne(0).all() for gradient in gradients)


def test_learned_temperatures_are_one_parameter_and_fixed_ones_none() -> None:
    learned, fixed = PairwiseCrossEntropy(tau=[0.1, 0.2], learned_tau=True), PairwiseCrossEntropy(tau=[0.1, 0.2])
    assert [tuple(p.shape) for p in learned.parameters()] == [(2,)]
    assert not list(fixed.parameters()) and not fixed.state_dict()
    assert_close(learned.tau, fixed.tau)
    assert repr(fixed) == "PairwiseCrossEntropy(tau=(0.1, 0.2), convention='distance', reduction='pairs_sum')"
    assert repr(learned) == "PairwiseCrossEntropy(learned tau=(0.1, 0.2), convention='distance', reduction='pairs_sum')"


def mix(t: tuple[float, ...] | float, lam: float, convention: str) -> float:
    """Of random unit vectors in both branches, as in the authors' code: N = 50, 128 coordinates, c = 0.1."""
    z = unit(100, 128, dtype=torch.float32)
    ball = PoincareBall(0.1, learned=False)
    loss = PairwiseCrossEntropy(tau=t, convention=convention, reduction="mean")  # type: ignore[arg-type]
    spaces = [Space(Sphere()), Space(ball, weight=lam)]
    value: Tensor = loss([z, ball.expmap0(z)], torch.arange(50).repeat(2), spaces)
    return value.item()


@pytest.mark.parametrize(("t_e", "t_h", "lam", "tau", "lam_10"), [(0.05, 0.2, 3, 0.1, 1.5), (0.05, 0.2, 8, 0.1, 4)])
def test_published_settings_as_equation_10(t_e: float, t_h: float, lam: float, tau: float, lam_10: float) -> None:
    assert from_code_convention(t_e, t_h, lam) == pytest.approx((tau, lam_10))
    values = []
    for setting in [((t_e, t_h), lam, "dot"), (tau, lam_10, "distance"), ((2 * t_e, t_h), lam, "distance")]:
        torch.manual_seed(0)
        values.append(mix(*setting))  # type: ignore[arg-type]
    assert values == pytest.approx([values[0]] * 3, rel=1e-5)


def test_equation_10_read_literally_is_another_loss() -> None:
    """With tau = 0.05 and lambda = 3, as Section 4.2 may be read: about 28 where the authors' code has about 10."""
    torch.manual_seed(0)
    code = mix((0.05, 0.2), 3.0, "dot")
    torch.manual_seed(0)
    literal = mix(0.05, 3.0, "distance")
    assert 9 < code < 11
    assert 26 < literal < 31


@pytest.mark.parametrize("tau", [0.05, 0.3])
@pytest.mark.parametrize("lam", [0.5, 3.0])
def test_conventions_are_inverse(tau: float, lam: float) -> None:
    assert from_code_convention(*to_code_convention(tau, lam)) == pytest.approx((tau, lam), rel=1e-12)


def test_dot_convention_halves_only_the_sphere() -> None:
    spaces = [Space(Sphere()), Space(manifold("poincare"), weight=3.0)]
    assert PairwiseCrossEntropy(tau=[0.05, 0.2], convention="dot").distance_weights(spaces) == pytest.approx((10, 15))
    assert PairwiseCrossEntropy(tau=[0.05, 0.2]).distance_weights(spaces) == pytest.approx((20, 15))
    assert PairwiseCrossEntropy(tau=0.1, learned_tau=True).distance_weights(spaces) == pytest.approx((10, 30))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_loss_is_float32_under_autocast(dtype: torch.dtype) -> None:
    labels, _ = batch(2, 6)
    points, spaces = [embedding("sphere", 12, 8).to(dtype)], [Space(Sphere())]
    expected = PairwiseCrossEntropy(tau=0.05)([points[0].float()], labels, spaces)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = PairwiseCrossEntropy(tau=0.05)(points, labels, spaces)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)


def test_far_points_do_not_overflow() -> None:
    """Antipodes at the clip radius, tau 0.05 and lambda 8: exponents of -1472."""
    ball = PoincareBall(0.1, learned=False)
    x = ball.expmap0(2.3 * unit(12, 4, dtype=torch.float32))
    x = torch.cat([x, -x]).requires_grad_()
    for labels in (torch.arange(12).repeat(2), torch.arange(12).repeat_interleave(2)):
        loss = PairwiseCrossEntropy(tau=0.05)([x], labels, [Space(ball, weight=8.0)])
        assert loss.isfinite()
        assert torch.autograd.grad(loss, x)[0].isfinite().all()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 0, 1, 1, 1], r"2 image\(s\) of class 0 and 3 of class 1"),
        ([4, 5, 6], r"1 image\(s\) of class 4"),
        ([0, 1, 1, 1], r"1 image\(s\) of class 0 and 3 of class 1"),
        ([3, 3], r"labels \[3\] are of one class"),
        ([], r"a batch without images"),
    ],
)
def test_batches_without_pairs_are_refused(labels: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PairwiseCrossEntropy()([unit(len(labels), 3)], torch.tensor(labels, dtype=torch.int64), [Space(Sphere())])


@pytest.mark.parametrize("tau", [0.0, -1.0, math.inf, math.nan, [], [0.1, 0.0]])
def test_impossible_temperatures_are_named(tau: float | list[float]) -> None:
    with pytest.raises(ValueError, match=r"tau=.* must be > 0"):
        PairwiseCrossEntropy(tau=tau)


def test_wrong_options_are_named() -> None:
    with pytest.raises(ValueError, match=r"convention='cos' must be one of 'distance', 'dot'"):
        PairwiseCrossEntropy(convention="cos")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"reduction='none' must be one of"):
        PairwiseCrossEntropy(reduction="none")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"tau=\[0.1, 0.2\] has 2 values for 1 space\(s\) \(sphere\)"):
        PairwiseCrossEntropy(tau=[0.1, 0.2]).distance_weights([Space(Sphere())])

"""Ways into the hyperboloid, out of it, and from one to another."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from hyplearn.manifolds import Lorentz
from hyplearn.nn import monitor
from hyplearn.nn.lift import Lift, Transfer, Unlift
from tests.support.gradients import random

CURVATURES = [0.05, 1.0, 20.0]


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("shape", [(5, 4), (2, 4, 3, 2)])
def test_lift_by_definition(c: float, shape: tuple[int, ...]) -> None:
    manifold, z = Lorentz(c).double(), 2 * random(*shape)
    limited = manifold.rescale0(z.movedim(1, -1))
    assert_close(Lift(manifold)(z), manifold.expmap0(limited).movedim(-1, 1))
    assert_close(Lift(manifold, kind="project")(z), limited.movedim(-1, 1))
    assert_close(Lift(manifold, kind="project", rescale=False)(z), z)
    assert_close(Lift(manifold, rescale=False)(z), manifold.expmap0(z.movedim(1, -1)).movedim(-1, 1))


@pytest.mark.parametrize("c", CURVATURES)
def test_rescaled_lift_keeps_direction_and_stays_within_reach(c: float) -> None:
    manifold, z = Lorentz(c), 1e3 * torch.randn(50, 6)
    x = Lift(manifold)(z)
    assert manifold.time(x).max() <= 2e3 * (1 + 1e-3)
    cosine = torch.nn.functional.cosine_similarity(x, z)
    assert_close(cosine, torch.ones(50))


def test_clip_shortens_only_what_is_longer() -> None:
    manifold, z = Lorentz(0.5).double(), torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]]).double()
    lift = Lift(manifold, kind="project", rescale=False, clip=1.0)
    assert_close(lift(z), torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]]).double())
    h = random(2, 4, 3, 3)
    assert_close(lift.of_relu(h), lift(torch.relu(h)))


@pytest.mark.parametrize("c", CURVATURES)
def test_unlift_is_the_inverse_of_exp0_and_can_take_the_space_part(c: float) -> None:
    manifold, z = Lorentz(c).double(), random(2, 4, 3, 2)
    x = Lift(manifold, rescale=False)(z)
    assert_close(Unlift(manifold)(x), z)
    assert_close(Unlift(manifold, kind="space")(x), x)


def test_transfer_keeps_the_distance_to_the_origin_without_rescaling() -> None:
    source, target = Lorentz(0.3).double(), Lorentz(5.0).double()
    x = random(2, 4, 3, 2)
    moved = Transfer(source, target, rescale=False)(x)
    assert_close(target.dist0(moved.movedim(1, -1)), source.dist0(x.movedim(1, -1)))
    limited = Transfer(source, target)(x).movedim(1, -1)
    assert_close(target.logmap0(limited), target.rescale0(source.logmap0(x.movedim(1, -1))))


def test_sites_are_read() -> None:
    manifold, far = Lorentz(), torch.full((2, 3), 500.0)
    with monitor.record() as readings:
        Lift(manifold)(far)
        Transfer(manifold, manifold)(far)
    assert set(readings) == {"rescaled/entry", "rescaled/transfer"}


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"kind='exp'.*Did you mean exp0"):
        Lift(Lorentz(), kind="exp")
    with pytest.raises(ValueError, match=r"kind='log'.*Did you mean log0"):
        Unlift(Lorentz(), kind="log")
    for clip in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=r"clip=.* must be > 0"):
            Lift(Lorentz(), clip=clip)


def test_what_they_are_is_printed() -> None:
    assert "kind=project, rescale=False, clip=2.0" in repr(Lift(Lorentz(), kind="project", rescale=False, clip=2.0))
    assert "kind=space" in repr(Unlift(Lorentz(), kind="space"))

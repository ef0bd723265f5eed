"""From Euclidean features to the ball."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from hyplearn.manifolds import PoincareBall
from hyplearn.nn.poincare_lift import PoincareLift
from tests.support.gradients import random

CURVATURES = [0.05, 0.1, 1.0, 20.0]


@pytest.mark.parametrize("c", CURVATURES)
def test_distance_is_twice_the_clipped_norm(c: float) -> None:
    ball, z = PoincareBall(c).double(), random(20, 4) * torch.linspace(0.05, 2, 20).unsqueeze(1) / c**0.5
    for clip in (None, c**-0.5):
        norms = z.norm(dim=-1) if clip is None else z.norm(dim=-1).clamp_max(clip)
        assert_close(ball.dist0(PoincareLift(ball, clip=clip)(z)), 2 * norms, rtol=1e-7, atol=0)


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_far_and_zero_features_are_points_with_finite_gradients(c: float, dtype: torch.dtype) -> None:
    ball = PoincareBall(c)
    z = torch.stack([torch.full((4,), 1e4), torch.zeros(4), torch.full((4,), 1e-6)]).to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype if dtype != torch.float32 else torch.bfloat16, enabled=dtype != torch.float32):
        x = PoincareLift(ball)(z)
    assert x.dtype == torch.float32
    assert (x.norm(dim=-1) < c**-0.5).all()
    x.sum().backward()
    assert z.grad.isfinite().all()


def test_wrong_clip_is_named() -> None:
    for clip in (0.0, -2.0):
        with pytest.raises(ValueError, match=r"clip=.* must be > 0, or None"):
            PoincareLift(PoincareBall(), clip=clip)
    assert "clip=2.0" in repr(PoincareLift(PoincareBall(), clip=2.0))

"""Triplets and miners by name, against what the words say, one triplet at a time."""

from __future__ import annotations

from itertools import product
from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hyplearn.losses import ArcFace, CrossBatchMemory, Triplet
from hyplearn.losses.miners import MinerName
from hyplearn.manifolds import PoincareBall, Sphere
from hyplearn.nn.space import Space

LABELS = torch.arange(12) % 4


def directions() -> Tensor:
    return F.normalize(torch.randn(12, 3, dtype=torch.float64), dim=1)


def one_by_one(d: Tensor, margin: float, miner: str) -> float:
    """The triplet loss of distances by loops."""
    n, found = len(d), []
    for a, p, q in product(range(n), repeat=3):
        if a == p or LABELS[a] != LABELS[p] or LABELS[a] == LABELS[q]:
            continue
        gap = (d[a, q] - d[a, p]).item()
        own = d[a][(LABELS[a] == LABELS) & (torch.arange(n) != a)]
        other = d[a][LABELS[a] != LABELS]
        hardest = d[a, p] == own.max() and d[a, q] == other.min()
        kept = {"all": True, "semi_hard": 0 < gap <= margin, "hard": gap <= 0, "batch_hard": bool(hardest)}
        if kept[miner] and margin > gap:
            found.append(margin - gap)
    return sum(found) / max(1, len(found))


@pytest.mark.parametrize("miner", ["all", "semi_hard", "hard", "batch_hard"])
@pytest.mark.parametrize("margin", [0.1, 0.4])
def test_a_miner_keeps_what_its_name_says(miner: MinerName, margin: float) -> None:
    x = directions()
    loss = Triplet(margin=margin, miner=miner).within(Sphere())
    assert loss(x, LABELS).item() == pytest.approx(one_by_one(torch.cdist(x, x), margin, miner), abs=1e-9)


@pytest.mark.parametrize("miner", get_args(MinerName))
def test_every_miner_sees_hyperbolic_distances_and_a_memory(miner: MinerName) -> None:
    ball = PoincareBall(0.1, learned=False)
    x = ball.expmap0(torch.randn(12, 3)).requires_grad_()
    loss = Triplet(margin=1.0, miner=miner, similarity="geometry").within(ball)
    assert torch.autograd.grad(loss(x, LABELS), x)[0].isfinite().all()
    memory = CrossBatchMemory(spaces=[Space(ball)], sizes=[3], base=lambda: loss, size=24)
    assert torch.autograd.grad(memory(x, LABELS), x)[0].isfinite().all()


def test_arcface_is_normalised_softmax_where_its_margin_is_0_and_larger_with_one() -> None:
    x = directions()
    made = {m: _arcface(m) for m in (0.0, 0.5)}
    made[0.5].load_state_dict(made[0.0].state_dict())
    cosines = x @ F.normalize(made[0.0].vectors.double(), dim=0)
    torch.testing.assert_close(made[0.0](x, LABELS), F.cross_entropy(64 * cosines, LABELS), atol=1e-5, rtol=1e-5)
    assert made[0.5](x, LABELS) > made[0.0](x, LABELS)


def _arcface(margin: float) -> ArcFace:
    torch.manual_seed(0)
    return ArcFace(spaces=[Space(Sphere())], sizes=[3], num_classes=4, margin=margin)


@pytest.mark.parametrize(("name", "value"), [("margin", -0.1), ("margin", 4.0), ("logit_scale", 0.0)])
def test_settings_that_are_no_angle_or_scale_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name}={value}"):
        ArcFace(spaces=[Space(Sphere())], sizes=[3], num_classes=4, **{name: value})

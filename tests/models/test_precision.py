"""`hecnn_r18` learns digits in half precision while its curvature moves fast: no NaN, the loss falls."""

from __future__ import annotations

import functools
import math

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor
from torch.optim import Optimizer

from hyplearn.optim import RiemannianAdamW, RiemannianSGD, parameter_groups
from tests.support.configured_models import model_of

CURVATURE_RATE = 0.1
DTYPES = [torch.bfloat16, torch.float16]
SGD, ADAMW = "RiemannianSGD", "RiemannianAdamW"
CASES = [(0.2, SGD), (1.0, ADAMW), (9.0, SGD), (0.2, ADAMW), (1.0, SGD), (9.0, ADAMW)]


@functools.cache
def digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's 1,797 images of 8 x 8 px, standardized."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1)
    return (images - images.mean()) / images.std(), torch.tensor(data.target)


def optimizer_of(name: str, model: torch.nn.Module) -> Optimizer:
    if name == SGD:
        groups = parameter_groups(
            model, lr=0.1, weight_decay=5e-4, manifold_lr_scale=0.2, curvature_lr=CURVATURE_RATE
        )  # fmt: skip
        return RiemannianSGD(groups, lr=0.1, momentum=0.9, nesterov=True)
    groups = parameter_groups(model, lr=1e-3, weight_decay=1e-2, curvature_lr=CURVATURE_RATE)
    return RiemannianAdamW(groups, lr=1e-3)


def train(c: float, optimizer: str, dtype: torch.dtype, *, steps: int) -> tuple[list[float], list[float]]:
    """Losses, and every curvature met on the way."""
    images, labels = digits()
    model = model_of("hecnn_r18", f"manifold.c={c}", image_size=8, in_channels=1, width=8)
    rule, scaler = optimizer_of(optimizer, model), torch.amp.GradScaler("cpu", enabled=dtype == torch.float16)
    generator, losses, curvatures = torch.Generator().manual_seed(0), [], []
    for _ in range(steps):
        batch = torch.randint(len(labels), (16,), generator=generator)
        with torch.autocast("cpu", dtype):
            loss = F.cross_entropy(model(images[batch]).float(), labels[batch])
        rule.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(rule)
        scaler.update()
        losses.append(loss.item())
        curvatures += [manifold.c.item() for manifold in model.manifolds().values()]
        assert math.isfinite(losses[-1]), f"step {len(losses)}: {losses[-5:]}, c = {curvatures[-2:]}"
    assert all(p.isfinite().all() for p in model.state_dict().values())
    return losses, curvatures


def check(c: float, optimizer: str, dtype: torch.dtype) -> None:
    losses, curvatures = train(c, optimizer, dtype, steps=500)
    assert sum(losses[-50:]) / 50 < 0.4 * sum(losses[:20]) / 20
    assert min(curvatures) >= 0.05 - 1e-6 and max(curvatures) <= 20 + 1e-4
    assert max(curvatures) / min(curvatures) > 1.2  # it moved


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("c", "optimizer"), CASES)
def test_first_steps_while_the_curvature_jumps(c: float, optimizer: str, dtype: torch.dtype) -> None:
    losses, _ = train(c, optimizer, dtype, steps=12)
    assert sum(losses[-4:]) < 1.5 * sum(losses[:4])


@pytest.mark.parametrize(("c", "optimizer", "dtype"), [(9.0, SGD, torch.bfloat16), (0.2, SGD, torch.float16)])
def test_500_steps(c: float, optimizer: str, dtype: torch.dtype) -> None:
    check(c, optimizer, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("c", "optimizer"), CASES)
def test_500_steps_from_every_curvature(c: float, optimizer: str, dtype: torch.dtype) -> None:
    check(c, optimizer, dtype)

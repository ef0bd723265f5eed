from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from hyplearn.geometry import tf32
from hyplearn.losses.base import EmbeddingLoss
from hyplearn.manifolds import Lorentz, PoincareBall, Sphere
from hyplearn.nn.linear import LorentzLinear
from hyplearn.nn.space import Space
from hyplearn.training.settings import TrainerSettings
from hyplearn.training.trainer import build_trainer


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.parametrize("allowed", [False, True])
def test_a_run_says_it_for_products_and_convolutions(allowed: bool, tmp_path: Any) -> None:
    build_trainer(TrainerSettings(accelerator="cpu", tf32=allowed), folder=tmp_path, callbacks=[])
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == (allowed, allowed)
    assert tf32.is_allowed() is allowed


def test_refused_ends_where_it_began_also_after_an_error() -> None:
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = True, False
    inside = []

    def fail() -> None:
        with tf32.refused():
            inside.append(tf32.is_allowed())
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fail()
    assert inside == [False]
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == (True, False)


def test_losses_refuse_it() -> None:
    seen = []

    class Noting(EmbeddingLoss):
        def compute(self, points: Any, labels: Tensor, spaces: Any, *, generator: Any) -> Tensor:
            seen.append(tf32.is_allowed())
            return points[0].sum()

    tf32.allow(True)
    Noting()([torch.ones(2, 3)], torch.tensor([0, 1]), [Space(Sphere())])
    assert seen == [False]
    assert tf32.is_allowed()


@pytest.mark.parametrize("manifold", [Lorentz(), PoincareBall()], ids=["lorentz", "poincare"])
def test_distances_refuse_it_on_the_way_there_and_back(manifold: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    product, add_product = torch.mm, Tensor.addmm_

    def noting(*args: Any, **kwargs: Any) -> Tensor:
        seen.append(tf32.is_allowed())
        return product(*args, **kwargs)

    def noting_too(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        seen.append(tf32.is_allowed())
        return add_product(self, *args, **kwargs)

    monkeypatch.setattr(torch, "mm", noting)
    monkeypatch.setattr(Tensor, "addmm_", noting_too)
    tf32.allow(True)
    x = manifold.expmap0(0.3 * torch.randn(5, 3)).requires_grad_()
    manifold.cdist(x, x).sum().backward()
    assert len(seen) >= 3
    assert not any(seen)


def test_a_compiled_layer_has_no_break_for_it() -> None:
    manifold = Lorentz()
    layer, x = LorentzLinear(4, 4, manifold=manifold), manifold.expmap0(0.3 * torch.randn(3, 4)).detach()
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    assert_close(compiled(x), layer(x))

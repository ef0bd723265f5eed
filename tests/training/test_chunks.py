"""A batch in chunks has the gradient of the whole batch, with dropout and under autocast."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from hyplearn.losses.pairwise import PairwiseCrossEntropy
from hyplearn.manifolds import Lorentz, Sphere
from hyplearn.nn.space import Space
from hyplearn.training.chunks import ChunkedBatch, RandomState, check_chunks


class TwoSpaces(nn.Module):
    """Dropout, a learned curvature that embedding and distance share, and a learned weight."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(0.4), nn.Linear(8, 4))
        self.spaces = nn.ModuleList([Space(Sphere()), Space(Lorentz(c=0.5), weight=2.0, learned=True)])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        z = self.layers(images)
        return nn.functional.normalize(z), self.spaces[1].manifold.expmap0(z)


def loss_of(model: TwoSpaces, points: tuple[Tensor, ...], labels: Tensor) -> Tensor:
    return PairwiseCrossEntropy(tau=0.3)(points, labels, list(model.spaces))


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


LABELS = torch.arange(4).repeat_interleave(3)


@pytest.mark.parametrize("chunk", [1, 4, 5, 11])
def test_the_gradient_is_that_of_one_graph_with_the_same_random_numbers(chunk: int) -> None:
    model, images = TwoSpaces().double(), torch.randn(12, 6).double()
    torch.manual_seed(3)
    parts = [model(part) for part in images.split(chunk)]  # one graph; dropout draws chunk by chunk
    loss_of(model, tuple(map(torch.cat, zip(*parts, strict=True))), LABELS).backward()
    expected = gradients(model)
    assert set(expected) == {name for name, _ in model.named_parameters()}

    model.zero_grad()
    torch.manual_seed(3)
    batch = ChunkedBatch(model, images, chunk, context=nullcontext)
    after_first_pass = torch.get_rng_state()
    loss_of(model, batch.points, LABELS).backward()
    batch.backward()
    assert_close(gradients(model), expected, rtol=1e-12, atol=1e-14)
    assert torch.equal(torch.get_rng_state(), after_first_pass)


def test_without_random_layers_it_is_that_of_the_undivided_batch() -> None:
    model, images = TwoSpaces().double().eval(), torch.randn(12, 6).double()
    loss_of(model, model(images), LABELS).backward()
    expected = gradients(model)
    model.zero_grad()
    batch = ChunkedBatch(model, images, 5, context=nullcontext)
    loss_of(model, batch.points, LABELS).backward()
    batch.backward()
    assert_close(gradients(model), expected, rtol=1e-10, atol=1e-13)


def test_every_pass_runs_in_the_precision_of_the_run() -> None:
    model, images = TwoSpaces(), torch.randn(12, 6)
    seen = []
    model.layers[0].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))

    def bf16() -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16)

    with bf16():  # the trainer is inside its context when it calls the step, and outside in the backward pass
        batch = ChunkedBatch(model, images, 5, context=bf16)
        loss = loss_of(model, batch.points, LABELS)
    loss.backward()
    batch.backward()
    assert seen == [torch.bfloat16] * 6


def test_random_streams_go_on_where_they_were() -> None:
    state = RandomState(torch.device("cpu"))
    first, now = torch.rand(3), torch.get_rng_state()
    with state.restored():
        assert torch.equal(torch.rand(3), first)
        torch.rand(5)
    assert torch.equal(torch.get_rng_state(), now)


def test_batch_statistics_do_not_go_with_chunks() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    with pytest.raises(ValueError, match=r"batch.chunk=8: 1 would normalise by statistics of a chunk"):
        check_chunks(model, 8)
    check_chunks(nn.Sequential(nn.LayerNorm(3)), 8)

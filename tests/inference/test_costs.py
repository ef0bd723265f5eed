from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from hyplearn.inference import costs
from hyplearn.optim.settings import ConstantSchedule, OptimSettings
from hyplearn.training.classification import ClassificationModule
from hyplearn.training.module import Optimization


class Loss(nn.CrossEntropyLoss):
    expects = "logits"


def step_of(network: nn.Module, batch: tuple[Tensor, Tensor], precision: str = "32") -> costs.TrainingStep:
    rates = OptimSettings(lr=0.1, weight_decay=0.0, curvature_lr=0.0, schedule=ConstantSchedule())
    optimization = Optimization(lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9), rates)
    module = ClassificationModule(network, Loss(), seed=0, optimization=optimization)
    return costs.TrainingStep(module, itertools.repeat(batch), precision=precision)


def test_every_round_calls_each_step_in_turn() -> None:
    calls: list[str] = []
    said: list[str] = []
    steps = {name: lambda name=name: calls.append(name) for name in "ab"}
    seconds = costs.interleave(steps, repeats=2, warmup=1, device="cpu", steps_per_round=2, progress=said.append)
    assert calls == ["a", "a", "b", "b"] * 3
    assert said == ["a", "b"] * 3
    assert [len(values) for values in seconds.values()] == [2, 2]
    assert all(value >= 0 for values in seconds.values() for value in values)


def test_a_step_trains() -> None:
    network = nn.Linear(4, 3)
    before = network.weight.detach().clone()
    batch = (torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1]))
    step = step_of(network, batch)
    first = step.module.loss(network(batch[0]), batch[1]).item()
    for _ in range(20):
        step()
    assert not torch.equal(network.weight, before)
    assert step.module.loss(network(batch[0]), batch[1]).item() < first


def test_mixed_precision_reaches_the_network() -> None:
    batch = (torch.randn(5, 4), torch.zeros(5, dtype=torch.long))
    assert step_of(nn.Linear(4, 3), batch, "bf16").forward(batch[0]).dtype == torch.bfloat16
    assert step_of(nn.Linear(4, 3), batch).forward(batch[0]).dtype == torch.float32


def test_bytes_that_stay_are_parameters_gradients_buffers_and_state() -> None:
    batch = (torch.randn(5, 4), torch.zeros(5, dtype=torch.long))
    step = step_of(nn.Linear(4, 3, bias=False), batch)
    others = costs.held_bytes(step.module.buffers())
    assert step.held_bytes() == 48 + others
    step()
    assert step.held_bytes() == 3 * 48 + others  # gradient and momentum


def test_a_storage_is_counted_once() -> None:
    x = torch.zeros(10)
    assert costs.held_bytes([x, x[:5], x.view(2, 5)]) == 40


def test_the_peak_of_a_step_is_what_it_holds_at_one_time() -> None:
    def step() -> None:
        a = torch.empty(100_000)
        b = torch.empty(50_000)
        del a
        c = torch.empty(25_000)
        del b, c

    assert costs.grown_bytes(step, "cpu") == pytest.approx(600_000, abs=1000)
    assert costs.peak_bytes(step, "cpu") == pytest.approx(600_000, abs=1000)


def test_the_peak_of_training_counts_gradients_once() -> None:
    """One layer of 4 MB and next to no features: weight, momentum, and one gradient with its product at the peak."""
    batch = (torch.randn(2, 1000), torch.zeros(2, dtype=torch.long))
    peak = step_of(nn.Linear(1000, 1000, bias=False), batch).peak_bytes()
    assert 3 * 4e6 <= peak < 4.5 * 4e6


def test_saved_bytes_are_those_that_backward_needs() -> None:
    x, w = torch.randn(100, 10), torch.randn(10, 10, requires_grad=True)
    assert costs.saved_bytes(lambda: (x @ w).relu().sum(), [w]) == 2 * 4000  # x, and what the ReLU gives


def test_counting_saved_bytes_keeps_none_of_them() -> None:
    x = torch.randn(1000, 1000, requires_grad=True)

    def forward() -> Tensor:
        return x.exp().sum()  # exp saves its own result

    assert costs.saved_bytes(forward, [x]) == 4_000_000
    before = costs.resident_bytes()
    for _ in range(20):
        costs.saved_bytes(forward, [x])
    assert costs.resident_bytes() - before < 40e6


def test_memory_of_the_machine() -> None:
    assert 1e6 < costs.resident_bytes() < 1e12
    free = costs.available_bytes()
    assert free is None or free > 1e6

"""Regions: off, the functions as written; on, few graphs for all layers, and never an error of the compiler."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from functorch.compile import make_boxed_func
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from hyplearn import regions
from hyplearn.manifolds import Lorentz
from hyplearn.nn import monitor
from hyplearn.nn.batchnorm import LorentzBatchNorm2d
from hyplearn.nn.block import LorentzBlock
from hyplearn.nn.conv import LorentzConv2d
from hyplearn.nn.residual import LorentzResidual
from tests.support.configured_models import model_of

VIEWS = (
    "view", "_unsafe_view", "expand", "permute", "transpose", "t", "slice", "select", "unsqueeze", "squeeze", "split",
    "split_with_sizes", "unbind", "detach", "alias", "as_strided", "diagonal", "_reshape_alias", "empty", "empty_like",
    "empty_strided", "new_empty", "new_empty_strided",
)  # fmt: skip


class Graphs:
    """A backend that runs graphs operation by operation: those of the forward passes and those of the backward ones."""

    def __init__(self) -> None:
        self.made: list[torch.fx.GraphModule] = []
        self.calls = self.inside = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        compile_it: Any = aot_autograd(fw_compiler=self._compile, bw_compiler=self._compile)
        return compile_it(graph, inputs)

    def _compile(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        self.made.append(graph)

        def run(*arguments: Any) -> Any:
            self.calls += 1
            self.inside += 1
            try:
                return graph(*arguments)
            finally:
                self.inside -= 1

        return make_boxed_func(run)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Graphs]:
    found = Graphs()
    torch.compiler.reset()
    regions._compiled.cache_clear()
    monkeypatch.setattr(regions, "BACKEND", found)
    monkeypatch.setattr(regions._switch, "failed", set())
    yield found
    torch.compiler.reset()
    regions._compiled.cache_clear()


@regions.region
def curve(x: Tensor, scale: float) -> Tensor:
    if x.dim() == 0:
        raise ValueError("x must be a vector")
    return torch.tanh(scale * x).sum() * x


@regions.region
def reads_values(x: Tensor) -> Tensor:
    return x + x.sum().item() if bool(x.sum() > 0) else x


def test_off_a_region_is_the_function_as_written(graphs: Graphs) -> None:
    x = torch.linspace(-1, 1, 7)
    assert torch.equal(curve(x, 2.0), torch.tanh(2.0 * x).sum() * x)
    with regions.compiled(on=False):
        curve(x, 2.0)
    assert graphs.made == []


def test_on_it_has_one_graph_for_all_sizes_and_the_same_gradients(graphs: Graphs) -> None:
    with regions.compiled():
        for size in (5, 8, 13):
            x = torch.linspace(-1, 1, size, dtype=torch.float64, requires_grad=True)
            (made,) = torch.autograd.grad(curve(x, 2.0).square().sum(), x)
            (expected,) = torch.autograd.grad((torch.tanh(2.0 * x).sum() * x).square().sum(), x)
            assert_close(made, expected)
    assert len(graphs.made) == 2, "one of the forward pass, one of the backward"
    assert not regions.is_on()


def test_what_the_compiler_cannot_do_runs_as_written_after_one_line_of_log(
    graphs: Graphs, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), regions.compiled():
        for _ in range(3):
            assert torch.equal(reads_values(torch.ones(3)), torch.full((3,), 4.0))
    (line,) = [record.getMessage() for record in caplog.records if "could not be compiled" in record.getMessage()]
    assert "reads_values" in line
    assert regions.failed() == [f"{__name__}.reads_values"]


def test_a_mistake_of_the_caller_is_no_failure_of_the_compiler(graphs: Graphs) -> None:
    with regions.compiled(), pytest.raises(ValueError, match="must be a vector"):
        curve(torch.tensor(1.0), 2.0)
    assert regions.failed() == []


def test_readings_are_given_by_layers_as_written(graphs: Graphs) -> None:
    model, images, _ = case("hecnn_r18")
    with regions.compiled(), monitor.record() as readings:
        assert not regions.is_on()
        model(images)
    assert any(name.startswith("rescaled/") for name in readings)
    assert graphs.made == []


def case(name: str, *, batch: int = 3, size: int = 16) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    model: nn.Module = model_of(name, image_size=size, width=4)
    images = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))
    return model, images, torch.arange(batch) % 5


def step(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    logits = model(images)
    F.cross_entropy(logits, labels).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"logits": logits.detach(), **gradients, **{name: b.clone() for name, b in model.named_buffers()}}


class Launches(TorchDispatchMode):
    """Counts operations outside of graphs that launch a kernel on a GPU."""

    def __init__(self, graphs: Graphs | None = None) -> None:
        super().__init__()
        self.graphs, self.counts = graphs, Counter[str]()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function._schema.name.split("::")[1]
        if name not in VIEWS and (self.graphs is None or not self.graphs.inside):
            self.counts[name] += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("residual", [False, True])
def test_a_block_in_regions_has_the_same_values_gradients_and_statistics(residual: bool, graphs: Graphs) -> None:
    made, expected = (block_step(residual, on=on) for on in (True, False))
    assert regions.failed() == []
    assert_close(made, expected, rtol=1e-8, atol=1e-11)
    assert 0 < len(graphs.made) <= 10


def block_step(residual: bool, *, on: bool) -> dict[str, Tensor]:
    torch.manual_seed(0)
    manifold = Lorentz(0.7)
    block = LorentzBlock(
        LorentzConv2d(4, 4, 3, padding=1, manifold=manifold),
        LorentzBatchNorm2d(4, manifold=manifold),
        residual=LorentzResidual(manifold) if residual else None,
    ).double()
    x = torch.randn(3, 4, 6, 5, dtype=torch.float64, requires_grad=True)
    with regions.compiled(on):
        out = block(x, x if residual else None)
        out.square().sum().backward()
    assert x.grad is not None
    gradients = {name: p.grad.clone() for name, p in block.named_parameters() if p.grad is not None}
    return {"out": out.detach(), "x": x.grad, **gradients, **{n: b.clone() for n, b in block.named_buffers()}}


class Budget(NamedTuple):
    """graphs: of one training step, forward and backward apart. calls: of these graphs in a step.

    outside: operations that launch a kernel beside them, against those of the Euclidean twin.
    """

    graphs: int
    calls: int
    outside: float


BUDGETS = {
    "hcnn_r18": Budget(graphs=38, calls=260, outside=1.7),
    "hecnn_r18": Budget(graphs=28, calls=200, outside=1.7),
    "poincare_resnet_r18": Budget(graphs=50, calls=260, outside=2.0),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BUDGETS)
def test_a_network_in_regions_has_the_same_values_gradients_and_statistics(name: str, graphs: Graphs) -> None:
    model, images, labels = case(name)
    twin, _, _ = case(name)
    model.double(), twin.double()
    with regions.compiled():
        made = step(model, images.double(), labels)
    assert regions.failed() == []
    assert_close(made, step(twin, images.double(), labels), rtol=1e-7, atol=1e-10)
    budget, before = BUDGETS[name], len(graphs.made)
    assert 0 < before <= budget.graphs
    with regions.compiled():
        step(model, torch.randn(4, 3, 24, 24, dtype=torch.float64), torch.arange(4))
    assert len(graphs.made) == before, "another batch and image size compiled anew"
    graphs.calls = 0
    with regions.compiled(), Launches(graphs) as launches:
        step(model, images.double(), labels)
    euclidean, _, _ = case("euclidean_r18")
    with Launches() as plain:
        step(euclidean, images, labels)
    print(name, before, graphs.calls, launches.counts.total(), plain.counts.total())
    assert 0 < graphs.calls <= budget.calls
    assert launches.counts.total() <= budget.outside * plain.counts.total(), launches.counts

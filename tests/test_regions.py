"""Regions: off, the functions as written; on, few graphs for all layers, and never an error of the compiler."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from functorch.compile import make_boxed_func
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch.testing import assert_close

from hyplearn import regions
from hyplearn.manifolds import Lorentz, ManifoldParameter
from hyplearn.nn import monitor
from hyplearn.nn.batchnorm import LorentzBatchNorm2d
from hyplearn.nn.block import LorentzBlock
from hyplearn.nn.conv import LorentzConv2d
from hyplearn.nn.residual import LorentzResidual
from hyplearn.optim import RiemannianAdam, RiemannianAdamW, RiemannianSGD
from hyplearn.optim.curvature import CurvatureAware
from hyplearn.optim.groups import parameter_groups
from scripts.count_kernels import Launches, as_written
from tests.support.configured_models import model_of


class Graphs:
    """A backend that runs graphs operation by operation: those of the forward passes and those of the backward ones."""

    def __init__(self) -> None:
        self.made: list[torch.fx.GraphModule] = []

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        compile_it: Any = aot_autograd(fw_compiler=self._compile, bw_compiler=self._compile)
        return compile_it(graph, inputs)

    def _compile(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        self.made.append(graph)

        return make_boxed_func(graph)


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


class Watched:
    """Regions that run as they are written and are told from what runs beside them: `calls` of them so far."""

    def __init__(self) -> None:
        self.inside = self.calls = 0

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            return as_written(self, function, args, kwargs)

        return run


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    found = Watched()
    monkeypatch.setattr(regions, "_compiled", found)
    return found


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


OPTIMIZERS: dict[str, Callable[[Any], CurvatureAware]] = {
    "adamw": lambda groups: RiemannianAdamW(groups, lr=0.1),
    "amsgrad, retraction": lambda groups: RiemannianAdamW(groups, lr=0.1, amsgrad=True, decay="retraction"),
    "adam": lambda groups: RiemannianAdam(groups, lr=0.1),
    "sgd": lambda groups: RiemannianSGD(groups, lr=0.1),
    "sgd, nesterov": lambda groups: RiemannianSGD(groups, lr=0.1, momentum=0.9, nesterov=True),
}
KERNELS_OF_AN_OPTIMIZER = 40


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_in_regions_moves_points_alike(name: str, graphs: Graphs) -> None:
    """Rates change with every step, and after the second nothing is compiled anew."""
    made, expected = Moving(OPTIMIZERS[name]), Moving(OPTIMIZERS[name])
    with regions.compiled():
        made.step(), made.step()
        before = len(graphs.made)
        made.step(), made.step()
    for _ in range(4):
        expected.step()
    assert regions.failed() == []
    assert 0 < len(graphs.made) == before
    assert_close(made.parameters(), expected.parameters(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_launches_few_kernels(name: str, watched: Watched) -> None:
    """A region of an optimizer is one kernel, which `scripts/count_kernels.py` shows."""
    moving = Moving(OPTIMIZERS[name])
    with regions.compiled():
        moving.step()
        watched.calls = 0
        with Launches(watched) as launches:
            moving.optimizer.step()
    assert 0 < watched.calls <= 4
    assert launches.counts.total() + watched.calls <= KERNELS_OF_AN_OPTIMIZER, launches.counts


class Moving:
    """Fifty points of several widths on a hyperboloid of learned curvature, and an optimizer."""

    def __init__(self, build: Callable[[Any], CurvatureAware]) -> None:
        self.generator, manifold = torch.Generator().manual_seed(0), Lorentz(c=0.7)
        points = [ManifoldParameter(self._random(n).float(), manifold=manifold) for n in [3, 5, 5, 8, 2] * 10]
        self.model = nn.ModuleList([nn.ParameterList(points), manifold]).double()
        self.optimizer = build(parameter_groups(self.model, lr=0.1, weight_decay=0.1, curvature_lr=0.01))

    def _random(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def step(self) -> None:
        for parameter in self.model.parameters():
            parameter.grad = self._random(*parameter.shape)
        for group in self.optimizer.param_groups:
            group["lr"] *= 0.9
        self.optimizer.step()

    def parameters(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self.model.named_parameters()}


class Budget(NamedTuple):
    """graphs: of one training step, forward and backward apart. calls: of regions in a step.

    outside: operations that launch a kernel beside them, against those of the Euclidean twin.
    """

    graphs: int
    calls: int
    outside: float


BUDGETS = {
    "hcnn_r18": Budget(graphs=38, calls=150, outside=1.5),
    "hecnn_r18": Budget(graphs=28, calls=75, outside=1.2),
    "poincare_resnet_r18": Budget(graphs=50, calls=75, outside=0.9),
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
    before = len(graphs.made)
    assert 0 < before <= BUDGETS[name].graphs
    with regions.compiled():
        step(model, torch.randn(4, 3, 24, 24, dtype=torch.float64), torch.arange(4))
    assert len(graphs.made) == before, "another batch and image size compiled anew"


@pytest.mark.parametrize("name", BUDGETS)
def test_a_network_launches_few_kernels_beside_its_regions(name: str, watched: Watched) -> None:
    model, images, labels = case(name)
    euclidean, _, _ = case("euclidean_r18")
    with regions.compiled():
        step(model, images, labels)
        watched.calls = 0
        with Launches(watched) as launches:
            step(model, images, labels)
    with Launches() as plain:
        step(euclidean, images, labels)
    print(name, watched.calls, launches.counts.total(), plain.counts.total())
    assert 0 < watched.calls <= BUDGETS[name].calls
    assert launches.counts.total() <= BUDGETS[name].outside * plain.counts.total(), launches.counts

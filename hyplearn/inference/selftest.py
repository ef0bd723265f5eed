"""A few seconds of real work, step by step: what a broken build, processor or driver gets wrong shows here."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from hyplearn.evaluation.metric import Embeddings, Metric
from hyplearn.evaluation.neighbours import neighbours
from hyplearn.geometry.isometry import lorentz_to_poincare, poincare_to_lorentz
from hyplearn.losses import CrossEntropy
from hyplearn.manifolds import Lorentz, Manifolds, PoincareBall
from hyplearn.manifolds.parameter import manifold_parameter
from hyplearn.models import ResNet
from hyplearn.optim import RiemannianAdamW, RiemannianSGD, parameter_groups

CURVATURES = (0.01, 1.0, 20.0)
STEPS = 20
# float32 through a network on two devices
AGREEMENT = 1e-2


class WrongResultError(Exception):
    """A step gave another result than it must."""


def steps() -> Iterator[tuple[str, Callable[[], str]]]:
    """Name and work of every step; the work returns what it found and raises WrongResultError."""
    yield "geometry", geometry
    yield "training step, cpu", lambda: training(torch.device("cpu"))
    yield "optimizer stays on the manifold", on_the_manifold
    yield "exact search, FAISS and torch", search
    if torch.cuda.is_available():
        yield "training step, gpu", lambda: training(torch.device("cuda"))
        yield "gpu agrees with cpu", devices_agree


def geometry() -> str:
    """Exponential and logarithm, and the isometry of the two models, there and back, in float32."""
    worst = 0.0
    generator = torch.Generator().manual_seed(0)
    for c in CURVATURES:
        directions = torch.randn(256, 16, generator=generator)
        v = directions / directions.norm(dim=-1, keepdim=True) * torch.linspace(0.01, 3, 256)[:, None] / c**0.5
        for manifold in (Lorentz(c=c, bounds=(0.001, 100.0)), PoincareBall(c=c, bounds=(0.001, 100.0))):
            there = manifold.expmap0(v)
            worst = max(worst, _error(manifold.logmap0(there), v))
            if isinstance(manifold, PoincareBall):
                back = lorentz_to_poincare(poincare_to_lorentz(there, c=manifold.c), c=manifold.c)
                worst = max(worst, _error(back, there))
    _require(worst < 1e-3, f"exp, log and isometry lose {worst:.2g} of a vector")
    return f"exp, log and isometry return every vector to {worst:.1g} of its length"


def _error(x: Tensor, y: Tensor) -> float:
    worst: float = ((x - y).norm(dim=-1) / y.norm(dim=-1)).max().item()
    return worst


def training(device: torch.device) -> str:
    """Two steps of a small HECNN, in the memory layout of a run."""
    network, images, labels = _network(device)
    optimizer = RiemannianSGD(parameter_groups(network, lr=0.1, weight_decay=5e-4), momentum=0.9)
    losses = []
    for _ in range(3):
        loss = CrossEntropy()(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    _require(all(torch.tensor(losses).isfinite()), f"losses {losses} are not finite")
    _require(all(bool(p.isfinite().all()) for p in network.parameters()), "a weight is not finite after a step")
    return f"three steps of a small HECNN, loss {losses[0]:.3f} to {losses[-1]:.3f}"


def _network(device: torch.device) -> tuple[nn.Module, Tensor, Tensor]:
    """A small HECNN with strides in every geometry, and a batch."""
    state = torch.get_rng_state()
    torch.manual_seed(0)
    network = ResNet(
        depth=18,
        in_channels=3,
        num_classes=10,
        image_size=16,
        manifold=Manifolds("lorentz", c=1.0),
        stages=("lorentz", "euclidean", "lorentz", "euclidean"),
        head="lorentz_mlr",
        width=8,
    )
    images, labels = torch.randn(32, 3, 16, 16), torch.randint(0, 10, (32,))
    torch.set_rng_state(state)
    network = network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network, images.to(device, memory_format=torch.channels_last), labels.to(device)


def on_the_manifold() -> str:
    """Points in a ball whose curvature is learned, drawn to its boundary for twenty steps."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Module()
    model.ball = ball = PoincareBall(c=1.0)
    points = manifold_parameter(0.1 * torch.randn(64, 8, generator=generator), ball)
    model.points = points
    optimizer = RiemannianAdamW(parameter_groups(model, lr=0.3, weight_decay=1e-2, curvature_lr=0.05))
    before = ball.c.item()
    for _ in range(STEPS):
        loss = -ball.dist0(points).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    share = (ball.c * points.square().sum(-1)).max().item()
    _require(share < 1, f"c |x|^2 = {share}: a point left the ball")
    _require(bool(points.isfinite().all()), "a point is not finite")
    return f"c {before:.3g} to {ball.c.item():.3g} in {STEPS} steps, every point inside (c |x|^2 <= {share:.6f})"


def search() -> str:
    """Both searches of 600 points of the ball."""
    generator = torch.Generator().manual_seed(0)
    points = PoincareBall(c=0.1).expmap0(torch.randn(600, 16, generator=generator)).detach()
    embeddings, ids = Embeddings(points, Metric("poincare", 0.1)), torch.arange(600)
    by_faiss, by_torch = (
        neighbours(embeddings, embeddings, 10, query_ids=ids, gallery_ids=ids, index=index)
        for index in ("faiss", "torch")
    )
    _require(torch.equal(by_faiss.indices, by_torch.indices), "FAISS and torch find other neighbours")
    return "the 10 nearest of 600 points are the same"


def devices_agree() -> str:
    """The same network on the same images."""
    network, images, _ = _network(torch.device("cpu"))
    network.eval()
    with torch.no_grad():
        on_cpu = network(images)
        on_gpu = network.cuda()(images.cuda()).cpu()
    worst = (on_cpu - on_gpu).abs().max().item() / on_cpu.abs().max().item()
    _require(worst < AGREEMENT, f"logits differ by {worst:.2g} of their size")
    return f"logits differ by {worst:.1g} of their size"


def _require(fine: bool, message: str) -> None:
    if not fine:
        raise WrongResultError(message)

"""What one of two processes does in `test_gather.py`, and the whole batch that both together see."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hyplearn.data.sources.retrieval_source import Evaluation
from hyplearn.evaluation.recall import QueryResults
from hyplearn.losses import Contrastive, CrossBatchMemory, HierarchicalLoss, PairwiseCrossEntropy, ProxyAnchor
from hyplearn.losses.base import build_part
from hyplearn.losses.hier import HIER
from hyplearn.manifolds import Manifolds
from hyplearn.models.embedder import Embedder
from hyplearn.models.necks import Branch, Neck
from hyplearn.models.small import SmallViT
from hyplearn.optim import RiemannianSGD, parameter_groups
from hyplearn.optim.settings import ConstantSchedule, OptimSettings
from hyplearn.training.module import Optimization
from hyplearn.training.retrieval import RetrievalModule
from hyplearn.training.retrieval_metrics import Compared
from hyplearn.training.retrieval_metrics import rank as rank_stage
from hyplearn.training.settings import EvaluationSettings

CLASSES, EACH, STEPS = 4, 3, 3
LABELS = torch.arange(CLASSES).repeat_interleave(EACH)

ONE = {"lorentz": Branch("lorentz")}
TWO = {"sphere": Branch("sphere"), "lorentz": Branch("lorentz", weight=2.0, learned=True)}
CASES: dict[str, tuple[dict[str, Branch], Callable[..., Any]]] = {
    "pairwise": (ONE, PairwiseCrossEntropy),
    "mix": (TWO, functools.partial(PairwiseCrossEntropy, tau=[0.1, 0.2])),
    "hier": (
        ONE,
        functools.partial(
            HierarchicalLoss, base=PairwiseCrossEntropy, hier=functools.partial(HIER, proxies=8, topk=4, triplets=3)
        ),
    ),
    "proxy_anchor": (ONE, ProxyAnchor),
    "memory": (ONE, functools.partial(CrossBatchMemory, base=Contrastive, size=30)),
}


def module_of(case: str) -> RetrievalModule:
    """The same in every process: made from the same seed, in double precision."""
    branches, loss = CASES[case]
    torch.manual_seed(0)
    model = Embedder(
        backbone=None,
        head=Neck(size=5, branches=branches, clip=2.3),
        in_channels=1,
        image_size=8,
        manifold=Manifolds("lorentz", c=0.5),
        small=SmallViT(width=12, depth=1, heads=2),
    )
    made = build_part(loss, spaces=list(model.spaces), sizes=model.sizes, num_classes=CLASSES)
    rates = OptimSettings(lr=1e-2, weight_decay=0.0, curvature_lr=1e-2, schedule=ConstantSchedule())
    optimization = Optimization(RiemannianSGD, rates)
    module = RetrievalModule(model, made, seed=0, optimization=optimization, settings=EvaluationSettings())
    return module.double()


def batches() -> list[Tensor]:
    return [
        torch.randn(len(LABELS), 1, 8, 8, generator=torch.Generator().manual_seed(i)).double() for i in range(STEPS)
    ]


class Step(nn.Module):
    """A training step as the forward pass of a module, which is what distributed data parallel wraps."""

    def __init__(self, module: RetrievalModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Tensor, labels: Tensor, number: int) -> Tensor:
        return self.module.training_step((images, labels, labels), number)


def train(case: str, rows: slice, *, parallel: bool) -> dict[str, Any]:
    """Losses, the gradients of the first step, and the state after three, with these rows of every batch."""
    module = module_of(case)
    step: nn.Module = Step(module)
    optimizer = RiemannianSGD(parameter_groups(module, lr=1e-2, curvature_lr=1e-2), lr=1e-2, momentum=0.9)
    if parallel:
        step = DistributedDataParallel(step)
    losses, gradients = [], {}
    for number, images in enumerate(batches()):
        optimizer.zero_grad()
        loss = step(images[rows], LABELS[rows], number)
        loss.backward()
        losses.append(loss.detach())
        if number == 0:
            gradients = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
        optimizer.step()
    return {"losses": torch.stack(losses), "gradients": gradients, "state": dict(module.state_dict())}


IMAGES = 61  # of a stage: a number that is not shared evenly


def stage(rows: Tensor, process: int, *, features: bool) -> dict[str, Any]:
    """A stage of which this process embedded the images `rows`, in batches; ranked."""
    x = torch.randn(IMAGES, 6, generator=torch.Generator().manual_seed(0)).double()
    x[40:50] = x[:10]
    module = module_of("mix")
    points = (torch.nn.functional.normalize(x, dim=-1), 0.3 * x)
    module._collected = [(part, tuple(p[part] for p in points), x[part]) for part in rows.split(7) if len(part)]
    embedded = module._whole_stage(features=features)
    everything, labels = torch.ones(IMAGES, dtype=torch.bool), torch.arange(IMAGES) % 9
    data = Evaluation(labels, everything, everything, None, tuple(map(str, range(9))), None, None)
    settings = EvaluationSettings(k=[1, 2, 8], metrics=["cosine", "euclidean"])
    compared = Compared(module.spaces, module.loss, settings, torch.device("cpu"), process, 0)
    found = rank_stage(embedded, data, stage="test" if features else "val", compared=compared, thumbnails=_no_pixels)
    assert found.ranked is not None
    results = {f.name: getattr(found.ranked.results, f.name) for f in fields(QueryResults)}
    return {"metrics": found.metrics, "results": results, "embedded": embedded._asdict()}


def _no_pixels(ids: Tensor) -> Tensor:
    raise AssertionError("nobody asked for pixels")


def stages(process: int, count: int) -> dict[str, Any]:
    """Stages shared by `count` processes: evenly, and with all images in the last one."""
    rows = torch.arange(IMAGES)
    nothing = rows if process == count - 1 else rows[:0]
    return {
        "test": stage(rows[process::count], process, features=True),
        "val": stage(rows[process::count], process, features=False),
        "one_sided": stage(nothing, process, features=True),
    }


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        half = len(LABELS) // 2
        rows = slice(rank * half, (rank + 1) * half)
        trained = {case: train(case, rows, parallel=True) for case in CASES}
        torch.save({**trained, "stages": stages(rank, 2)}, Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()

"""What one of two processes does in `test_processes.py`, and the whole batch that both together see."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from hyplearn.manifolds import Lorentz
from hyplearn.nn.batchnorm import LorentzBatchNorm2d
from hyplearn.nn.processes import total
from tests.support.gradients import random

CASES = [
    ("mean_distance", "two_stage", True),
    ("mean_distance", "joint", True),
    ("rms", "two_stage", True),
    ("rms", "joint", False),
    ("per_channel", "two_stage", False),
    ("per_channel", "joint", False),
]  # dispersion, centroid, fused


def norm_of(dispersion: str, centroid: str, *, synchronized: bool) -> LorentzBatchNorm2d:
    norm = LorentzBatchNorm2d(
        4, manifold=Lorentz(0.7), dispersion=dispersion, centroid=centroid, synchronized=synchronized
    ).double()
    with torch.no_grad():
        norm.beta.copy_(0.3 * random(4, seed=5))
    return norm


def run(case: tuple[str, str, bool], x: Tensor, g: Tensor, *, synchronized: bool) -> dict[str, Tensor]:
    """Output, gradients of input and parameters, running statistics, for images x and a gradient g of the output."""
    dispersion, centroid, fused = case
    norm, x = norm_of(dispersion, centroid, synchronized=synchronized), x.clone().requires_grad_()
    out = norm(x) if fused else norm.by_definition(x)
    out.backward(g)
    grads = {name: p.grad for name, p in norm.named_parameters()}
    return {"out": out.detach(), "x": x.grad, **grads, **dict(norm.named_buffers())}


def whole_batch() -> tuple[Tensor, Tensor]:
    return random(5, 4, 3, 2) * torch.linspace(0.5, 2, 5).view(5, 1, 1, 1).double(), random(5, 4, 3, 2, seed=1)


def sums() -> dict[str, Tensor]:
    """A sum over processes and its gradient."""
    x = torch.tensor([1.0, 2.0]) * (dist.get_rank() + 1)
    x.requires_grad_()
    out = total(x)
    (out * (dist.get_rank() + 1)).sum().backward()
    return {"out": out.detach(), "x": x.grad}


def worker(rank: int, folder: str) -> None:
    """3 images for the first process, 2 for the second: unequal parts must weigh by their size."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        part = slice(0, 3) if rank == 0 else slice(3, 5)
        x, g = (z[part] for z in whole_batch())
        results = [run(case, x, g, synchronized=True) for case in CASES]
        torch.save({"norms": results, "sums": sums()}, Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()

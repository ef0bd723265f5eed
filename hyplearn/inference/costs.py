"""What a training step costs: times taken in turns, and the bytes it holds."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from hyplearn.training.module import TrainingModule

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # read when the profiler loads, which reports every missing GPU

from torch.profiler import ProfilerActivity, profile


class TrainingStep:
    """What a classifier does with one batch: forward, loss, backward, and a step of its own optimizer.

    batches: images (B, C, H, W) and labels (B,), the next ones for every call. precision: 32, or bf16 by autocast.
    """

    def __init__(self, module: TrainingModule, batches: Iterator[tuple[Tensor, Tensor]], *, precision: str) -> None:
        self.module, self.batches, self.mixed = module, batches, precision == "bf16"
        self.optimizer = module.optimization.build(module.optimization.parameter_groups(module))

    def __call__(self) -> None:
        images, labels = next(self.batches)
        self.optimizer.zero_grad(set_to_none=True)
        loss: Tensor = self.module.loss(self.forward(images).float(), labels)
        loss.backward()
        self.optimizer.step()

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.mixed):
            logits: Tensor = self.module(images)
        return logits

    def held_bytes(self) -> int:
        """What stays between two steps: parameters, gradients, buffers and the optimizer's state."""
        parameters = list(self.module.parameters())
        gradients = [p.grad for p in parameters if p.grad is not None]
        state = [x for values in self.optimizer.state.values() for x in values.values() if isinstance(x, Tensor)]
        return held_bytes([*parameters, *gradients, *self.module.buffers(), *state])

    def peak_bytes(self) -> int:
        """The most that this network's training holds at one time, its own tensors included."""
        self()  # makes the state of the optimizer
        self.optimizer.zero_grad(set_to_none=True)
        return self.held_bytes() + grown_bytes(self, next(self.module.parameters()).device.type)


def interleave(
    steps: Mapping[str, Callable[[], object]],
    *,
    repeats: int,
    warmup: int,
    device: str,
    steps_per_round: int = 1,
    progress: Callable[[str], None] = lambda name: None,
) -> dict[str, list[float]]:
    """Seconds of a call of each step, one value a round.

    Every round calls each of them `steps_per_round` times, one after the other, so that a change of the machine's
    speed meets all; a ratio within a round is worth more than that of two means. warmup: rounds that do not count.
    progress: told the name of each step before its turn in a round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for round_number in range(-warmup, repeats):
        for name, step in steps.items():
            progress(name)
            synchronize(device)
            start = time.perf_counter()
            for _ in range(steps_per_round):
                step()
            synchronize(device)
            if round_number >= 0:
                seconds[name].append((time.perf_counter() - start) / steps_per_round)
    return seconds


def synchronize(device: str) -> None:
    """Wait for what a GPU still has to do."""
    if device == "cuda":
        torch.cuda.synchronize()


def saved_bytes(forward: Callable[[], Tensor], parameters: Iterable[Tensor]) -> int:
    """Bytes of the storages autograd keeps for the backward pass of `forward()`, parameters left out."""
    owned = {p.untyped_storage().data_ptr() for p in parameters}
    kept: dict[int, torch.UntypedStorage] = {}  # alive, so that no address is used twice

    def pack(tensor: Tensor) -> None:
        """The graph gets nothing to keep: with its own result in it, it would be a cycle that is never freed."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            kept[storage.data_ptr()] = storage

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda nothing: nothing):
        result = forward()
    total = sum(storage.nbytes() for storage in kept.values())
    del result
    return total


def peak_bytes(step: Callable[[], object], device: str) -> int:
    """`grown_bytes` after a first step that is not counted."""
    step()
    return grown_bytes(step, device)


def grown_bytes(step: Callable[[], object], device: str) -> int:
    """Most bytes that the tensors made by `step()` hold at one time.

    On a GPU the allocator's peak. On a CPU the largest running sum of the allocations and frees, in their order, that
    torch's profiler reports; it sees every tensor, inside of operators too, but not what MKL or FAISS take themselves,
    nor that a tensor made earlier is freed.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiled:
        step()
    assert profiled.profiler is not None and profiled.profiler.kineto_results is not None
    events = profiled.profiler.kineto_results.events()  # those of profiled.events() have lost their bytes
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    return int(max(itertools.accumulate(change for _, change in changes)))


def held_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages of the tensors, each counted once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def resident_bytes() -> int:
    """Memory of this process at present. Linux."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def available_bytes() -> int | None:
    """Memory that a new process could take without swapping; None where that is not known (other than Linux)."""
    listing = Path("/proc/meminfo")
    if not listing.is_file():
        return None
    return next(int(line.split()[1]) for line in listing.read_text().splitlines() if "MemAvailable" in line) * 1024

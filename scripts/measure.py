"""How the benchmark measures: interleaved times, bytes held, and the row of the table that says how they compare.

Every round times each subject of a row once, one after the other, so that a change of the machine's speed meets all of
them; a ratio is the median over the rounds of (subject / reference) within a round.
"""

from __future__ import annotations

import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # read when the profiler loads, which reports every missing GPU

from torch.profiler import ProfilerActivity, profile

HEADER = "| measure | time ratio | target | bytes ratio | target | images/s | |\n|---|---|---|---|---|---|---|"


@dataclass
class Row:
    """One comparison: `subject` against `reference`, the targets it is held to, and what was measured.

    seconds, saved: of the reference first. at_least: the time ratio is to reach its target, not to stay below it.
    """

    name: str
    time_target: float
    bytes_target: float | None
    seconds: dict[str, list[float]] = field(default_factory=dict)
    saved: dict[str, int] = field(default_factory=dict)
    images: int = 0
    at_least: bool = False

    @property
    def time_ratio(self) -> float:
        reference, subject = self.seconds.values()
        return statistics.median(s / r for s, r in zip(subject, reference, strict=True))

    @property
    def bytes_ratio(self) -> float | None:
        if not self.saved:
            return None
        reference, subject = self.saved.values()
        return subject / reference

    @property
    def met(self) -> bool:
        """Whether every target is."""
        in_time = self.time_ratio >= self.time_target if self.at_least else self.time_ratio <= self.time_target
        return in_time and (self.bytes_ratio or 0) <= (self.bytes_target or float("inf"))

    def line(self) -> str:
        """One line of the table: ratios, targets, and images a second of reference and subject."""
        target = f"at least {self.time_target:.0f}" if self.at_least else f"{self.time_target:.2f}"
        cells = [self.name, f"{self.time_ratio:.2f}", target]
        memory = self.bytes_ratio
        cells.append("" if memory is None else f"{memory:.2f}")
        cells.append("" if self.bytes_target is None else f"{self.bytes_target:.2f}")
        rates = [self.images / statistics.median(s) for s in self.seconds.values()] if self.images else []
        cells.append(" / ".join(f"{rate:.0f}" for rate in rates))
        return "| " + " | ".join([*cells, "met" if self.met else "missed"]) + " |"


def interleave(row: Row, steps: Mapping[str, Callable[[], object]], *, repeats: int, warmup: int, device: str) -> Row:
    """Time every step once a round."""
    row.seconds = {name: [] for name in steps}
    for round_number in range(-warmup, repeats):
        for name, step in steps.items():
            _synchronize(device)
            start = time.perf_counter()
            step()
            _synchronize(device)
            if round_number >= 0:
                row.seconds[name].append(time.perf_counter() - start)
    return row


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def saved_bytes(forward: Callable[[], Tensor], parameters: Iterable[Tensor]) -> int:
    """Bytes of the storages autograd keeps for the backward pass of `forward()`, parameters left out."""
    owned = {p.untyped_storage().data_ptr() for p in parameters}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    total = sum(kept.values())
    del result
    return total


def peak_bytes(step: Callable[[], object], device: str) -> int:
    """Most bytes that the tensors made by `step()` hold at one time, after a first step that is not counted.

    On a GPU the allocator's peak. On a CPU the largest running sum of the allocations and frees, in their order, that
    torch's profiler reports; it sees every tensor, inside of operators too, but not what MKL or FAISS take themselves.
    """
    step()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiled:
        step()
    events = profiled.profiler.kineto_results.events()  # those of profiled.events() have lost their bytes
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    return int(max(itertools.accumulate(change for _, change in changes)))


def resident_bytes() -> int:
    """Memory of this process at present. Linux."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def available_bytes() -> int:
    """Memory that a new process could take without swapping. Linux."""
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("MemAvailable")) * 1024

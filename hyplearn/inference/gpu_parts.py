"""What `hyplearn doctor --gpu` asks of a device, one part a process.

`python -m hyplearn.inference.gpu_parts <part> --device cuda` prints one finding a line, in JSON: what, value, unit, and
whether it holds (null for a figure without a demand). `--toy` runs the same code in seconds, on a CPU too.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from hyplearn.config import build
from hyplearn.config.compose import compose
from hyplearn.evaluation.metric import Embeddings, Metric
from hyplearn.evaluation.neighbours import neighbours
from hyplearn.geometry import tf32
from hyplearn.inference import costs
from hyplearn.losses import HIER, PairwiseCrossEntropy
from hyplearn.losses.host import remember
from hyplearn.manifolds import Lorentz, Manifold, PoincareBall
from hyplearn.nn.processes import gather
from hyplearn.nn.space import Space
from hyplearn.optim import RiemannianAdam, RiemannianAdamW, RiemannianSGD, parameter_groups

FAMILIES = (
    *("euclidean_r18", "hecnn_r18", "hcnn_r18", "hcnn_original_r18", "hecnn_original_r18"),
    *("hybrid_lorentz_r18", "hybrid_poincare_r18", "poincare_resnet_r18"),
)
TIMED = {  # the model, and the Euclidean twin in whose time its own is counted
    "hecnn_r18": "euclidean_r18",
    "hcnn_r18": "euclidean_r18",
    "hcnn_original_r18": "euclidean_r18",
    "hecnn_r50": "euclidean_r50",
    "hcnn_r50": "euclidean_r50",
}
CLASSES = 100
Work = dict[str, Callable[[], None]]
AGREEMENT = 5e-3  # of logits and gradients, as a share of the largest: float32 through a network on two devices


class Size(NamedTuple):
    """How much a part does."""

    device: str
    toy: bool

    def of(self, full: int, toy: int) -> int:
        """Return the number for this size."""
        return toy if self.toy else full


def tell(what: str, value: float | None, unit: str = "", *, holds: bool | None = None) -> None:
    """Print one finding."""
    print(json.dumps({"what": what, "value": value, "unit": unit, "holds": holds}), flush=True)


def network(name: str, size: Size, *, image_size: int = 32) -> nn.Module:
    """A model by the name of its configuration, narrow at toy size."""
    torch.manual_seed(0)
    narrow = ["model.width=4"] if size.toy else []
    config = compose([f"model={name}", "dataset=cifar100", *narrow]).config
    made = build.model(config, {"in_channels": 3, "num_classes": CLASSES, "image_size": image_size})
    return made.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def batch(count: int, *, image_size: int = 32) -> tuple[Tensor, Tensor]:
    """Images and labels on the CPU."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, 3, image_size, image_size, generator=generator)
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    return images.contiguous(memory_format=torch.channels_last), labels


def values(size: Size) -> None:
    """Logits and gradients of every family against the CPU, float32 without TF32."""
    tf32.allow(False)
    images, labels = batch(size.of(16, 4), image_size=size.of(32, 16))
    for name in FAMILIES[: size.of(len(FAMILIES), 3)]:
        found = []
        for device in ("cpu", size.device):
            made = network(name, size, image_size=images.shape[-1]).to(device)
            logits = made(images.to(device))
            F.cross_entropy(logits, labels.to(device)).backward()
            gradients = [p.grad.cpu().flatten() for p in made.parameters() if p.grad is not None]
            found.append((logits.detach().cpu(), torch.cat(gradients)))
        (there, slopes), (here, own) = found
        for what, x, y in (("logits", there, here), ("gradients", slopes, own)):
            off = ((x - y).abs().max() / x.abs().max()).item()
            tell(f"{name}: {what} against the CPU", off, "of the largest", holds=off < AGREEMENT)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": functools.partial(RiemannianSGD, momentum=0.9),
    "adam": RiemannianAdam,
    "adamw": RiemannianAdamW,
}


def mixed(size: Size) -> None:
    """bf16 and fp16 steps stay finite; a step that the scaler leaves out moves nothing, with every optimizer."""
    images, labels = (x.to(size.device) for x in batch(size.of(64, 4), image_size=size.of(32, 16)))
    for dtype in (torch.bfloat16, torch.float16):
        for name in ("hecnn_r18", "hcnn_r18"):
            made = network(name, size, image_size=images.shape[-1]).to(size.device)
            with torch.autocast(size.device, dtype):
                loss = F.cross_entropy(made(images).float(), labels)
            loss.backward()
            tell(f"{name}: loss in {dtype}", loss.item(), holds=bool(loss.isfinite()))
    for name, make in OPTIMIZERS.items():
        made = network("hecnn_r18", size, image_size=images.shape[-1]).to(size.device)
        optimizer = make(parameter_groups(made, lr=1e-2, curvature_lr=1e-2), lr=1e-2)
        scaler = torch.amp.GradScaler(size.device, init_scale=2.0**10)  # type: ignore[attr-defined]
        for overflow in (False, True):
            before = [p.detach().clone() for p in made.parameters()]
            optimizer.zero_grad()
            with torch.autocast(size.device, torch.float16):
                loss = F.cross_entropy(made(images).float(), labels)
            scaler.scale(loss * (torch.inf if overflow else 1.0)).backward()
            scaler.step(optimizer)
            scaler.update()
            moved = any(not torch.equal(p, old) for p, old in zip(made.parameters(), before, strict=True))
            what = "a step that overflowed moves nothing" if overflow else "a step moves"
            tell(f"{name} in fp16: {what}", None, holds=moved is not overflow)


def graphs(size: Size) -> None:
    """Graph breaks of every model, forward and backward."""
    images, _ = (x.to(size.device) for x in batch(4, image_size=16))
    for name in FAMILIES[: size.of(len(FAMILIES), 1)]:
        made = network(name, size._replace(toy=True), image_size=16).to(size.device)
        torch._dynamo.reset()
        breaks = torch._dynamo.explain(made)(images).graph_break_count
        tell(f"{name}: graph breaks", breaks, holds=breaks == 0)


def launched(step: Callable[[], object], device: str) -> int:
    """Kernels of a step on a GPU; on a CPU operations that are no views."""
    from torch.profiler import ProfilerActivity, profile

    step()
    kinds = [ProfilerActivity.CUDA] if device == "cuda" else [ProfilerActivity.CPU]
    with profile(activities=kinds, acc_events=True) as profiled:
        step()
        costs.synchronize(device)
    if device == "cuda":
        return sum(event.count for event in profiled.key_averages() if event.self_device_time_total > 0)
    return sum(event.count for event in profiled.key_averages())


def steps(size: Size) -> None:
    """Time, kernels and memory of training steps against the Euclidean twin, in turns."""
    for count, only in ((size.of(128, 4), None), (size.of(80, 2), "hcnn_original_r18")):
        images, labels = (x.to(size.device) for x in batch(count, image_size=size.of(32, 16)))
        for name, twin in TIMED.items():
            if (only is None or only == name) and not (size.toy and name != "hecnn_r18"):
                _compared(name, twin, images, labels, size)


def _compared(name: str, twin: str, images: Tensor, labels: Tensor, size: Size) -> None:
    made = {each: network(each, size, image_size=images.shape[-1]).to(size.device) for each in (twin, name)}
    work: Work = {each: functools.partial(_step, model, images, labels) for each, model in made.items()}
    row = f"{name} / {twin}, batch {len(images)}"
    kernels = {each: launched(step, size.device) for each, step in work.items()}
    tell(f"{row}: kernels", kernels[name] / kernels[twin], "x")
    tell(f"{row}: peak memory", _peak(work, name, size) / _peak(work, twin, size), "x")
    tell(f"{row}: time, eager", *_ratio(work, name, twin, size))
    if not size.toy:
        for model in made.values():
            model.compile()
        start = time.perf_counter()
        work[name]()
        costs.synchronize(size.device)
        tell(f"{name}: first compiled step", time.perf_counter() - start, "s", holds=time.perf_counter() - start < 60)
        tell(f"{row}: time, compiled", *_ratio(work, name, twin, size))


def _step(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    model.zero_grad(set_to_none=True)
    F.cross_entropy(model(images), labels).backward()


def _peak(work: Work, name: str, size: Size) -> int:
    return costs.peak_bytes(work[name], size.device)


def _ratio(work: Work, name: str, twin: str, size: Size) -> tuple[float, str]:
    seconds = costs.interleave(work, repeats=size.of(15, 3), warmup=2, device=size.device)
    ratio = statistics.median(s / r for s, r in zip(seconds[name], seconds[twin], strict=True))
    return ratio, f"x ({1000 * statistics.median(seconds[name]):.1f} ms)"


def losses(size: Size) -> None:
    """Time of HIER and the pairwise losses at batch 900, and how often they wait for the device."""
    count, n = size.of(900, 24), size.of(384, 8)
    labels_here = torch.arange(count) // 2
    labels = labels_here.to(size.device)
    remember(labels, labels_here)
    manifolds: dict[str, Manifold] = {"lorentz": Lorentz(0.1), "poincare": PoincareBall(0.1)}
    for name, manifold in manifolds.items():
        spaces = [Space(manifold).to(size.device)]
        hier = HIER(spaces=spaces, sizes=[n], proxies=size.of(512, 30), topk=size.of(20, 5))
        made = {"pairwise": PairwiseCrossEntropy(), "hier": hier}
        v = torch.randn(count, n, generator=torch.Generator().manual_seed(0)).to(size.device)
        x = manifold.expmap0(v / n**0.5).detach().requires_grad_()
        for kind, loss in made.items():
            loss.to(size.device)
            step = functools.partial(_loss_step, loss, x, labels, spaces)
            step()
            (seconds,) = costs.interleave({kind: step}, repeats=5, warmup=1, device=size.device).values()
            tell(f"{kind}, {name}, batch {count}", 1000 * statistics.median(seconds), "ms")
            if size.device == "cuda":
                tell(f"{kind}, {name}: waits for the GPU", _waits(step), "a step")


def _loss_step(loss: nn.Module, x: Tensor, labels: Tensor, spaces: Sequence[Space]) -> None:
    x.grad = None
    loss([x], labels, spaces, generator=torch.Generator().manual_seed(0)).backward()


def _waits(step: Callable[[], object]) -> int:
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(one.message) for one in caught)


def search(size: Size) -> None:
    """Exact search against float64 brute force, and its time against the product and selection alone."""
    for total in (size.of(100_000, 2_000), size.of(1_000_000, 4_000)):
        generator = torch.Generator(size.device).manual_seed(0)
        n, queries, k = size.of(384, 16), size.of(1_000, 50), 10
        points = torch.randn(total, n, generator=generator, device=size.device)
        points = F.normalize(points, dim=1)
        gallery = Embeddings(points, Metric("sphere", None))
        query = Embeddings(points[:queries], Metric("sphere", None))
        seconds = []
        for _ in range(2):
            costs.synchronize(size.device)
            start = time.perf_counter()
            found = neighbours(query, gallery, k, index="torch")
            costs.synchronize(size.device)
            seconds.append(time.perf_counter() - start)
        (bare,) = costs.interleave(
            {"bare": functools.partial(_product, points, queries, k)}, repeats=2, warmup=1, device=size.device
        ).values()
        few = min(queries, 20)
        exact = (points[:few].double() @ points.double().mT).topk(k).indices
        right = bool(torch.equal(exact.sort(1).values, found.indices[:few].sort(1).values))
        tell(f"exact search, {queries} of {total} x {n}: equal to float64", None, holds=right)
        tell(f"exact search, {queries} of {total} x {n}", seconds[-1], "s")
        tell(f"exact search, {queries} of {total} x {n}: against its product", seconds[-1] / min(bare), "x")


def _product(points: Tensor, queries: int, k: int) -> None:
    (points[:queries] @ points.mT).topk(k)


def loader(size: Size) -> None:
    """Images a second of the loader in memory, augmented, onto the device."""
    shape = [f"dataset.source.image_size={size.of(32, 8)}", f"dataset.source.train_size={size.of(20_000, 500)}"]
    config = compose(["dataset=synthetic", *shape, "dataset.batch_size=128"]).config
    data = build.images(config)
    data.prepare_data()
    data.setup("fit")
    count, start = 0, time.perf_counter()
    for epoch in range(2):
        for images, *_ in data.batches("train", epoch=epoch):
            count += len(images.to(size.device))
    costs.synchronize(size.device)
    tell("loader in memory", count / (time.perf_counter() - start), "images/s")


def processes(size: Size) -> None:
    """Two processes on one device have the gradients of one with the whole batch."""
    with tempfile.TemporaryDirectory() as folder:
        spawn(_rank, args=(folder, size.device), nprocs=2)
        parts = [torch.load(Path(folder) / f"{rank}.pt") for rank in range(2)]
    whole = _gradient(torch.Generator().manual_seed(0), slice(None), size.device)
    off = max(((part - whole).abs().max() / whole.abs().max()).item() for part in parts)
    tell("two processes on one device: gradients against one", off, "of the largest", holds=off < 1e-4)


def _gradient(generator: torch.Generator, rows: slice, device: str) -> Tensor:
    """The gradient of a weight behind the pairwise loss, with these rows of a batch of 8."""
    images, weight = torch.randn(8, 6, generator=generator), torch.randn(6, 4, generator=generator)
    weight = weight.to(device).requires_grad_()
    space = Space(Lorentz(0.5)).to(device)
    points = gather(space.manifold.expmap0(images[rows].to(device) @ weight * 0.1))
    PairwiseCrossEntropy()([points], torch.arange(8, device=device) // 2, [space]).backward()
    assert weight.grad is not None
    return weight.grad.cpu()


def _rank(rank: int, folder: str, device: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        gradient = _gradient(torch.Generator().manual_seed(0), slice(4 * rank, 4 * rank + 4), device)
        dist.all_reduce(gradient)
        torch.save(gradient / 2, Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


PARTS: dict[str, Callable[[Size], None]] = {
    "values": values,
    "mixed": mixed,
    "graphs": graphs,
    "steps": steps,
    "losses": losses,
    "search": search,
    "loader": loader,
    "processes": processes,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    parser.add_argument("--toy", action="store_true")
    options = parser.parse_args()
    PARTS[options.part](Size(options.device, options.toy))


if __name__ == "__main__":
    main()

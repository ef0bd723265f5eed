"""Speed and memory of hyperbolic networks, losses and retrieval relative to their plain counterparts, from one run.

    python scripts/benchmark.py                     # every row that this machine can measure
    python scripts/benchmark.py --only r18 --repeats 15
    python scripts/benchmark.py --only recall --recall-size 10000

Every round times each subject of a row once, one after the other, so that a change of the machine's speed meets all of
them; a ratio is the median over the rounds of (subject / reference) within a round. The bytes of networks are those of
the tensors that autograd keeps between forward and backward, parameters left out, each storage counted once (on a GPU
the peak of the allocator); those of distances and losses are the most that all tensors hold at one time, see
`peak_bytes` of `hyplearn.inference.costs`; those of retrieval are the resident set of a process. Retrieval at its full
size takes minutes and is measured once. Where other programs take their share of the cores, --threads 1 is disturbed
least. The table goes to the terminal, with everything measured to outputs/benchmark/<time>.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from measure import HEADER, Row, interleave
from retrieval_rows import retrieval_rows
from search_rows import search_rows
from torch import Tensor, nn

from hyplearn.config.build import make
from hyplearn.config.compose import compose
from hyplearn.inference.costs import peak_bytes, saved_bytes
from hyplearn.manifolds import Lorentz
from hyplearn.nn.batchnorm import LorentzBatchNorm2d
from hyplearn.optim import RiemannianAdamW, RiemannianSGD, parameter_groups

CLASSES = 100


def model(name: str, *, image_size: int, device: str) -> nn.Module:
    """A model by its config's name, for 3-channel images and 100 classes, in channels_last."""
    config = compose([f"model={name}", "dataset=cifar100"]).config
    manifold = make(config["manifold"], "manifold")
    shape = {"in_channels": 3, "num_classes": CLASSES, "image_size": image_size}
    built: nn.Module = make(config["model"], "model", manifold=manifold, **shape)
    return built.to(device, memory_format=torch.channels_last)


def training_step(network: nn.Module, images: Tensor, labels: Tensor, precision: torch.dtype) -> Callable[[], None]:
    """Forward, loss and backward, as in training without the optimizer."""

    def step() -> None:
        network.zero_grad(set_to_none=True)
        with torch.autocast(images.device.type, precision, enabled=precision != torch.float32):
            logits = network(images)
        F.cross_entropy(logits.float(), labels).backward()

    return step


def models_row(names: tuple[str, str], targets: tuple[float, float], *, batch: int, options: argparse.Namespace) -> Row:
    """Training step of a model against its Euclidean twin."""
    device, size = options.device, options.image_size
    precision = {"32": torch.float32, "bf16": torch.bfloat16}[options.precision]
    images = torch.randn(batch, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, CLASSES, (batch,), device=device)
    row = Row(f"{names[1]} / {names[0]}, batch {batch}", *targets, images=batch)
    steps = {}
    for name in names:
        network = model(name, image_size=size, device=device)
        if device == "cpu":
            row.saved[name] = saved_bytes(lambda network=network: network(images), network.parameters())  # type: ignore[misc]
        if options.compile:
            network.compile()
        steps[name] = training_step(network, images, labels, precision)
        if device == "cuda":
            row.saved[name] = peak_bytes(steps[name], device)
    return interleave(row, steps, repeats=options.repeats, warmup=1, device=device)


def batch_norm_row(options: argparse.Namespace) -> Row:
    """Lorentz batch norm alone against nn.BatchNorm2d."""
    x = torch.randn(16, 64, 32, 32, device=options.device).contiguous(memory_format=torch.channels_last)
    g = torch.randn_like(x)
    layers = {"BatchNorm2d": nn.BatchNorm2d(64), "LorentzBatchNorm2d": LorentzBatchNorm2d(64, manifold=Lorentz())}
    row, steps = Row("Lorentz batch norm / BatchNorm2d, 16 x 64 x 32 x 32", 3.5, 1.35), {}
    for name, layer in layers.items():
        layer.to(options.device)
        leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
        row.saved[name] = saved_bytes(lambda layer=layer, leaf=leaf: layer(leaf), layer.parameters())  # type: ignore[misc]

        def step(layer: nn.Module = layer, leaf: Tensor = leaf) -> None:
            leaf.grad = None
            layer(leaf).backward(g)

        steps[name] = step
    return interleave(row, steps, repeats=5 * options.repeats, warmup=5, device=options.device)


def optimizer_row(kind: str, options: argparse.Namespace) -> Row:
    """Optimizer step with the curvature scheme on hecnn_r50 against torch's fastest of the same kind."""
    network = model("hecnn_r50", image_size=32, device=options.device)
    for parameter in network.parameters():
        parameter.grad = 1e-3 * torch.randn_like(parameter)
    plain = [p.detach().clone().requires_grad_() for p in network.parameters()]
    for copy, parameter in zip(plain, network.parameters(), strict=True):
        copy.grad = parameter.grad
    groups = parameter_groups(network, lr=1e-3, weight_decay=5e-4)
    ours: torch.optim.Optimizer
    if kind == "sgd":
        ours = RiemannianSGD(groups, lr=1e-3, momentum=0.9, nesterov=True)
        make_plain: Callable[..., torch.optim.Optimizer] = torch.optim.SGD
        settings: dict[str, Any] = {"lr": 1e-3, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}
    else:
        ours = RiemannianAdamW(groups, lr=1e-3)
        make_plain, settings = torch.optim.AdamW, {"lr": 1e-3, "weight_decay": 5e-4}
    fused, foreach = (make_plain(plain, **settings, **{kind: True}) for kind in ("fused", "foreach"))
    fastest = min((fused, foreach), key=lambda optimizer: _best_of(optimizer.step))
    row = Row(f"{type(ours).__name__} / {type(fastest).__name__} on hecnn_r50", 1.3, None)
    steps = {"torch": lambda: fastest.step(), "hyplearn": lambda: ours.step()}
    return interleave(row, steps, repeats=5 * options.repeats, warmup=3, device=options.device)


def _best_of(step: Callable[[], Any], repeats: int = 5) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return min(times)


def loader_rate(options: argparse.Namespace) -> float:
    """Images a second of the in-memory loader with augmentation, 32 x 32 x 3, batch 128."""
    augmentation = "{_target_: hyplearn.data.batches.transforms.Augmentation, crop_padding: 4, horizontal_flip: 0.5}"
    sizes = ["dataset.source.image_size=32", "dataset.source.in_channels=3", "dataset.source.train_size=20000"]
    overrides = ["dataset=synthetic", *sizes, "dataset.batch_size=128", f"dataset.augmentation={augmentation}"]
    config = compose(overrides).config
    data = make(config["dataset"], "dataset", seed=1)
    data.prepare_data()
    data.setup("fit")
    count, start = 0, time.perf_counter()
    for epoch in range(3):
        for images, *_ in data.batches("train", epoch=epoch):
            count += len(images)
    return count / (time.perf_counter() - start)


MODELS = {
    "hcnn_r18": (("euclidean_r18", "hcnn_r18"), (1.35, 1.15)),
    "hecnn_r18": (("euclidean_r18", "hecnn_r18"), (1.25, 1.10)),
    "hcnn_original_r18": (("euclidean_r18", "hcnn_original_r18"), (1.4, 1.2)),
    "hecnn_r50": (("euclidean_r50", "hecnn_r50"), (1.25, 1.10)),
}
GPU_MODELS = {
    "hecnn_r50": (("euclidean_r50", "hecnn_r50"), (1.3, 1.2)),
    "hcnn_r18": (("euclidean_r18", "hcnn_r18"), (1.3, 1.2)),
}


def rows(options: argparse.Namespace) -> Iterable[Row]:
    """The rows asked for, measured one after the other."""

    def wanted(name: str) -> bool:
        return options.only is None or options.only in name

    for name, (names, targets) in (GPU_MODELS if options.device == "cuda" else MODELS).items():
        for batch in options.batches:
            if wanted(name):
                yield models_row(names, targets, batch=batch, options=options)
    if wanted("batchnorm"):
        yield batch_norm_row(options)
    for kind in ("sgd", "adamw"):
        if wanted(f"optimizer_{kind}"):
            yield optimizer_row(kind, options)
    yield from retrieval_rows(options, wanted)
    if options.device == "cpu":
        yield from search_rows(options, wanted)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only",
        help="rows whose name contains this: hcnn, r50, batchnorm, optimizer, loader, pairwise (pairwise_lorentz_384), "
        "moebius, hier (hier_loss, hier_sampler), mix_step, recall (recall_poincare), search (search_faiss_100000)",
    )
    parser.add_argument("--repeats", type=int, default=11, help="rounds of a row (5 times as many for small ones)")
    parser.add_argument("--batches", type=int, nargs="+", help="default: 16 128 on a CPU, 128 on a GPU")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--recall-size", type=int, default=60_502, help="images of the retrieval rows (default: SOP's)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=("32", "bf16"), help="default: 32 on a CPU, bf16 on a GPU")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="default: on a GPU")
    options = parser.parse_args()
    on_gpu = options.device == "cuda"
    options.batches = options.batches or ([128] if on_gpu else [16, 128])
    options.precision = options.precision or ("bf16" if on_gpu else "32")
    options.compile = on_gpu if options.compile is None else options.compile
    return options


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    measured = []
    print(HEADER)
    for row in rows(options):
        measured.append(row)
        print(row.line(), flush=True)
    if options.only is None or "loader" in options.only:
        rate = loader_rate(options)
        print(f"| loader and augmentation, 32 x 32 x 3, batch 128 | | | | | {rate:.0f} | target 30000 |")
    folder = Path("outputs/benchmark")
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}.json"
    record = {"options": vars(options), "torch": torch.__version__, "rows": [asdict(row) for row in measured]}
    file.write_text(json.dumps(record, indent=1))
    print(f"\nwritten to {file}")


if __name__ == "__main__":
    main()

"""Rows of the benchmark for metric learning: distances of all pairs, losses, and exact retrieval."""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
import torch
from measure import Row, interleave
from references import hier_reference, hier_triplets_by_loop, moebius_distance_matrix
from torch import Tensor, nn

from hyplearn.config.build import loss as make_loss
from hyplearn.config.build import model as make_model
from hyplearn.config.compose import compose
from hyplearn.evaluation import metric, recall
from hyplearn.inference.costs import available_bytes, peak_bytes, resident_bytes
from hyplearn.losses import HIER
from hyplearn.losses.proxy_points import at_distance
from hyplearn.losses.triplets import reciprocal_triplets
from hyplearn.manifolds import CurvedManifold, Lorentz, PoincareBall
from hyplearn.manifolds.family import Kind
from hyplearn.nn.space import Space

C, CLIP = 0.1, 2.3  # of the retrieval papers
BATCH, PROXIES = 180, 512  # of HIER
KS = (1, 10, 100, 1000)
MOEBIUS_BYTES_PER_ENTRY = 30  # of the (N, M, n) tensors: 24 are held at the peak of forward and backward


def curved(kind: str) -> CurvedManifold:
    """The space of sectional curvature -0.1."""
    made: CurvedManifold = {"poincare": PoincareBall, "lorentz": Lorentz}[kind](C, learned=False)
    return made


def trained_points(
    count: int, n: int, manifold: CurvedManifold, *, per_class: int = 1, spread: float = 0.0, seed: int = 0
) -> Tensor:
    """Points (count, n) as a trained network gives them: half of the vectors at the clip radius, half within it.

    Vectors before the exponential map have lengths uniform in [1.6, 3.0], cut at 2.3. Each class has a random
    direction, and noise of `spread` times its length beside it: within a class the cosine is 1 / (1 + spread^2).
    """
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(-(-count // per_class), n, generator=generator) / n**0.5
    vectors = centres.repeat_interleave(per_class, 0)[:count]
    vectors = vectors + spread * torch.randn(count, n, generator=generator) / n**0.5
    lengths = (1.6 + 1.4 * torch.rand(count, 1, generator=generator)).clamp(max=CLIP)
    return at_distance(2 * lengths * torch.nn.functional.normalize(vectors, dim=1), manifold)


def leaf(x: Tensor, device: str) -> Tensor:
    return x.detach().to(device).requires_grad_()


def gradients(distances: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, g: Tensor) -> Callable[[], object]:
    """Forward and backward pass of the distances; nothing is kept."""
    return lambda: torch.autograd.grad(distances(x, y), (x, y), g)


def pairwise_row(kind: str, n: int, options: argparse.Namespace, *, classes: bool = False, size: int = 900) -> Row:
    """Distances of all pairs against one matrix product and a square root, forward and backward.

    The bytes are in units of one (N, M) tensor: the peak of the distances, their gradient and all in between.
    classes: of a batch with itself, tight classes of nine, so that 8,100 pairs are close; else of random points.
    """
    manifold, device = curved(kind), options.device
    if classes:
        x = y = leaf(trained_points(size, n, manifold, per_class=9, spread=0.3), device)
    else:
        x, y = (leaf(trained_points(size, n, manifold, seed=seed), device) for seed in (0, 1))
    a, b = (leaf(t.abs(), device) for t in (x, y))
    g = torch.randn(size, size, device=device)
    space = Space(manifold).to(device)
    what = "batch of classes of nine" if classes else "random points"
    row = Row(f"{kind} distance {size} x {size} x {n}, {what} (bytes in N M) / matmul + sqrt", 2.5, 6.0)
    peak = peak_bytes(lambda: torch.autograd.grad(space.distance(x, y), (x, y), g.clone()), device)
    row.saved = {"one (N, M) tensor": 4 * size * size, "hyplearn": peak}
    steps = {
        "matmul + sqrt": gradients(lambda a, b: (a @ b.mT).sqrt(), a, b, g),
        "hyplearn": gradients(space.distance, x, y, g),
    }
    return interleave(row, steps, repeats=5 * options.repeats, warmup=3, device=device)


def moebius_row(size: int, options: argparse.Namespace, *, n: int = 128, repeats: int) -> Row:
    """Distances by Moebius addition against ours, forward and backward."""
    manifold, device = curved("poincare"), options.device
    x, y = (leaf(trained_points(size, n, manifold, seed=seed), device) for seed in (0, 1))
    g = torch.randn(size, size, device=device)
    space = Space(manifold).to(device)
    row = Row(f"Moebius addition {size} x {size} x {n} / poincare distance", 50, None, at_least=True)
    steps = {
        "hyplearn": gradients(space.distance, x, y, g),
        "Moebius addition": gradients(lambda x, y: moebius_distance_matrix(x, y, C), x, y, g),
    }
    row.saved = {name: peak_bytes(step, device) for name, step in steps.items()}
    return interleave(row, steps, repeats=repeats, warmup=0, device=device)


def hier_row(options: argparse.Namespace) -> Row:
    """HIER, batch and proxies of the paper, against its published form: forward and backward, time and peak bytes."""
    manifold, device = curved("poincare"), options.device
    spaces = [Space(manifold)]
    loss = HIER(spaces=spaces, sizes=[128]).to(device)
    x = leaf(trained_points(BATCH, 128, manifold, per_class=2, spread=0.5), device)
    rho, labels = leaf(loss.rho, device), _pairs(device)
    generator, rng = torch.Generator(device).manual_seed(0), np.random.default_rng(0)
    published = partial(
        hier_reference, c=C, tau=loss.tau, margin=loss.margin, topk=loss.topk, per_anchor=loss.triplets, rng=rng
    )

    def reference() -> object:
        return torch.autograd.grad(published(x, labels, rho), (x, rho))

    def ours() -> object:
        return torch.autograd.grad(loss([x], labels, spaces, generator=generator), (x, loss.rho))

    row = Row(f"HIER, batch {BATCH} + {PROXIES} proxies / published form", 0.3, 0.3)
    steps = {"published form": reference, "hyplearn": ours}
    row.saved = {name: peak_bytes(step, device) for name, step in steps.items()}
    return interleave(row, steps, repeats=options.repeats, warmup=0, device=device)


def sampler_row(options: argparse.Namespace) -> Row:
    """The triplets of HIER, of the batch and of the proxies, against the published loop over anchors."""
    manifold = curved("poincare")
    x = trained_points(BATCH, 128, manifold, per_class=2, spread=0.5)
    loss, labels = HIER(spaces=[Space(manifold)], sizes=[128]), _pairs("cpu")
    draws = {"topk": loss.topk, "per_anchor": loss.triplets}
    with torch.no_grad():
        batch, proxies = manifold.cdist(x, x), manifold.cdist(loss.rho, loss.rho)
    generator, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)

    def reference() -> None:
        hier_triplets_by_loop((-batch).exp() + (labels[:, None] == labels), **draws, rng=rng)
        hier_triplets_by_loop((-proxies).exp(), **draws, rng=rng)

    def ours() -> None:
        reciprocal_triplets(batch, labels, **draws, generator=generator)
        reciprocal_triplets(proxies, None, **draws, generator=generator)

    row = Row(f"sampler of HIER, batch {BATCH} and {PROXIES} proxies / published loop", 0.15, None)
    steps = {"published loop": reference, "hyplearn": ours}
    return interleave(row, steps, repeats=5 * options.repeats, warmup=2, device="cpu")


def _pairs(device: str) -> Tensor:
    """Labels of a batch with two images of each class."""
    return torch.arange(BATCH // 2, device=device).repeat_interleave(2)


def mix_row(options: argparse.Namespace) -> Row:
    """Training step of Mix-ViT against Sph-ViT, both on the small ViT: forward, loss and backward."""
    device = options.device
    images, labels = torch.randn(BATCH, 3, 32, 32, device=device), _pairs(device)
    row = Row(f"mix_vit_s / sph_vit_s step, small ViT, 32 x 32, batch {BATCH}", 1.1, None, images=BATCH)
    known = {"in_channels": 3, "num_classes": BATCH // 2, "image_size": 32}
    steps: dict[str, Callable[[], None]] = {}
    for name in ("sph_vit_s", "mix_vit_s"):
        torch.manual_seed(0)
        config = compose([f"model={name}", "backbone=vit_small_images"]).config
        network = make_model(config, known).to(device)
        loss = make_loss(config, network, known).to(device)

        def step(network: nn.Module = network, loss: nn.Module = loss) -> None:
            network.zero_grad(set_to_none=True)
            loss(network(images), labels, network.spaces).backward()

        steps[name] = step
    return interleave(row, steps, repeats=2 * options.repeats, warmup=2, device=device)


def recall_row(kind: Kind, options: argparse.Namespace) -> Row:
    """Recall of all against all, k = 1000, against a bare float32 product of blocks and its topk.

    In a process of its own, whose peak resident set beyond the inputs is the memory, in GB (1e9 bytes). The full
    size takes minutes, so there is one round of it; smaller ones have three.
    """
    size, n = options.recall_size, 128
    rounds = 1 if size > 20_000 else 3
    points = trained_points(size, n, curved(kind), per_class=5, spread=0.5).numpy()
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as apart:
        seconds, peak = apart.submit(retrieve, kind, points, options.threads, rounds).result()
    row = Row(f"recall of {size} x {n}, k = {max(KS)}, {kind} (bytes in GB) / product + topk", 1.5, 1.5, images=size)
    row.seconds, row.saved = seconds, {"GB": 10**9, "hyplearn": peak}
    return row


def retrieve(
    kind: Kind, points: np.ndarray[tuple[int, int], np.dtype[np.float32]], threads: int, rounds: int
) -> tuple[dict[str, list[float]], int]:
    """Seconds of each round, the reference first, and the most memory that recall took beyond its inputs."""
    torch.set_num_threads(threads)
    x = torch.from_numpy(points)
    labels = torch.arange(len(x)) // 5
    few = metric.Embeddings(x[:2000], metric.Metric(kind, C))
    recall.evaluate(few, labels[:2000], ks=KS[:2])  # imports and thread pools are not what is measured
    product_topk(x[:2000], KS[-1])
    seconds: dict[str, list[float]] = {"product + topk": [], "hyplearn": []}
    peak, before = 0, resident_bytes()
    for _ in range(rounds):
        start = time.perf_counter()
        recall.evaluate(metric.Embeddings(x, metric.Metric(kind, C)), labels, ks=KS)
        seconds["hyplearn"].append(time.perf_counter() - start)
        peak = peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
        start = time.perf_counter()
        product_topk(x, KS[-1])
        seconds["product + topk"].append(time.perf_counter() - start)
    return seconds, peak


def product_topk(x: Tensor, k: int, rows: int = 512) -> None:
    """The k largest inner products of every row with all rows, in float32."""
    values, indices = x.new_empty(rows, k), torch.empty(rows, k, dtype=torch.int64)
    space = x.new_empty(rows, len(x))
    for block in x.split(rows):
        size = len(block)
        product = torch.mm(block, x.mT, out=space[:size])
        torch.topk(product, k, out=(values[:size], indices[:size]))


KINDS: tuple[Kind, ...] = ("poincare", "lorentz")
PARTS = {"hier_loss": hier_row, "hier_sampler": sampler_row, "mix_step": mix_row}


def retrieval_rows(options: argparse.Namespace, wanted: Callable[[str], bool]) -> Iterator[Row]:
    """The rows whose name is `wanted`, measured one after the other."""
    rows: dict[str, Callable[[], Row]] = {}
    for kind in KINDS:
        rows |= {f"pairwise_{kind}_{n}": partial(pairwise_row, kind, n, options) for n in (128, 384)}
        rows[f"pairwise_{kind}_classes"] = partial(pairwise_row, kind, 128, options, classes=True)
    rows["moebius_300"] = partial(moebius_row, 300, options, repeats=options.repeats)
    rows["moebius_900"] = partial(moebius_row, 900, options, repeats=1)
    rows |= {part: partial(made, options) for part, made in PARTS.items()}
    if options.device == "cpu":
        rows |= {f"recall_{kind}": partial(recall_row, kind, options) for kind in KINDS}
    for name, made in rows.items():
        if wanted(name) and not (name == "moebius_900" and _lacks_memory(900 * 900 * 128, options.device)):
            yield made()


def _lacks_memory(entries: int, device: str) -> bool:
    """Whether the Moebius addition of so many coordinates cannot be measured here, which is then said."""
    needed = MOEBIUS_BYTES_PER_ENTRY * entries
    free = torch.cuda.mem_get_info()[0] if device == "cuda" else available_bytes()
    if free is None:  # not known, as other than on Linux
        return False
    if free < needed:
        print(f"| Moebius addition at 900 not measured: it needs {needed / 1e9:.0f} GB | | | | | | |")
    return free < needed

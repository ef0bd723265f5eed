"""How fast Lorentz networks learn beside their Euclidean twin: the first step, and a small budget of training.

    python scripts/learning_speed.py statistics
    python scripts/learning_speed.py train --data digits --epochs 6 --seeds 1 2 3

`statistics`: spread of the logits between images and gradient norms at initialisation, by width, size and curvature.
`train`: a plain loop, no trainer. Every arm sees the same images, batches, augmentation and rates; test accuracy and
the mean training loss are those of the last epoch. Images: scikit-learn's digits, and Fashion-MNIST from the files of
Debian's package dataset-fashion-mnist (28 pixels, or others by --sizes). An arm is `model:head_init`, or a model alone,
with further overrides after it: `hcnn_r18:matched,manifold.c=0.5`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyplearn.config import build
from hyplearn.config.compose import compose
from hyplearn.config.schema import read
from hyplearn.data.datamodule import ImageDataModule
from hyplearn.optim import parameter_groups
from hyplearn.optim.schedule import build_schedule

FASHION = "/usr/share/datasets/fashion-mnist"
ARMS = ("euclidean_r18", "hcnn_r18:published", "hcnn_r18:matched", "hecnn_r18:published", "hecnn_r18:matched")


class Start(NamedTuple):
    """What is read before the first step: spread of the logits between images, norms of gradients."""

    spread: float
    convolutions: float
    head: float


class Finish(NamedTuple):
    """What is read after the last epoch: accuracy on test images in per cent, mean loss of the training batches."""

    accuracy: float
    loss: float
    seconds: float


def configuration(arm: str, options: argparse.Namespace, *, width: int, seed: int, image_size: int | None) -> Any:
    """Compose the configuration of an arm."""
    name, *extra = arm.split(",")
    model, _, head_init = name.partition(":")
    overrides = [f"model={model}", f"dataset={options.data}", f"model.width={width}", f"seed={seed}"]
    overrides += [f"dataset.limit_train={options.images}", f"dataset.batch_size={options.batch}"]
    if model != "euclidean_r18":
        overrides.append("optim=rsgd")
    if head_init:
        overrides.append(f"model.head_init={head_init}")
    if options.data == "fashion_mnist":
        overrides.append(f"dataset.root={FASHION}")
    if image_size:
        overrides.append(f"dataset.image_size={image_size}")
    return compose(overrides + extra).config


def prepared(config: Any) -> tuple[ImageDataModule, nn.Module]:
    """The data and a new model; the model's weights depend on the seed alone."""
    data = build.images(config)
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    torch.manual_seed(config["seed"])
    return data, build.model(config, build.facts(data))


def at_start(network: nn.Module, images: Tensor, labels: Tensor) -> Start:
    """Measure a new network on one batch."""
    network.train()
    logits = network(images)
    F.cross_entropy(logits, labels).backward()

    def norm(part: str) -> float:
        grads = [p.grad for name, p in network.named_parameters() if part in name and p.grad is not None]
        return torch.stack([grad.square().sum() for grad in grads]).sum().sqrt().item()

    return Start(logits.std(0).square().mean().sqrt().item(), norm("conv"), norm("head."))


def trained(config: Any, epochs: int) -> Finish:
    """Train and test."""
    data, network = prepared(config)
    settings = read(config).optim
    groups = parameter_groups(
        network,
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        manifold_lr_scale=settings.manifold_lr_scale,
        manifold_weight_decay=settings.manifold_weight_decay,
        curvature_lr=settings.curvature_lr,
    )
    optimizer, steps = build.optimizer(config, groups), len(data.train_dataloader())
    schedule = build_schedule(optimizer, settings.schedule, total_epochs=epochs, steps_per_epoch=steps)
    began, losses = time.perf_counter(), []
    network.train()
    for epoch in range(epochs):
        losses = []
        for images, labels, *_ in data.batches("train", epoch=epoch):
            optimizer.zero_grad()
            loss = F.cross_entropy(network(images), labels)
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
    return Finish(_accuracy(network, data), statistics.mean(losses), time.perf_counter() - began)


@torch.no_grad()
def _accuracy(network: nn.Module, data: ImageDataModule) -> float:
    network.eval()
    right = total = 0
    for images, labels, *_ in data.batches("test"):
        right += int((network(images).argmax(1) == labels).sum())
        total += len(labels)
        if total >= 1000:
            break
    return 100 * right / total


def starts(options: argparse.Namespace) -> Iterator[str]:
    """Rows of the table at initialisation."""
    yield "| px | width | arm | spread of logits | gradient, convolutions | gradient, head |"
    yield "|---|---|---|---|---|---|"
    for size in options.sizes:
        for width in options.widths:
            for arm in options.arms:
                rows = []
                for seed in options.seeds:
                    config = configuration(arm, options, width=width, seed=seed, image_size=size)
                    data, network = prepared(config)
                    images, labels, *_ = next(iter(data.batches("train")))
                    rows.append(at_start(network, images, labels))
                means = [statistics.mean(column) for column in zip(*rows, strict=True)]
                yield f"| {size} | {width} | {arm} | " + " | ".join(f"{mean:.3f}" for mean in means) + " |"


def finishes(options: argparse.Namespace) -> Iterator[str]:
    """Rows of the table after training."""
    yield "| px | width | epochs | arm | test accuracy, % | mean | training loss | mean | seconds |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for size in options.sizes:
        for width in options.widths:
            for arm in options.arms:
                configs = [
                    configuration(arm, options, width=width, seed=seed, image_size=size) for seed in options.seeds
                ]
                done = [trained(config, options.epochs) for config in configs]
                yield _finish_row(f"{size} | {width} | {options.epochs} | {arm}", done)


def _finish_row(start: str, done: Sequence[Finish]) -> str:
    accuracy, loss = [run.accuracy for run in done], [run.loss for run in done]
    cells = [" ".join(f"{value:.1f}" for value in accuracy), f"{statistics.mean(accuracy):.1f}"]
    cells += [" ".join(f"{value:.3f}" for value in loss), f"{statistics.mean(loss):.3f}"]
    return f"| {start} | " + " | ".join(cells) + f" | {statistics.mean(run.seconds for run in done):.0f} |"


def main() -> None:
    """Print a table, row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("statistics", "train"))
    parser.add_argument("--data", choices=("digits", "fashion_mnist"), default="digits")
    parser.add_argument("--sizes", type=int, nargs="+", default=[None], help="pixels; left out: as the images are")
    parser.add_argument("--widths", type=int, nargs="+", default=[8])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--arms", nargs="+", default=list(ARMS))
    parser.add_argument("--images", type=int, default=2000, help="training images")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=6)
    options = parser.parse_args()
    for row in (starts if options.what == "statistics" else finishes)(options):
        print(row, flush=True)


if __name__ == "__main__":
    main()

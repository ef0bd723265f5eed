"""A trained model at work on images that no data set holds, with the pixels and the precision of its own test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from hyplearn.data.batches.transforms import Normalization
from hyplearn.data.datamodule import ImageDataModule
from hyplearn.data.errors import BadImageError, DatasetError
from hyplearn.data.outside_images import ToPixels, chunks, decoder
from hyplearn.evaluation.metric import Embeddings, Metric
from hyplearn.manifolds import Euclidean
from hyplearn.models.base import Model, Retriever, as_classifier
from hyplearn.nn.space import Space
from hyplearn.training.module import TrainingModule
from hyplearn.training.retrieval import RetrievalModule
from hyplearn.training.retrieval_metrics import metric_of, trained_metrics

Progress = Callable[[int, int], None]
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Outputs(NamedTuple):
    """Of a batch, on the CPU. points: (B, n_i) for each space. logits: of a classifier. features: of a backbone."""

    points: tuple[Tensor, ...]
    logits: Tensor | None
    features: Tensor | None


class Results(NamedTuple):
    """Of all files. positions: (N,) of those that could be read; outputs in their order. bad: the others."""

    positions: Tensor
    outputs: Outputs
    bad: tuple[BadImageError, ...]


@dataclass(frozen=True, eq=False)
class Trained:
    """A model with its weights, and what it takes to use it.

    metrics: what compares the points of each space; None for a space that the loss leaves out. Of a classifier there
    is one, that of the points its head sees. class_names: of a classifier, where they are known.
    """

    model: nn.Module
    retrieval: bool
    to_pixels: ToPixels
    normalization: Normalization
    metrics: tuple[Metric | None, ...]
    class_names: tuple[str, ...] | None
    precision: str
    device: torch.device

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Outputs:
        """Outputs of images (B, H, W, C) uint8, computed as the test of a run computes them."""
        images = self.normalized(pixels)
        if self.retrieval:
            retriever = cast(Retriever, self.model)
            features = retriever.features(images)
            return Outputs(tuple(x.cpu() for x in retriever.points(features)), None, features.float().cpu())
        classifier = as_classifier(self.model)
        reduced = AUTOCAST.get(self.precision)
        with torch.autocast(self.device.type, dtype=reduced, enabled=reduced is not None):
            embedding = classifier.embed(images)
            logits = classifier.head(embedding)
        points = embedding.to(torch.promote_types(embedding.dtype, torch.float32))
        return Outputs((points.cpu(),), logits.to(torch.promote_types(logits.dtype, torch.float32)).cpu(), None)

    def normalized(self, pixels: Tensor) -> Tensor:
        """What the model reads, (B, C, H, W) on its device, of images (B, H, W, C) uint8."""
        images = self.normalization(pixels.to(self.device).permute(0, 3, 1, 2))
        return images.to(next(self.model.parameters()).dtype)

    def read(self, paths: Sequence[Path]) -> Tensor:
        """Pixels (B, H, W, C) uint8 of image files. Raises BadImageError for one that cannot be read."""
        return torch.stack([self.to_pixels(path) for path in paths])

    def embeddings(self, points: Sequence[Tensor]) -> Embeddings:
        """Points of each space as what evaluation compares."""
        counted = [(x, metric) for x, metric in zip(points, self.metrics, strict=True) if metric is not None]
        return Embeddings([x for x, _ in counted], [metric for _, metric in counted])


def trained(
    module: TrainingModule,
    data: ImageDataModule,
    *,
    channels: int,
    size: int,
    class_names: Sequence[str] | None,
    precision: str,
    device: torch.device,
) -> Trained:
    """A module with its weights as something to use. Raises ValueError while data have no mean and std."""
    retrieval = isinstance(module, RetrievalModule)
    metrics: Sequence[Metric | None]
    if isinstance(module, RetrievalModule):
        metrics = trained_metrics(module.spaces, module.loss)
    else:
        metrics = [seen_by_head(module.network)]
    return in_use(
        module.model,
        data,
        retrieval=retrieval,
        metrics=metrics,
        channels=channels,
        size=size,
        class_names=class_names,
        precision=precision,
        device=device,
    )


def in_use(
    model: nn.Module,
    data: ImageDataModule,
    *,
    retrieval: bool,
    metrics: Sequence[Metric | None],
    channels: int,
    size: int,
    class_names: Sequence[str] | None,
    precision: str,
    device: torch.device,
) -> Trained:
    """The same for a model alone, whose metrics are known."""
    if data.normalization is None:
        raise ValueError("dataset.mean=null and dataset.std=null: the run does not say how pixels are normalised")
    model = (model.double() if precision == "64" else model).to(device).eval()
    return Trained(
        model=model,
        retrieval=retrieval,
        to_pixels=decoder(data, channels=channels, size=size),
        normalization=data.normalization,
        metrics=tuple(metrics),
        class_names=None if class_names is None else tuple(class_names),
        precision=precision,
        device=device,
    )


def seen_by_head(model: Model) -> Metric:
    """What compares the points that a classifier's head sees: those of its last manifold, or of Euclidean space."""
    manifolds = list(model.manifolds().values())
    return metric_of(Space(manifolds[-1] if manifolds else Euclidean()))


def apply(
    model: Trained, paths: Sequence[Path], *, batch_size: int, skip_unreadable: bool, progress: Progress | None = None
) -> Results:
    """Outputs of image files. Raises DatasetError that names every bad one, unless they are to be left out."""
    positions, outputs = [], []
    bad: list[BadImageError] = []
    for chunk in chunks(paths, model.to_pixels, size=batch_size):
        bad += chunk.bad
        stopped = bool(bad) and not skip_unreadable
        if len(chunk.positions) and not stopped:  # once one is bad, the others are only looked through
            positions.append(chunk.positions)
            outputs.append(model(chunk.pixels))
        if progress is not None:
            progress(len(chunk.positions) + len(chunk.bad), len(paths))
    if bad and not skip_unreadable:
        raise unreadable(bad, total=len(paths))
    if not positions:
        raise DatasetError(f"none of the {len(paths)} images can be read:\n{listed(bad)}")
    return Results(torch.cat(positions), joined(outputs), tuple(bad))


def joined(parts: Sequence[Outputs]) -> Outputs:
    """Outputs of batches as those of one."""
    logits, features = ([getattr(part, name) for part in parts] for name in ("logits", "features"))
    return Outputs(
        tuple(torch.cat(space) for space in zip(*(part.points for part in parts), strict=True)),
        None if logits[0] is None else torch.cat(logits),
        None if features[0] is None else torch.cat(features),
    )


def unreadable(bad: Sequence[BadImageError], *, total: int) -> DatasetError:
    """The error for files that nobody said to leave out."""
    return DatasetError(
        f"{len(bad)} of {total} images cannot be read:\n{listed(bad)}\n"
        "repair or remove these files, or leave them out with --skip-unreadable"
    )


def listed(bad: Sequence[BadImageError]) -> str:
    """One line for each."""
    return "\n".join(f"  {error}" for error in bad)


def metrics_to_json(metrics: Sequence[Metric | None]) -> list[dict[str, Any] | None]:
    """kind, c and weight of each, in types that JSON knows."""
    return [None if m is None else {"kind": m.kind, "c": m.c, "weight": m.weight} for m in metrics]


def metrics_from_json(entries: Sequence[dict[str, Any] | None]) -> tuple[Metric | None, ...]:
    """What `metrics_to_json` wrote."""
    return tuple(None if entry is None else Metric(**entry) for entry in entries)

"""What a trained model makes of images on the way to its output: points of every part, with what compares them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hyplearn.evaluation.metric import Metric
from hyplearn.inference.prediction import AUTOCAST, Progress, Trained
from hyplearn.manifolds import Euclidean
from hyplearn.models import ResNet
from hyplearn.nn.space import Space, numbered
from hyplearn.training.retrieval_metrics import metric_of

BATCH = 256


class Features(NamedTuple):
    """Of N images. points: (N, n), on the CPU. metric: what they are compared by."""

    points: Tensor
    metric: Metric


Kind = Callable[[Trained, Tensor], dict[str, Features]]


def stages(model: Trained, pixels: Tensor) -> dict[str, Features]:
    """Pooled outputs of the stem and of each stage of a classifier."""
    network = model.model
    assert isinstance(network, ResNet)
    reduced = AUTOCAST.get(model.precision)
    with torch.no_grad(), torch.autocast(model.device.type, dtype=reduced, enabled=reduced is not None):
        found = network.stage_points(model.normalized(pixels))
    return {
        name: Features(_wide(points), metric_of(Space(manifold or Euclidean())))
        for name, (points, manifold) in found.items()
    }


def embedding(model: Trained, pixels: Tensor) -> dict[str, Features]:
    """Points of each space of the model, under the distance of that space."""
    points = model(pixels).points
    counted = [(x, metric) for x, metric in zip(points, model.metrics, strict=True) if metric is not None]
    if len(counted) == 1:
        return {"embedding": Features(*counted[0])}
    names = numbered([metric.kind for _, metric in counted])
    return {f"embedding, {name}": Features(*part) for name, part in zip(names, counted, strict=True)}


def backbone(model: Trained, pixels: Tensor) -> dict[str, Features]:
    """Features before the head of a retrieval model, as they are."""
    features = model(pixels).features
    assert features is not None
    return {"backbone": Features(features, Metric("euclidean"))}


KINDS: Mapping[str, Kind] = {"stages": stages, "backbone": backbone, "embedding": embedding}


def usual_kinds(model: nn.Module) -> tuple[str, ...]:
    """The `KINDS` that a model has."""
    return ("stages", "embedding") if isinstance(model, ResNet) else ("backbone", "embedding")


def features(
    model: Trained,
    pixels: Callable[[Tensor], Tensor],
    ids: Tensor,
    kinds: Sequence[str],
    *,
    progress: Progress | None = None,
) -> dict[str, Features]:
    """Of the images `ids` by the names of the parts. kinds: of `usual_kinds`. pixels: ids to (B, H, W, C) uint8."""
    found: dict[str, list[Features]] = {}
    for chunk in ids.split(BATCH):
        images = pixels(chunk)
        for kind in kinds:
            for name, part in KINDS[kind](model, images).items():
                found.setdefault(name, []).append(part)
        if progress is not None:
            progress(len(chunk), len(ids))
    return {
        name: Features(torch.cat([part.points for part in parts]), parts[0].metric) for name, parts in found.items()
    }


def _wide(points: Tensor) -> Tensor:
    return points.to(torch.promote_types(points.dtype, torch.float32)).cpu()

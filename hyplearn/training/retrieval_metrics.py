"""From the embeddings of a stage to its retrieval metrics: under the metric that was trained, and beside it others."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from typing import NamedTuple

import torch
from torch import Tensor

from hyplearn.data.sources.retrieval_source import Evaluation
from hyplearn.evaluation.clustering import clustering
from hyplearn.evaluation.metric import Embeddings, Metric
from hyplearn.evaluation.recall import QueryResults, concatenate, evaluate, summarize
from hyplearn.losses.base import EmbeddingLoss
from hyplearn.manifolds import CurvedManifold
from hyplearn.manifolds.family import Kind
from hyplearn.nn.processes import gather_rows, processes
from hyplearn.nn.space import Space, space_names
from hyplearn.training.finite import all_finite
from hyplearn.training.settings import EvaluationSettings

log = logging.getLogger("hyplearn")

COUNTS = ("queries", "lone_queries", "ties")  # of `summarize`; everything else is a share

Points = tuple[Tensor, ...]


class Embedded(NamedTuple):
    """A stage's images in the order of their ids, on the CPU: ids, points per space, and the backbone's features.

    Where nothing needs the features, several processes have one number for them, NaN if they are not finite.
    The ids are all there are, unless trainer.limit_*_batches leaves some out.
    """

    ids: Tensor
    points: Points
    features: Tensor


class Compared(NamedTuple):
    """What decides how embeddings are compared.

    spaces: of the model. loss: the one that was trained, whose metric ranks first. device: where the search runs,
    unless it is FAISS's. process: the rank of this process, which searches for its share of the queries. seed: of the
    clustering.
    """

    spaces: Sequence[Space]
    loss: EmbeddingLoss
    settings: EvaluationSettings
    device: torch.device
    process: int
    seed: int


class Ranked(NamedTuple):
    """A stage, ranked: what it holds, the embeddings under the trained metric, and what each query found."""

    data: Evaluation
    embeddings: Embeddings
    results: QueryResults


class RankedStage(NamedTuple):
    """What ranking a stage gives: its metrics by name in percent, and what each query found.

    Both are empty where there was nothing to rank: `{}` and None. Of embeddings that are not finite, recall@1 is NaN:
    a run with such a number has diverged.
    """

    metrics: dict[str, float]
    ranked: Ranked | None


NOTHING_RANKED = RankedStage({}, None)


def rank(
    embedded: Embedded,
    data: Evaluation,
    *,
    stage: str,
    compared: Compared,
    thumbnails: Callable[[Tensor], Tensor],
) -> RankedStage:
    """Rank a stage: `recall@1` of the trained metric, of the test also `cosine/recall@1`, `backbone/recall@1`.

    data: all images of the stage. thumbnails: the pixels of images, (n, H, W, C) uint8, by their ids (n,).
    Every process searches for its share of the queries; all get the same numbers.
    """
    data = subset(data, embedded.ids)
    if not all_finite([*embedded.points, embedded.features]):
        log.warning("embeddings of the %s images are not finite: nothing is ranked", stage)
        return RankedStage({"recall@1": math.nan}, None)
    if not (data.query.any() and data.gallery.any()):
        log.warning("trainer.limit_%s_batches leaves no query or no gallery image: nothing is ranked", stage)
        return NOTHING_RANKED
    settings, tested = compared.settings, stage == "test"
    ks = measured_ranks(settings, stage)
    found: dict[str, float] = {}
    ranked: Ranked | None = None
    for name, embeddings in metrics_of(embedded, compared, thumbnails, every=tested):
        results = searched(embeddings, data, ks, compared)
        if results.lone.all():
            log.warning("no %s query has an image of its class in the gallery: nothing is ranked", stage)
            return NOTHING_RANKED
        if not name:
            ranked = Ranked(data, embeddings, results)
        found |= percent(summarize(results, ks), name)
        if settings.nmi and tested and not name:
            found |= percent(clustering(embeddings, data.labels, seed=compared.seed), name)
    return RankedStage(found, ranked)


def metrics_of(
    embedded: Embedded, compared: Compared, thumbnails: Callable[[Tensor], Tensor], *, every: bool
) -> Iterator[tuple[str, Embeddings]]:
    """The trained metric, without a name, and, if `every` one is asked for, those beside it.

    Each space by itself under its own distance, by its name, where that is another metric than the trained one; cosine
    and Euclidean distance of the coordinates, those of several spaces side by side; cosine of the backbone's features;
    distance of the pixels.
    """
    points, spaces, settings = embedded.points, compared.spaces, compared.settings
    trained = trained_metrics(spaces, compared.loss)
    parts = [(x, metric) for x, metric in zip(points, trained, strict=True) if metric is not None]
    embeddings = Embeddings([x for x, _ in parts], [metric for _, metric in parts])
    yield "", embeddings
    if not every:
        return
    if len(points) > 1 or compared.loss.sees_directions:
        for name, x, space in zip(space_names(spaces), points, spaces, strict=True):
            yield name, Embeddings(x, metric_of(space))
    everything = embeddings if len(parts) == len(points) else Embeddings(torch.cat(points, dim=-1), Metric("euclidean"))
    beside: tuple[tuple[str, Kind], ...] = (("cosine", "sphere"), ("euclidean", "euclidean"))
    for name, kind in beside:
        if name in settings.metrics and not (len(trained) == 1 and parts[0][1].kind == kind):
            yield name, everything.under(Metric(kind))
    if settings.backbone:
        yield "backbone", Embeddings(embedded.features.float(), Metric("sphere"))
    if "pixels" in settings.metrics:
        pixels = thumbnails(embedded.ids).flatten(1)
        yield "pixels", Embeddings(pixels.float() / 255, Metric("euclidean"))


def trained_metrics(spaces: Sequence[Space], loss: EmbeddingLoss) -> list[Metric | None]:
    """What the loss compares points by in each space: the distance, or the cosine where it sees directions alone.

    Weighted as the loss weighs it, relative to the first that counts; None for a space that it leaves out.
    """
    weights = loss.distance_weights(spaces)
    first = next(weight for weight in weights if weight > 0)
    found: list[Metric | None] = []
    for space, weight in zip(spaces, weights, strict=True):
        metric = Metric("sphere", weight=weight / first) if loss.sees_directions and weight > 0 else None
        found.append(metric_of(space, weight / first) if metric is None and weight > 0 else metric)
    return found


def metric_of(space: Space, weight: float = 1.0) -> Metric:
    """What evaluation has to know of a space."""
    return Metric(space.name, space.c, weight)  # type: ignore[arg-type]


def subset(data: Evaluation, ids: Tensor) -> Evaluation:
    """Of the images that were embedded: all, unless trainer.limit_*_batches left some out."""
    if len(ids) == len(data.labels):
        return data
    return data._replace(
        labels=data.labels[ids],
        query=data.query[ids],
        gallery=data.gallery[ids],
        super_labels=None if data.super_labels is None else data.super_labels[ids],
        paths=None if data.paths is None else tuple(data.paths[index] for index in ids.tolist()),
    )


def measured_ranks(settings: EvaluationSettings, stage: str) -> list[int]:
    """Those asked for, and in validation rank 1, which may choose the checkpoint."""
    return sorted({1, *settings.k}) if stage == "val" else list(settings.k)


def searched(embeddings: Embeddings, data: Evaluation, ks: Sequence[int], compared: Compared) -> QueryResults:
    """What every query found; each process searches for every P-th one."""
    settings = compared.settings
    embeddings.hashes  # noqa: B018  # once for all metrics of the same coordinates, wherever they are searched
    on_device = embeddings.to(compared.device) if settings.index != "faiss" else embeddings
    results = evaluate(
        on_device,
        data.labels,
        query=data.query,
        gallery=data.gallery,
        ks=ks,
        index=settings.index,
        share=slice(compared.process, None, processes()),
        r_measures=settings.r_measures,
    )
    if processes() == 1:
        return results
    columns = {f.name: gather_rows(getattr(results, f.name), compared.device) for f in fields(QueryResults)}
    return concatenate([QueryResults(**columns)])


def percent(summary: dict[str, float], name: str) -> dict[str, float]:
    """Shares in percent under the name of the metric; counts once, with the trained one."""
    prefix = f"{name}/" if name else ""
    shares = {f"{prefix}{key}": 100 * value for key, value in summary.items() if key not in COUNTS}
    counts = {key: float(summary[key]) for key in COUNTS if key in summary and not name}
    return shares | counts


@torch.no_grad()
def radii_of(spaces: Sequence[Space], points: Sequence[Tensor]) -> dict[str, Tensor]:
    """Distances to the origin (N,) in each space that has a curvature, on the CPU."""
    found = {}
    for name, space, x in zip(space_names(spaces), spaces, points, strict=True):
        if isinstance(space.manifold, CurvedManifold):
            found[name] = space.manifold.dist0(x.to(space.manifold.c.device)).cpu()
    return found

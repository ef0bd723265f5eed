"""What a retrieval run leaves beside its numbers: embeddings, recall of every class, pictures, hard negatives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from hyplearn.data.randomness import generator
from hyplearn.data.retrieval_datamodule import RetrievalDataModule
from hyplearn.evaluation import store
from hyplearn.evaluation.metric import Embeddings, Metric
from hyplearn.evaluation.neighbours import neighbours
from hyplearn.evaluation.recall import Groups, by_group
from hyplearn.geometry.lorentz import d_max
from hyplearn.losses.hard_negatives import hard_negatives
from hyplearn.manifolds import CurvedManifold
from hyplearn.models.digest import weights_digest
from hyplearn.nn.space import Space, space_names
from hyplearn.plots.gallery import Shown, draw_gallery, draw_radii
from hyplearn.runs import spreadsheet
from hyplearn.runs.atomic import write_text
from hyplearn.runs.directory import RunDirectory
from hyplearn.training.loggers import RunLogger
from hyplearn.training.retrieval import LastBatch, RetrievalModule
from hyplearn.training.retrieval_metrics import Ranked, radii_of

NEIGHBOURS = 8  # in a row of the gallery
NEAREST = 6  # negatives that two spaces are compared by, as in Yue Figure 1


class RetrievalRecord(pl.Callback):
    """Writes what was asked for by `EvaluationSettings`, and gives pictures and histograms to `loggers`.

    Stands before the recorder of rows: readings of an epoch belong to its row. `selection` says how the tested weights
    were chosen, and is written into the file of the embeddings.
    """

    def __init__(self, folder: Path, *, figures: bool) -> None:
        self.record, self.figures, self.selection = RunDirectory(folder), figures, ""
        self.loggers: Sequence[RunLogger] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, RetrievalModule)
        epoch = trainer.current_epoch + 1
        if pl_module.last_batch is not None:
            batch = pl_module.last_batch
            scales = [scale.item() for scale in batch.scales]
            nearest = min(NEAREST, len(batch.labels) - int(batch.labels.bincount().max()))
            found = hard_negatives(batch.points, batch.labels, pl_module.spaces, scales, nearest=nearest)
            pl_module.row.update(found.as_row())
            if trainer.is_global_zero:
                save_batch(self.record.last_batch, batch, pl_module.spaces)
        if pl_module.stages["val"].metrics and self.loggers:
            self._histograms(pl_module, "val", epoch)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, RetrievalModule)
        ranked = pl_module.stages["test"].ranked
        if ranked is None or not trainer.is_global_zero:
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, RetrievalDataModule)
        settings, epoch = pl_module.settings, trainer.current_epoch
        if settings.save:
            self._save(pl_module, ranked)
        if settings.per_class:
            self._tables(ranked, settings.k)
        if self.figures:
            self._draw_radii(pl_module, ranked, epoch)
        if self.figures and settings.gallery:
            path = self.record.figures / "gallery.png"
            draw_gallery(path, gallery(ranked, data, pl_module), title=title(pl_module))
            for logger in self.loggers:
                logger.picture("test/gallery", path, epoch)
        self._histograms(pl_module, "test", epoch)

    def _save(self, module: RetrievalModule, ranked: Ranked) -> None:
        embedded = module.embedded["test"]
        store.save(
            self.record.test_embeddings,
            ranked.embeddings,
            labels=ranked.data.labels,
            ids=embedded.ids,
            query=ranked.data.query,
            gallery=ranked.data.gallery,
            super_labels=ranked.data.super_labels,
            backbone=embedded.features.float(),
            class_names=ranked.data.class_names,
            super_names=ranked.data.super_names,
            paths=ranked.data.paths,
            selection=self.selection,
            weights=weights_digest(module.model),
        )

    def _tables(self, ranked: Ranked, ks: Sequence[int]) -> None:
        groups = {"classes": (ranked.data.labels, ranked.data.class_names)}
        if ranked.data.super_labels is not None:
            groups["super_classes"] = (ranked.data.super_labels, ranked.data.super_names or ())
        for name, (labels, names) in groups.items():
            found = by_group(ranked.results, labels, ks)
            write_text(self.record.tables / f"{name}.csv", group_table(found, names))

    def _draw_radii(self, module: RetrievalModule, ranked: Ranked, epoch: int) -> None:
        radii = radii_of(module.spaces, ranked.embeddings.points)
        if radii:
            path = self.record.figures / "radius.png"
            draw_radii(path, radii, limits=limits(module))
            for logger in self.loggers:
                logger.picture("test/radius", path, epoch)

    def _histograms(self, module: RetrievalModule, stage: str, epoch: int) -> None:
        for name, values in radii_of(module.spaces, module.embedded[stage].points).items():
            for logger in self.loggers:
                logger.histogram(f"{stage}/radius/{name}", values, epoch)


def save_batch(path: Path, batch: LastBatch, spaces: Sequence[Space]) -> None:
    """Write <path>.npz and .safetensors.

    weight/tau of a space is stored as the weight of its metric, so that D is the D/tau of the loss.
    """
    metrics = [
        Metric(space.name, None if c is None else c.item(), scale.item())  # type: ignore[arg-type]
        for space, c, scale in zip(spaces, batch.curvatures, batch.scales, strict=True)
    ]
    embeddings = Embeddings(batch.points, metrics)
    store.save(path, embeddings, batch.labels, ids=batch.ids, selection="the last training batch")


def title(module: RetrievalModule) -> str:
    """What the gallery shows."""
    ranked = module.stages["test"].ranked
    assert ranked is not None
    return f"Test queries and their nearest neighbours by {ranked.embeddings}; misses first"


def limits(module: RetrievalModule) -> dict[str, float]:
    """The largest distance to the origin that float32 holds in each space that has one."""
    named = zip(space_names(module.spaces), module.spaces, strict=True)
    curved = {name: s.manifold for name, s in named if isinstance(s.manifold, CurvedManifold)}
    return {name: d_max(c=m.c.detach().float(), x_t_max=m.x_t_max).item() for name, m in curved.items()}


def gallery(ranked: Ranked, data: RetrievalDataModule, module: RetrievalModule) -> list[Shown]:
    """Queries with their neighbours: up to half of them misses of the nearest neighbour, drawn by the run's seed."""
    chosen = chosen_queries(ranked, module.settings.gallery, seed=module.seed)
    offered = ranked.data.gallery.nonzero().squeeze(1)
    found = neighbours(
        ranked.embeddings.select(chosen),
        ranked.embeddings.select(offered),
        min(NEIGHBOURS, len(offered)),
        query_ids=chosen,
        gallery_ids=offered,
        index="torch",
    )
    names, ids = ranked.data.class_names, module.embedded["test"].ids
    rows = []
    for query, index, distance in zip(chosen.tolist(), found.indices, found.distances, strict=True):
        near = offered[index[index >= 0]]
        rows.append(
            Shown(
                data.thumbnails("test", ids[[query]])[0],
                names[ranked.data.labels[query]],
                list(data.thumbnails("test", ids[near])),
                [names[label] for label in ranked.data.labels[near].tolist()],
                distance[: len(near)].tolist(),
            )
        )
    return rows


def chosen_queries(ranked: Ranked, count: int, *, seed: int) -> Tensor:
    """Positions of `count` queries, those whose nearest neighbour is of another class first and at most half."""
    results = ranked.results
    order = torch.randperm(len(results), generator=generator(seed, "gallery"))
    missed = (results.first[order] > 1) & ~results.lone[order]
    misses, others = order[missed][: (count + 1) // 2], order[~missed & ~results.lone[order]]
    return results.query[torch.cat([misses, others[: count - len(misses)]])]


def group_table(groups: Groups, names: Sequence[str]) -> str:
    """CSV: one line per class with its name, queries and means in percent."""
    rows: list[list[Any]] = [["label", "name", "queries", "lone_queries", *groups.values]]
    columns: list[Any] = [groups.group.tolist(), groups.queries.tolist(), groups.lone_queries.tolist()]
    means = zip(*((100 * values).tolist() for values in groups.values.values()), strict=True)
    for label, queries, lone, values in zip(*columns, means, strict=True):
        rows.append([label, names[label], queries, lone, *(f"{value:.4f}" for value in values)])
    return spreadsheet.table(rows)

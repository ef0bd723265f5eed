"""The test embeddings of a run: those it stored, else what its model makes of its test images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyplearn.errors import ConfigError
from hyplearn.runs.directory import RunDirectory

if TYPE_CHECKING:
    from hyplearn.data.retrieval_datamodule import RetrievalDataModule
    from hyplearn.evaluation.store import Stored


def retrieval_data(run: Path, root: Path | None, *, trust: Sequence[str] = ()) -> RetrievalDataModule:
    """The test images of a run, read. root: in place of its dataset.root. Raises ConfigError."""
    from hyplearn.config.build import datamodule
    from hyplearn.config.compose import change
    from hyplearn.config.explain import quoted
    from hyplearn.data.retrieval_datamodule import RetrievalDataModule

    moved = [] if root is None else [f"dataset.root={quoted(root)}"]
    record = RunDirectory.locate(run)
    changed = change(
        record.config, moved, allowed=lambda key: key == "dataset.root", file=record.config_file, trust=trust
    )
    data = datamodule(changed.config)
    if not isinstance(data, RetrievalDataModule):
        raise ConfigError("the run is one of a classifier: hard negatives are those of retrieval.")
    try:
        data.prepare_data()
        data.setup("test")
    except ValueError as error:
        raise ConfigError(f"the test images cannot be read: {error}") from error
    return data


def embeddings_of(run: Path, data: RetrievalDataModule, *, trust: Sequence[str] = ()) -> Stored:
    """Under the trained metric, by the ids of `data`. Raises ConfigError."""
    from hyplearn.evaluation import store

    kept = RunDirectory.locate(run).test_embeddings
    if run.is_dir() and kept.exists():
        try:
            return store.load(kept)
        except ValueError as error:
            raise ConfigError(str(error)) from error
    return _computed(run, data, trust)


def _computed(run: Path, data: RetrievalDataModule, trust: Sequence[str]) -> Stored:
    from hyplearn.evaluation.store import Stored
    from hyplearn.inference.features import features
    from hyplearn.inference.open import open_trained

    opened = open_trained(run, trust=trust)
    ids, known = data.ids("test"), data.evaluation("test")
    found = features(opened.model, lambda chosen: data.thumbnails("test", chosen), ids, ["embedding"])
    return Stored(
        points=tuple(part.points for part in found.values()),
        labels=known.labels,
        ids=ids,
        query=known.query,
        gallery=known.gallery,
        metrics=tuple(part.metric for part in found.values()),
        class_names=known.class_names,
        paths=known.paths,
        selection=opened.selection,
    )


def run_config(run: Path) -> dict[str, Any]:
    """Of the run directory, or of that of a checkpoint. Raises ConfigError where there is none."""
    return RunDirectory.locate(run).config

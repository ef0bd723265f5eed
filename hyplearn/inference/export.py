"""A trained model as files that need no run directory: weights with their geometry, preprocessing, index, ONNX."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from hyplearn.data.batches.crops import CenterCrop
from hyplearn.data.datamodule import ImageDataModule
from hyplearn.errors import ConfigError
from hyplearn.evaluation import index_file, store
from hyplearn.evaluation.index_file import Agreement
from hyplearn.evaluation.metric import Metric
from hyplearn.evaluation.neighbours import MARGIN
from hyplearn.evaluation.store import Stored
from hyplearn.inference.prediction import Trained, metrics_to_json
from hyplearn.models.base import Model
from hyplearn.models.digest import SHOWN, weights_digest
from hyplearn.nn.space import Space
from hyplearn.runs.atomic import write_json, write_text, write_whole
from hyplearn.runs.regular import check_regular
from hyplearn.training.checkpoint import require_finite
from hyplearn.training.model_readings import curved

FORMAT = "hyplearn model 1"
JSON_KEYS = ("manifolds", "metrics", "sizes", "data", "class_names", "smoke")
CHECKED_QUERIES = 1000
NEIGHBOURS = 10


def manifolds(model: Model) -> dict[str, dict[str, Any]]:
    """kind, c (sectional curvature -c) and whether it was learned, of every curved manifold by its name."""
    return {
        name: {"kind": Space(manifold).name, "c": manifold.c.item(), "learned": manifold.curvature.learned}
        for name, manifold in curved(model).items()
    }


def write_weights(
    path: Path, model: Trained, *, sizes: Sequence[int], data: Mapping[str, int], selection: str, smoke: bool
) -> None:
    """model.safetensors: the state dict, and in the header what the numbers mean.

    sizes: n of each space of the embedding. Shared tensors, as the curvature of several layers, are written for each.
    """
    facts = {
        "manifolds": manifolds(model.model),  # type: ignore[arg-type]
        "metrics": metrics_to_json(model.metrics),
        "sizes": list(sizes),
        "data": dict(data),
        "class_names": model.class_names,
        "smoke": smoke,
    }
    weights = weights_digest(model.model)
    header = {
        "format": FORMAT,
        "selection": selection,
        "weights": weights,
        **{key: json.dumps(value) for key, value in facts.items()},
    }
    tensors = {name: x.detach().cpu().contiguous().clone() for name, x in model.model.state_dict().items()}
    write_whole(path, lambda stream: stream.write(to_bytes(tensors, header)))


def read_header(path: Path) -> dict[str, Any]:
    """What `write_weights` wrote beside the tensors. Raises ValueError for a file of something else."""
    try:
        check_regular(path)
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is no .safetensors file, or a damaged one ({error})") from error
    if header.get("format") != FORMAT:
        raise ValueError(f"{path} was not written by hyplearn export: its header has no format {FORMAT!r}")
    return {**header, **{key: json.loads(header[key]) for key in JSON_KEYS}}


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict. Raises ConfigError for weights that are not finite, or are not those that the header names."""
    weights: dict[str, Tensor] = load_file(path)
    require_finite(weights, path)
    written = read_header(path).get("weights")  # exports from before 2026-12 have none
    if written is not None and written != weights_digest(weights):
        raise ConfigError(
            f"{path} holds other weights than its header names ({written[:SHOWN]}): export the run again."
        )
    return weights


def preprocessing(data: ImageDataModule, *, channels: int, size: int) -> dict[str, Any]:
    """What makes the model's input of an image, for programs without hyplearn."""
    assert data.normalization is not None
    steps: list[dict[str, Any]] = [
        {"step": "upright", "by": "EXIF orientation"},
        {"step": "channels", "mode": "RGB" if channels == 3 else "L"},
    ]
    transform = data.reading.eval_transform
    if not data.source.in_files:
        steps += [{"step": "center_crop", "size": "shorter side"}, _resize([size, size], "bilinear")]
    elif transform is None:
        steps += [_resize([size], "bilinear"), {"step": "center_crop", "size": size}]
    elif isinstance(transform, CenterCrop):
        steps += [_resize([transform.resize], transform.interpolation), {"step": "center_crop", "size": transform.size}]
    else:
        steps += [{"step": "custom", "by": repr(transform), "see": "dataset.eval_transform of config.yaml"}]
    mean, std = (x.flatten().tolist() for x in (data.normalization.mean, data.normalization.std))
    return {
        "input": {"name": "images", "shape": ["batch", channels, size, size], "type": "float32"},
        "steps": [*steps, {"step": "scale", "by": 1 / 255}, {"step": "normalize", "mean": mean, "std": std}],
    }


def _resize(size: Sequence[int | None], interpolation: str | None) -> dict[str, Any]:
    """One number: of the shorter side."""
    return {"step": "resize", "size": list(size), "interpolation": interpolation, "antialias": True}


def write_index(folder: Path, stored: Stored, model: Trained) -> Agreement | None:
    """Write gallery.npz with the coordinates, gallery.json with ids and recipe, and gallery.faiss for one space.

    Returns how the FAISS file agrees with the exact search, None for a sum of dissimilarities, which no inner product
    is: its coordinates are compared one by one. Raises ValueError where the file would give other neighbours.
    """
    offered = stored.gallery.nonzero().squeeze(1)
    found = None
    if len(stored.embeddings.metrics) == 1:
        found = _write_faiss(folder / "gallery.faiss", stored, offered)
    rows = offered.tolist()
    store.save(
        folder / "gallery",
        stored.embeddings.select(offered),
        stored.labels[offered],
        ids=stored.ids[offered],
        class_names=stored.class_names,
        paths=None if stored.paths is None else [stored.paths[row] for row in rows],
        selection=stored.selection,
        weights=stored.weights,
    )
    write_json(folder / "gallery.json", _index_facts(stored, offered, model, found))
    return found


def _write_faiss(path: Path, stored: Stored, offered: Tensor) -> Agreement:
    """Write the index. Raises ValueError where it would give other neighbours than the exact search."""
    gallery = stored.embeddings.select(offered)
    content = index_file.to_bytes(index_file.build(gallery, stored.ids[offered]))
    write_whole(path, lambda stream: stream.write(content))
    asked = stored.query.nonzero().squeeze(1)
    asked = asked[:: max(1, len(asked) // CHECKED_QUERIES)][:CHECKED_QUERIES]
    found = index_file.check(
        index_file.read(path),
        stored.embeddings.select(asked),
        gallery,
        stored.ids[asked],
        stored.ids[offered],
        k=NEIGHBOURS,
    )
    if found.reranked < 1:
        path.unlink()
        raise ValueError(
            f"the index in float32 loses exact neighbours: {found.reranked:.1%} of {found.queries} queries keep their "
            f"{found.k}. The embeddings are too close together for it; search with hyplearn predict"
        )
    return found


def write_standalone_search(folder: Path) -> None:
    """Write search.py, which searches the gallery of the folder without hyplearn."""
    source = files("hyplearn.evaluation").joinpath(
        "standalone_search.py"
    )  # it is not imported: onnxruntime is optional
    write_text(folder / "search.py", source.read_text(encoding="utf-8"))


def _index_facts(stored: Stored, offered: Tensor, model: Trained, found: Agreement | None) -> dict[str, Any]:
    rows = offered.tolist()
    labels = stored.labels[offered].tolist()
    names = stored.class_names
    return {
        **({} if found is None else _faiss_facts(stored.embeddings.metrics[0], found)),
        "metrics": metrics_to_json(stored.embeddings.metrics),
        "weights": stored.weights,
        "spaces": [space for space, metric in enumerate(model.metrics) if metric is not None],
        "ids": stored.ids[offered].tolist(),
        "labels": labels,
        "classes": None if names is None else [names[label] for label in labels],
        "paths": None if stored.paths is None else [stored.paths[row] for row in rows],
    }


def _faiss_facts(metric: Metric, found: Agreement) -> dict[str, Any]:
    return {
        "index": "inner product, flat, float32; larger scores are nearer; answers with ids",
        "metric": {"kind": metric.kind, "c": metric.c},
        "recipe": index_file.RECIPES[metric.kind],
        "rank": f"take {MARGIN} more than needed, rank them by the distance of the coordinates themselves",
        "checked": {**found._asdict(), "self": "left out"},
    }

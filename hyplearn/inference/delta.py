"""Delta-hyperbolicity of a data set's pixels, of what a run's network makes of them, or of stored embeddings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from hyplearn.errors import ConfigError, nearest, offered

if TYPE_CHECKING:
    import torch

    from hyplearn.data.datamodule import ImageDataModule
    from hyplearn.evaluation.delta import Hyperbolicity
    from hyplearn.evaluation.metric import Metric

FILES = (".npz", ".safetensors")
SMOKE = " (smoke run, small data)"


class Asked(NamedTuple):
    """What is measured, and of how many points.

    features: None for all that there are. trust: packages whose parts the configuration of a run may name.
    """

    features: Sequence[str] | None
    split: Literal["train", "test"]
    samples: int
    draws: int
    seed: int
    trust: Sequence[str] = ()


class Row(NamedTuple):
    """One line of the answer. source: as typed. part: of it."""

    source: str
    part: str
    found: Hyperbolicity


def kind_of(source: str) -> str:
    """Tell what a source is: dataset, run or file."""
    from hyplearn.config.folders import config_folders, groups
    from hyplearn.runs.directory import is_checkpoint

    path = Path(source)
    if path.is_dir() or is_checkpoint(path):
        return "run"
    if path.suffix in FILES:
        if not path.exists():
            raise ConfigError(f"{path} does not exist")
        return "file"
    known = groups(config_folders())["dataset"]
    if source not in known:
        raise ConfigError(
            f"{source} is no run directory, no .npz or .safetensors file, and no data set."
            f"{nearest(source, known)} (data sets: {offered(known, 'hyplearn data --help')})"
        )
    return "dataset"


def measured(source: str, overrides: Sequence[str], asked: Asked) -> Iterator[Row]:
    """Measure a source: a data set, a run or a file. Raises ConfigError for what does not fit it."""
    measure = {"dataset": _of_dataset, "run": _of_run, "file": _of_file}[kind_of(source)]
    try:
        yield from measure(source, overrides, asked)
    except ValueError as error:
        raise ConfigError(f"{source}: {error}") from error


def _of_dataset(source: str, overrides: Sequence[str], asked: Asked) -> Iterator[Row]:
    from hyplearn.config.build import make
    from hyplearn.config.compose import compose

    config = compose([f"dataset={source}", *overrides]).config
    data = make(config["dataset"], "dataset", seed=config["seed"])
    yield _of_pixels(source, _read(data, asked), asked)


def _of_run(source: str, overrides: Sequence[str], asked: Asked) -> Iterator[Row]:
    from hyplearn.config.build import images
    from hyplearn.config.compose import change
    from hyplearn.console.counting import counting
    from hyplearn.evaluation.delta import drawn
    from hyplearn.inference.features import features, usual_kinds
    from hyplearn.inference.open import open_trained
    from hyplearn.runs.directory import RunDirectory

    run = RunDirectory.locate(Path(source))
    config = change(
        run.config,
        overrides,
        allowed=lambda key: key.startswith("dataset."),
        file=run.config_file,
        trust=asked.trust,
    ).config
    model = open_trained(Path(source), trust=asked.trust).model
    source = f"{source}{SMOKE}" if config["scale"] == "smoke" else source
    kinds = asked.features or ("pixels", *usual_kinds(model.model))
    of_model = [kind for kind in kinds if kind != "pixels"]
    _check_kinds(source, of_model, usual_kinds(model.model))
    data = _read(images(config), asked)
    if "pixels" in kinds:
        yield _of_pixels(source, data, asked)
    if not of_model:
        return
    ids = data.ids(asked.split)
    positions = _each_once(drawn(len(ids), samples=asked.samples, draws=asked.draws, seed=asked.seed))
    with counting(f"images through the model of {source}") as tell:
        made = features(
            model, lambda chosen: data.thumbnails(asked.split, chosen), ids[positions], of_model, progress=tell
        )
    for name, part in made.items():
        yield _row(source, name, _Looked(positions, part.points), len(ids), part.metric, asked)


def _check_kinds(source: str, asked: Sequence[str], known: Sequence[str]) -> None:
    for kind in asked:
        if kind not in known:
            raise ConfigError(f"--features {kind}: the model of {source} has pixels, {' and '.join(known)}.")


def _of_file(source: str, overrides: Sequence[str], asked: Asked) -> Iterator[Row]:
    from hyplearn.evaluation import store
    from hyplearn.evaluation.metric import Metric

    stored = store.load(Path(source))
    for name in asked.features or ("embedding", *(("backbone",) if stored.backbone is not None else ())):
        if name not in ("embedding", "backbone"):
            raise ConfigError(f"--features {name}: {source} holds embeddings, no {name}; name the run instead.")
        if name == "backbone":
            if stored.backbone is None:
                raise ConfigError(f"--features backbone: {source} has no array 'backbone'.")
            features = stored.backbone
            yield _row(source, name, features.__getitem__, len(features), Metric("euclidean"), asked)
            continue
        embeddings = stored.embeddings
        for points, metric in zip(embeddings.points, embeddings.metrics, strict=True):
            part = name if len(embeddings.points) == 1 else f"{name}, {metric.kind}"
            yield _row(source, part, points.__getitem__, len(points), metric, asked)


class _Looked:
    """Rows of a table that holds those of `positions` alone, in ascending order."""

    def __init__(self, positions: torch.Tensor, rows: torch.Tensor) -> None:
        self.positions, self.rows = positions, rows

    def __call__(self, positions: torch.Tensor) -> torch.Tensor:
        import torch

        return self.rows[torch.searchsorted(self.positions, positions)]


def _each_once(draws: Iterator[torch.Tensor]) -> torch.Tensor:
    """The positions of all draws in ascending order, each once."""
    import torch

    positions: torch.Tensor = torch.cat(list(draws)).unique()
    return positions


def _read(data: ImageDataModule, asked: Asked) -> ImageDataModule:
    """The data with the images of the split read."""
    data.prepare_data()
    data.setup("fit" if asked.split == "train" else "test")
    return data


def _of_pixels(source: str, data: ImageDataModule, asked: Asked) -> Row:
    from hyplearn.evaluation.metric import Metric

    ids = data.ids(asked.split)

    def points(positions: torch.Tensor) -> torch.Tensor:
        return data.thumbnails(asked.split, ids[positions]).flatten(1)

    return _row(source, "pixels", points, len(ids), Metric("euclidean"), asked)


def _row(
    source: str, part: str, points: Callable[[torch.Tensor], torch.Tensor], total: int, metric: Metric,
    asked: Asked,
) -> Row:  # fmt: skip
    from hyplearn.console.counting import counting
    from hyplearn.evaluation.delta import hyperbolicity

    with counting(f"draws of {source}, {part}") as tell:
        found = hyperbolicity(
            points, total, metric, samples=asked.samples, draws=asked.draws, seed=asked.seed, progress=tell
        )
    return Row(source, part, found)

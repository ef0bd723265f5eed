"""`hyplearn delta`: how far data, or what a network makes of them, are from a tree."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hyplearn.cli.parser import Parser
from hyplearn.errors import OK, ConfigError, listing, nearest

if TYPE_CHECKING:
    import torch

    from hyplearn.data.datamodule import ImageDataModule
    from hyplearn.evaluation.delta import Hyperbolicity
    from hyplearn.evaluation.metric import Metric

FEATURES = ("pixels", "stages", "backbone", "embedding")
SPLITS = ("train", "test")
FILES = (".npz", ".safetensors")
SMOKE = " (smoke run, small data)"

HELP = """\
hyplearn delta <data set | run | file.npz> ... [key=value ...] [options]

Gromov's delta-hyperbolicity, relative to the diameter: 0 for a tree, near 1 for no hierarchy at all. Exact for each
draw of points, seen from the first of them. For
  a data set   the pixels of its training images
  a run        pixels; of a classifier the pooled features of the stem and of each stage, and what its head sees; of a
               retrieval model the backbone's features and the embedding. Points on a manifold are compared by its
               distance, all others by |x - y|
  a file       stored embeddings, each space under its own distance (the angle on the sphere), and stored features of
               the backbone

  --features LIST     pixels, stages, backbone, embedding; by default all that there are
  --split S           images of a data set or run: train or test; train
  --samples N         points in a draw, without replacement; 1500
  --draws N           10
  --convention C      relative: 2 delta / diameter, in [0, 1]; half: delta / diameter, as some of the published code
  --seed N            of the draws, 0
  --plot FILE.png     bars with the standard deviation of the draws, beside the values the paper prints
  --json              one JSON object instead of a table, with both conventions and every draw
  -h, --help          this text
  key=value           of the data: dataset.root=/data, dataset.limit_train=5000, ...

  hyplearn delta digits fashion_mnist --plot delta.png
  hyplearn delta outputs/hecnn_r18_cifar10/2025-01-31_12-00-00_seed1_ab12 --features stages
  hyplearn delta outputs/hyp_vit_s_cub/.../embeddings/test.npz --json

c suggested: (0.144 / delta_rel)^2 by 2 delta / diameter (Khrulkov et al.). HECNN makes those stages Lorentz whose
delta_rel is below 0.2. A draw of 1500 points takes 0.3 s on one core, of twice the points 8 times that; memory is about
4 samples^2 numbers of 8 bytes."""


class Row(NamedTuple):
    """One line of the answer. source: as typed. part: of it."""

    source: str
    part: str
    found: Hyperbolicity


def delta(argv: Sequence[str]) -> int:
    """Measure and print. Raises ConfigError; DatasetError for data that are not there."""
    options = _options(argv)
    if options.help:
        print(HELP)
        return OK
    sources = [text for text in options.sources if "=" not in text]
    overrides = [text for text in options.sources if "=" in text]
    _check(sources, overrides, options)
    rows: list[Row] = []
    for source in sources:
        rows += _measured(source, overrides, options)
    print(json.dumps(_answer(rows, options), indent=2, allow_nan=False) if options.json else _table(rows, options))
    if options.plot is not None:
        from hyplearn.plots.delta import draw_delta

        bars = {_shown(sources, row): row.found for row in rows}
        for path in draw_delta(options.plot, bars, convention=options.convention):
            print(f"written to {path}", file=sys.stderr)
    return OK


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("delta")
    parser.add_argument("sources", nargs="*")
    parser.add_argument("--features", type=_features)
    parser.add_argument("--split", choices=SPLITS, default="train")
    parser.add_argument("--samples", type=_at_least(4), default=1500)
    parser.add_argument("--draws", type=_at_least(1), default=10)
    parser.add_argument("--convention", choices=["relative", "half"], default="relative")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=_picture)
    parser.add_argument("--json", action="store_true")
    return parser.parse_intermixed_args(list(argv))


def _features(text: str) -> list[str]:
    names = list(dict.fromkeys(text.split(",")))
    unknown = [name for name in names if name not in FEATURES]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} must be of {', '.join(FEATURES)}")
    return names


def _at_least(lowest: int) -> Any:
    def number(text: str) -> int:
        if not text.isdigit() or int(text) < lowest:
            raise argparse.ArgumentTypeError(f"{text!r} must be a whole number from {lowest} on")
        return int(text)

    return number


def _picture(text: str) -> Path:
    if Path(text).suffix != ".png":
        raise argparse.ArgumentTypeError(f"{text!r} must end in .png")
    return Path(text)


# What is asked for


def _check(sources: Sequence[str], overrides: Sequence[str], options: argparse.Namespace) -> None:
    """What can be told before anything is read or imported."""
    if not sources:
        raise ConfigError("hyplearn delta needs a data set, a run or a file of embeddings (see hyplearn delta --help)")
    for text in overrides:
        if not text.lstrip("+").startswith("dataset."):
            raise ConfigError(f"{text} would be ignored: delta reads keys of the data, such as dataset.root=/data.")
    for source in sources:
        kind = _kind(source)
        if kind == "file" and overrides:
            raise ConfigError(f"{overrides[0]} would be ignored: {source} is a file of embeddings.")
        if kind == "dataset" and set(options.features or ()) - {"pixels"}:
            asked = ",".join(options.features)
            raise ConfigError(
                f"--features {asked} with the data set {source}: without a model there are only pixels; name a run."
            )


def _kind(source: str) -> str:
    """dataset, run or file."""
    from hyplearn.config.folders import config_dir, groups
    from hyplearn.runs.directory import is_checkpoint

    path = Path(source)
    if path.is_dir() or is_checkpoint(path):
        return "run"
    if path.suffix in FILES:
        if not path.is_file():
            raise ConfigError(f"{path} does not exist")
        return "file"
    known = groups([config_dir()])["dataset"]
    if source not in known:
        raise ConfigError(
            f"{source} is no run directory, no .npz or .safetensors file, and no data set."
            f"{nearest(source, known)} (data sets: {listing(known)})"
        )
    return "dataset"


# Measuring


def _measured(source: str, overrides: Sequence[str], options: argparse.Namespace) -> Iterator[Row]:
    measure = {"dataset": _of_dataset, "run": _of_run, "file": _of_file}[_kind(source)]
    try:
        yield from measure(source, overrides, options)
    except ValueError as error:
        raise ConfigError(f"{source}: {error}") from error


def _of_dataset(source: str, overrides: Sequence[str], options: argparse.Namespace) -> Iterator[Row]:
    from hyplearn.config.build import make
    from hyplearn.config.compose import compose

    config = compose([f"dataset={source}", *overrides]).config
    data = make(config["dataset"], "dataset", seed=config["seed"])
    yield _of_pixels(source, _read(data, options), options)


def _of_run(source: str, overrides: Sequence[str], options: argparse.Namespace) -> Iterator[Row]:
    from hyplearn.config.build import images
    from hyplearn.config.compose import change
    from hyplearn.console.counting import counting
    from hyplearn.evaluation.delta import drawn
    from hyplearn.inference.features import features, usual_kinds
    from hyplearn.inference.open import open_trained
    from hyplearn.runs.directory import RunDirectory

    stored = RunDirectory.locate(Path(source)).config
    config = change(stored, overrides, allowed=lambda key: key.startswith("dataset.")).config
    model = open_trained(Path(source)).model
    source = f"{source}{SMOKE}" if config["scale"] == "smoke" else source
    kinds = options.features or ("pixels", *usual_kinds(model.model))
    asked = [kind for kind in kinds if kind != "pixels"]
    _check_kinds(source, asked, usual_kinds(model.model))
    data = _read(images(config), options)
    if "pixels" in kinds:
        yield _of_pixels(source, data, options)
    if not asked:
        return
    ids = data.ids(options.split)
    positions = _each_once(drawn(len(ids), samples=options.samples, draws=options.draws, seed=options.seed))
    with counting(f"images through the model of {source}") as tell:
        made = features(
            model, lambda chosen: data.thumbnails(options.split, chosen), ids[positions], asked, progress=tell
        )
    for name, part in made.items():
        yield _row(source, name, _Looked(positions, part.points), len(ids), part.metric, options)


def _check_kinds(source: str, asked: Sequence[str], known: Sequence[str]) -> None:
    for kind in asked:
        if kind not in known:
            raise ConfigError(f"--features {kind}: the model of {source} has pixels, {' and '.join(known)}.")


def _of_file(source: str, overrides: Sequence[str], options: argparse.Namespace) -> Iterator[Row]:
    from hyplearn.evaluation import store
    from hyplearn.evaluation.metric import Metric

    stored = store.load(Path(source))
    for name in options.features or ("embedding", *(("backbone",) if stored.backbone is not None else ())):
        if name not in ("embedding", "backbone"):
            raise ConfigError(f"--features {name}: {source} holds embeddings, no {name}; name the run instead.")
        if name == "backbone":
            if stored.backbone is None:
                raise ConfigError(f"--features backbone: {source} has no array 'backbone'.")
            features = stored.backbone
            yield _row(source, name, features.__getitem__, len(features), Metric("euclidean"), options)
            continue
        embeddings = stored.embeddings
        for points, metric in zip(embeddings.points, embeddings.metrics, strict=True):
            part = name if len(embeddings.points) == 1 else f"{name}, {metric.kind}"
            yield _row(source, part, points.__getitem__, len(points), metric, options)


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


def _read(data: ImageDataModule, options: argparse.Namespace) -> ImageDataModule:
    """The data with the images of the split read."""
    data.prepare_data()
    data.setup("fit" if options.split == "train" else "test")
    return data


def _of_pixels(source: str, data: ImageDataModule, options: argparse.Namespace) -> Row:
    from hyplearn.evaluation.metric import Metric

    ids = data.ids(options.split)

    def points(positions: torch.Tensor) -> torch.Tensor:
        return data.thumbnails(options.split, ids[positions]).flatten(1)

    return _row(source, "pixels", points, len(ids), Metric("euclidean"), options)


def _row(
    source: str, part: str, points: Callable[[torch.Tensor], torch.Tensor], total: int, metric: Metric,
    options: argparse.Namespace,
) -> Row:  # fmt: skip
    from hyplearn.console.counting import counting
    from hyplearn.evaluation.delta import hyperbolicity

    with counting(f"draws of {source}, {part}") as tell:
        found = hyperbolicity(
            points, total, metric, samples=options.samples, draws=options.draws, seed=options.seed, progress=tell
        )
    return Row(source, part, found)


# Telling


def _shown(sources: Sequence[str], row: Row) -> str:
    """The part, after what tells its source from others."""
    if len(sources) == 1 and not row.source.endswith(SMOKE):
        return row.part
    name = Path(row.source).stem if Path(row.source).suffix in FILES else Path(row.source).name
    return f"{name}, {row.part}"


def _table(rows: Sequence[Row], options: argparse.Namespace) -> str:
    """What was measured, a line each, and below how."""
    together = len({row.source for row in rows}) == 1
    lines = [("", "delta_rel", "std", "c suggested", "points", "numbers", "compared by")]
    for row in rows:
        found, std = row.found, row.found.std(options.convention)
        lines.append(
            (
                row.part if together else f"{row.source}, {row.part}",
                f"{found.mean(options.convention):.4f}",
                "-" if std is None else f"{std:.4f}",
                _number(found.suggested_c),
                f"{found.samples} of {found.total}",
                str(found.width),
                str(found.metric),
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    title = rows[0].source if together else "delta-hyperbolicity"
    return "\n".join([title, *(_line(cells, widths) for cells in lines), *_notes(rows, options)])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """First and last to the left, numbers to the right."""
    first, *numbers, last = cells
    right = (f"{cell:>{width}}" for cell, width in zip(numbers, widths[1:-1], strict=True))
    return "  ".join([f"{first:<{widths[0]}}", *right, last])


def _notes(rows: Sequence[Row], options: argparse.Namespace) -> Iterator[str]:
    formula = "2 delta / diameter" if options.convention == "relative" else "delta / diameter"
    yield f"delta_rel = {formula}, mean and standard deviation of {options.draws} draws"
    if any(row.found.samples == row.found.total for row in rows) and options.draws > 1:
        yield "where a draw is of all points, draws differ in their base point alone"
    yield "c suggested = (0.144 / (2 delta / diameter))^2"


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "-"


def _answer(rows: Sequence[Row], options: argparse.Namespace) -> dict[str, Any]:
    return {
        "convention": options.convention,
        "samples": options.samples,
        "seed": options.seed,
        "results": [_result(row, options.convention) for row in rows],
    }


def _result(row: Row, convention: Any) -> dict[str, Any]:
    from hyplearn.evaluation.delta import CONVENTIONS

    found = row.found
    return {
        "source": row.source,
        "part": row.part,
        "metric": str(found.metric),
        "delta_rel": found.mean(convention),
        "std": found.std(convention),
        **{f"delta_rel_{name}": found.mean(name) for name in CONVENTIONS},
        "suggested_c": found.suggested_c if math.isfinite(found.suggested_c) else None,
        "samples": found.samples,
        "total": found.total,
        "width": found.width,
        "draws": [{"delta": draw.delta, "diameter": draw.diameter} for draw in found.draws],
    }

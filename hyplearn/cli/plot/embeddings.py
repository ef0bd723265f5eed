"""`hyplearn plot embeddings`: where the embeddings of a run lie."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyplearn.cli.parser import at_least
from hyplearn.cli.plot.arguments import FigureParser, tell
from hyplearn.errors import OK, ConfigError
from hyplearn.runs.writing import writing

if TYPE_CHECKING:
    import torch

    from hyplearn.evaluation.metric import Metric
    from hyplearn.evaluation.store import Stored

FILES = (".npz", ".safetensors")


def embeddings(argv: Sequence[str]) -> int:
    """Draw and say what was written. Raises ConfigError."""
    options = embeddings_parser().parse_intermixed_args(list(argv))
    _check(options)
    with writing(_folder(options)):
        stored, config = _embedded(options.source, options.trust)
        if options.color == "super" and stored.super_labels is None:
            raise ConfigError(f"--color super: {options.source} has no super-classes; use --color class.")
        space = _space(stored, options)
        written = []
        if space is not None:
            written += _draw_disk(stored, space, config, options) if options.layout != "umap" else []
            written += _draw_radii(stored, space, config, options)
        if options.layout == "umap" or space is None:
            written += _draw_umap(stored, config, options)
        tell(written)
        return OK


def embeddings_parser() -> FigureParser:
    """Make the parser of the command."""
    parser = FigureParser(
        "embeddings",
        """
The test embeddings of a run, or those of a file, by class:
  disk.png      in the Poincare disk, with rings at round distances to the origin, the centroids of
                the classes and geodesics between them. Exact for 1 or 2 dimensions
                (model.head.size=2). In more, tangent PCA at the origin or at the centroid of all:
                distances to it are exact, directions are approximated, and the title says how well
  radii.png     histograms of the distances to the origin by class and super-class, and the limits
                they come near to
  umap.png      UMAP by the distances of the trained metric, in place of the disk (needs the extra
                hyplearn[umap])
Each is saved with its points as .csv. The eight most frequent classes have a colour and a marker of their own.""",
        needs="a run or a file",
        examples="""
hyplearn plot embeddings outputs/hyp_vit_s_cub/2025-01-31_12-00-00_seed1_ab12
hyplearn plot embeddings outputs/hecnn_r18_cifar10/... --points 5000 --output figures
hyplearn plot embeddings birds.npz --layout umap --color super""",
    )
    parser.add_argument("source", type=Path, help="a run, a checkpoint, or a file of embeddings")
    parser.add_argument(
        "--layout",
        choices=["auto", "disk", "umap"],
        default="auto",
        help="auto: the disk where the embeddings are hyperbolic, else umap; %(default)s",
    )
    parser.add_argument(
        "--points",
        type=at_least(1),
        default=2000,
        help="images drawn, at random; %(default)s. Centroids and radii are of all",
    )
    parser.add_argument(
        "--color", choices=["class", "super"], default="class", help="what colours and markers stand for; %(default)s"
    )
    parser.add_argument(
        "--centre",
        choices=["auto", "origin", "centroid"],
        default="auto",
        help="of the disk in more than 2 dimensions; auto: the one that keeps distances better",
    )
    parser.add_argument(
        "--space",
        metavar="NAME",
        help="of a model of several spaces: lorentz, poincare, ...; by default the first that is hyperbolic",
    )
    parser.add_trust()
    parser.add_output("<run>/figures; for a file the folder it lies in", default=None)
    parser.add_seed("of the choice of points and of UMAP")
    return parser


def _check(options: argparse.Namespace) -> None:
    """What can be told before anything is read."""
    if options.source.suffix not in FILES:
        from hyplearn.runs.directory import RunDirectory

        RunDirectory.locate(options.source)
    if options.layout == "umap":
        _need_umap()


def _need_umap() -> None:
    if find_spec("umap") is None:
        raise ConfigError("--layout umap needs umap-learn: pip install 'hyplearn[umap]'")


def _embedded(source: Path, trust: Sequence[str]) -> tuple[Stored, Mapping[str, Any]]:
    """The embeddings, and the configuration of the run; empty for a file."""
    from hyplearn.evaluation import store

    try:
        if source.suffix in FILES:
            return store.load(source), {}
        from hyplearn.runs.directory import RunDirectory

        run = RunDirectory.locate(source)
        config, kept = run.config, run.test_embeddings
        if source.is_dir() and kept.exists():
            return store.load(kept), config
        return _computed(source, trust), config
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _computed(source: Path, trust: Sequence[str]) -> Stored:
    """What the model of a run makes of the run's test images."""
    import torch

    from hyplearn.evaluation.store import Stored
    from hyplearn.inference.features import features
    from hyplearn.inference.open import open_trained

    opened = open_trained(source, trust=trust)
    data = opened.data
    data.prepare_data()
    data.setup("test")
    ids = data.ids("test")
    found = features(opened.model, lambda chosen: data.thumbnails("test", chosen), ids, ["embedding"])
    everything = torch.ones(len(ids), dtype=torch.bool)
    return Stored(
        points=tuple(part.points for part in found.values()),
        labels=data.labels("test", ids),
        ids=ids,
        query=everything,
        gallery=everything,
        metrics=tuple(part.metric for part in found.values()),
        class_names=opened.model.class_names,
    )


def _space(stored: Stored, options: argparse.Namespace) -> tuple[torch.Tensor, Metric] | None:
    """Points and metric of the space to draw; None if UMAP is all there is. Raises ConfigError."""
    if stored.metrics is None:
        raise ConfigError(f"{options.source} names no metric: embeddings of hyplearn embed and of runs do.")
    spaces = list(zip(stored.points, stored.metrics, strict=True))
    named = [space for space in spaces if options.space in (None, space[1].kind)]
    if not named:
        held = ", ".join(metric.kind for metric in stored.metrics)
        raise ConfigError(f"--space {options.space}: {options.source} has {held}.")
    curved = next((space for space in named if space[1].curved), None)
    if curved is None and options.layout == "disk":
        raise ConfigError(
            f"--layout disk: {options.source} lies in {named[0][1]}, which has no Poincare disk; use --layout umap."
        )
    if curved is None:
        _need_umap()
    return curved


def _folder(options: argparse.Namespace) -> Path:
    source: Path = options.source
    if options.output is not None:
        return Path(options.output)
    if source.suffix in FILES:
        return source.parent
    from hyplearn.runs.directory import RunDirectory

    return RunDirectory.locate(source).figures


# Drawing


def _draw_disk(
    stored: Stored, space: tuple[torch.Tensor, Metric], config: Mapping[str, Any], options: argparse.Namespace
) -> list[Path]:
    import torch

    from hyplearn.evaluation.delta import distance_matrix
    from hyplearn.geometry import lorentz, poincare
    from hyplearn.plots.disk import draw_disk, place

    points, metric = space
    classes = _groups(stored, options.color)
    geometry = lorentz if metric.kind == "lorentz" else poincare
    named = [group for group in classes if group.marker != "."]
    centroids = torch.stack([geometry.centroid(points[group.rows].double(), c=metric.c) for group in named])
    shown = _chosen(len(points), options)
    return draw_disk(
        _folder(options) / "disk.png",
        place(points, metric, centre=None if options.centre == "auto" else options.centre, seed=options.seed),
        shown,
        classes,
        distance_matrix(centroids, metric),
        title=f"{_title(options, config)} in the Poincaré disk",
        rows=_rows(stored, shown),
    )


def _draw_radii(
    stored: Stored, space: tuple[torch.Tensor, Metric], config: Mapping[str, Any], options: argparse.Namespace
) -> list[Path]:
    import torch

    from hyplearn.geometry import lorentz, poincare
    from hyplearn.plots.radii import draw_radii

    points, metric = space
    radii = (lorentz if metric.kind == "lorentz" else poincare).dist0(points.double(), c=metric.c)
    panels = {"by class": _groups(stored, "class")}
    if stored.super_labels is not None:
        panels["by super-class"] = _groups(stored, "super")
    return draw_radii(
        _folder(options) / "radii.png",
        radii,
        panels,
        limits=_limits(metric, config),
        title=f"{_title(options, config)}: radii, c = {metric.c:.4g}",
        rows=_rows(stored, torch.arange(len(radii))),
    )


def _draw_umap(stored: Stored, config: Mapping[str, Any], options: argparse.Namespace) -> list[Path]:
    from hyplearn.plots.umap_layout import draw_umap, trained_distances, umap_layout

    shown = _chosen(len(stored.labels), options)
    chosen = stored.embeddings.select(shown)
    try:
        layout = umap_layout(trained_distances(chosen), seed=options.seed)
    except ValueError as error:
        raise ConfigError(f"{options.source}: {error}") from error
    classes = [group._replace(rows=group.rows[shown]) for group in _groups(stored, options.color)]
    title = f"{_title(options, config)} by {chosen}"
    return draw_umap(_folder(options) / "umap.png", layout, classes, title=title, rows=_rows(stored, shown))


def _groups(stored: Stored, color: str) -> list[Any]:
    from hyplearn.plots.classes import groups

    if color == "super":
        assert stored.super_labels is not None
        return groups(stored.super_labels, stored.super_names)
    return groups(stored.labels, stored.class_names)


def _chosen(count: int, options: argparse.Namespace) -> torch.Tensor:
    """Positions of the images drawn, in ascending order."""
    import torch

    generator = torch.Generator().manual_seed(options.seed)
    return torch.randperm(count, generator=generator)[: options.points].sort().values


def _title(options: argparse.Namespace, config: Mapping[str, Any]) -> str:
    if options.source.suffix in FILES:
        return f"Embeddings of {options.source.name}"
    return "SMOKE RUN (small data) · test embeddings" if config.get("scale") == "smoke" else "Test embeddings"


def _limits(metric: Metric, config: Mapping[str, Any]) -> dict[str, float]:
    """Largest distances to the origin: what float32 holds (Bdeir Eq. 1), and the clip of a neck (Yue Eq. 3)."""
    from hyplearn.geometry.lorentz import d_max

    assert metric.c is not None
    found = {"float32 limit (Bdeir Eq. 1)": d_max(c=metric.c, x_t_max=config.get("manifold", {}).get("x_t_max")).item()}
    head = config.get("model", {}).get("head")
    if isinstance(head, Mapping) and head.get("clip") is not None:
        half = str(head["_target_"]).endswith(".Neck")  # exp at the origin of the ball reaches twice the length
        found["clip"] = float(head["clip"]) * (2 if half else 1)
    return found


def _rows(stored: Stored, positions: torch.Tensor) -> list[dict[str, Any]]:
    """What is saved of each image."""
    rows = []
    for position in positions.tolist():
        label = int(stored.labels[position])
        row: dict[str, Any] = {"id": int(stored.ids[position]), "label": label}
        if stored.class_names is not None:
            row["class"] = stored.class_names[label]
        if stored.super_labels is not None:
            row["super_class"] = int(stored.super_labels[position])
        rows.append(row)
    return rows

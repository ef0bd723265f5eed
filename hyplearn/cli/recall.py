"""`hyplearn recall`: Recall@k and more of embeddings in a file, under the metric they were trained with, and others."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyplearn.cli.parser import Parser, list_of
from hyplearn.errors import OK, ConfigError

if TYPE_CHECKING:
    from hyplearn.evaluation.metric import Embeddings
    from hyplearn.evaluation.recall import Groups
    from hyplearn.evaluation.store import Stored

GEOMETRIES = ("lorentz", "poincare", "sphere", "euclidean")
CURVED = ("lorentz", "poincare")
BESIDE = ("trained", "cosine", "euclidean", "backbone")

DESCRIPTION = """
Recall@k, MAP@R and R-precision of stored embeddings by exact search: every query against the whole
gallery, itself left out by its id. A file that a training run wrote (outputs/.../embeddings/test.npz)
knows its metric. Your own file needs --geometry, and holds
  embeddings  (N, n) floats            labels  (N,) integers or texts
and, where it is not of all images with ids from 0 to N-1,
  query, gallery  (N,) booleans        ids  (N,) distinct integers"""


def recall_parser() -> Parser:
    """Make the parser of the command."""
    parser = Parser(
        "recall",
        DESCRIPTION,
        needs="a file of embeddings, .npz or .safetensors",
        examples="""
hyplearn recall outputs/.../embeddings/test.npz --k 1,10,100 --metrics trained,cosine,euclidean
hyplearn recall mine.npz --geometry poincare --c 0.1 --k 1,2,4,8,10 --json""",
        more="""
Recall@k: the share of queries with an image of their class among the k nearest. Queries without
one in the gallery are left out and counted as lone. Equally far images are ranked by their ids.""",
    )
    parser.add_argument("file", type=Path, help="embeddings, .npz or .safetensors")
    parser.add_argument(
        "--geometry",
        choices=GEOMETRIES,
        help="lorentz: geodesic distance, space coordinates of the hyperboloid (N, n); poincare: geodesic distance, "
        "coordinates of the ball (N, n); sphere: cosine, vectors of any length; euclidean: |x - y|",
    )
    parser.add_argument("--c", type=float, help="lorentz, poincare: the sectional curvature is -C")
    parser.add_argument(
        "--ambient",
        action="store_true",
        help="lorentz: the rows are (N, n+1), time first; checked against <x,x>_L = -1/C",
    )
    parser.add_argument("--k", type=_ranks, default=[1, 2, 4, 8], metavar="LIST", help="ranks of recall; 1,2,4,8")
    parser.add_argument(
        "--metrics",
        type=list_of(BESIDE),
        default=["trained"],
        metavar="LIST",
        help="what to rank by, side by side: trained (the metric above), cosine and euclidean distance of the same "
        "numbers, backbone (cosine of the features before the head, if stored); trained",
    )
    parser.add_argument(
        "--index", choices=["auto", "faiss", "torch"], default="auto", help="faiss is on the CPU; equal results"
    )
    parser.add_argument(
        "--per-class", action="store_true", help="recall of every class too, and of every super-class if stored"
    )
    parser.add_argument(
        "--nmi", action="store_true", help="NMI and AMI of k-means clusters too (slow with many classes)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the clusters; %(default)s")
    parser.add_argument(
        "--json",
        action="store_true",
        help="one JSON object instead of a table: recall@1, ..., map@r, r_precision as fractions",
    )
    return parser


def _ranks(text: str) -> list[int]:
    try:
        ranks = sorted({int(part) for part in text.split(",")})
    except ValueError:
        ranks = [0]
    if ranks[0] < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be ranks from 1 on, such as 1,2,4,8")
    return ranks


def recall(argv: Sequence[str]) -> int:
    """Evaluate a file of embeddings and print the result. Raises ConfigError for what does not fit together."""
    options = recall_parser().parse_args(list(argv))
    _check_geometry(options)
    from hyplearn.evaluation import store

    try:
        stored = store.load(options.file)
        found = {name: _evaluated(stored, ranked, options) for name, ranked in _rankings(stored, options).items()}
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if options.json:
        first, *others = found.values()
        beside = {"beside": dict(zip(list(found)[1:], others, strict=True))} if others else {}
        chosen = {} if stored.selection is None else {"selection": stored.selection}
        print(json.dumps({**first, **beside, **chosen}, indent=2))
    else:
        _print(options.file, found)
        if stored.selection is not None:
            print(f"weights: {stored.selection}")
    return OK


def _check_geometry(options: argparse.Namespace) -> None:
    geometry = options.geometry
    if geometry in CURVED and options.c is None:
        raise ConfigError(
            f"--geometry {geometry} needs --c: the curvature -c the embeddings were trained with, as --c 0.1."
        )
    if geometry not in CURVED and options.c is not None:
        raise ConfigError(
            f"--c {options.c:g} needs a hyperbolic geometry: --geometry lorentz or poincare."
            if geometry is None
            else f"--c {options.c:g} would be ignored: --geometry {geometry} has no curvature."
        )
    if options.ambient and geometry != "lorentz":
        raise ConfigError("--ambient is a form of points of the hyperboloid: use --geometry lorentz with it.")


def _rankings(stored: Stored, options: argparse.Namespace) -> dict[str, Embeddings]:
    """The embeddings under every metric asked for, by a name for people."""
    import torch

    from hyplearn.evaluation.metric import Embeddings, Metric

    trained = _trained(stored, options)
    made = {}
    for name in options.metrics:
        if name == "trained":
            made[str(trained)] = trained
        elif name == "backbone":
            if stored.backbone is None:
                raise ConfigError(f"{options.file} has no array 'backbone': leave it out of --metrics.")
            made["backbone, cosine"] = Embeddings(stored.backbone, Metric("sphere"))
        else:
            kind = Metric("sphere") if name == "cosine" else Metric("euclidean")
            made[name] = Embeddings(torch.cat([x.double() for x in trained.points], dim=-1), kind)
    device = "cuda" if torch.cuda.is_available() and options.index != "faiss" else "cpu"
    return {name: embeddings.to(device) for name, embeddings in made.items()}


def _trained(stored: Stored, options: argparse.Namespace) -> Embeddings:
    """The embeddings under the metric that was typed, or else stored."""
    from hyplearn.evaluation.metric import Embeddings, Metric, from_ambient

    if options.geometry is None:
        if stored.metrics is None:
            raise ConfigError(
                f"{options.file} names no metric: say the geometry of its embeddings, "
                f"--geometry {' | '.join(GEOMETRIES)}."
            )
        return stored.embeddings
    if len(stored.points) > 1:
        raise ConfigError(
            f"{options.file} holds points of {len(stored.points)} spaces with a metric of their own: leave out "
            "--geometry."
        )
    (points,) = stored.points
    if options.ambient:
        points = from_ambient(points, c=options.c)
    return Embeddings(points, Metric(options.geometry, options.c))


def _evaluated(stored: Stored, embeddings: Embeddings, options: argparse.Namespace) -> dict[str, Any]:
    from hyplearn.evaluation.clustering import clustering
    from hyplearn.evaluation.recall import by_group, evaluate, summarize

    results = evaluate(
        embeddings,
        stored.labels,
        query=stored.query,
        gallery=stored.gallery,
        ids=stored.ids,
        ks=options.k,
        index=options.index,
    )
    found: dict[str, Any] = summarize(results, options.k)
    if options.nmi:
        found |= clustering(embeddings, stored.labels, seed=options.seed)
    if options.per_class:
        found["classes"] = _rows(by_group(results, stored.labels, options.k), stored.class_names)
        if stored.super_labels is not None:
            found["super_classes"] = _rows(by_group(results, stored.super_labels, options.k), stored.super_names)
    return found


def _rows(groups: Groups, names: Sequence[str] | None) -> dict[str, dict[str, float | None]]:
    """Class name, with its label where another has the same, to its means, None where none of its queries counts."""
    labels = groups.group.tolist()
    called = [str(label) if names is None else names[label] for label in labels]
    rows = {}
    for i, (label, name) in enumerate(zip(labels, called, strict=True)):
        counts = {"queries": int(groups.queries[i]), "lone_queries": int(groups.lone_queries[i])}
        means = {key: values[i].item() if counts["queries"] else None for key, values in groups.values.items()}
        rows[name if called.count(name) == 1 else f"{name} ({label})"] = {**means, **counts}
    return rows


def _print(file: Path, found: Mapping[str, Mapping[str, Any]]) -> None:
    """Measures by metric, side by side; below, one table for each metric and kind of class."""
    measures = [name for name, value in next(iter(found.values())).items() if not isinstance(value, dict)]
    print(file)
    print(_table(["", *found], [[name, *(_cell(result[name]) for result in found.values())] for name in measures]))
    for metric, result in found.items():
        for kind in ("classes", "super_classes"):
            if kind in result:
                rows = [[name, *map(_cell, row.values())] for name, row in result[kind].items()]
                print(f"\n{kind.replace('_', '-')}, {metric}")
                print(_table(["", *next(iter(result[kind].values()))], rows))


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their longest entry, whatever the terminal: the first to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for name, *cells in (header, *rows):
        right = (f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True))
        lines.append("  ".join([f"{name:<{widths[0]}}", *right]))
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.4f}"

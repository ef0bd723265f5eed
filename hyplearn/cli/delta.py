"""`hyplearn delta`: how far data, or what a network makes of them, are from a tree."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyplearn.cli.parser import Parser, at_least, file_ending_in, list_of
from hyplearn.errors import OK, ConfigError
from hyplearn.inference.delta import FILES, SMOKE, Asked, Row, kind_of, measured
from hyplearn.runs.writing import writing

if TYPE_CHECKING:
    pass

FEATURES = ("pixels", "stages", "backbone", "embedding")
SPLITS = ("train", "test")

DESCRIPTION = """
Gromov's delta-hyperbolicity, relative to the diameter: 0 for a tree, near 1 for no hierarchy at all.
Exact for each draw of points, seen from the first of them. For
  a data set   the pixels of its training images
  a run        pixels; of a classifier the pooled features of the stem and of each stage, and what
               its head sees; of a retrieval model the backbone's features and the embedding. Points
               on a manifold are compared by its distance, all others by |x - y|
  a file       stored embeddings, each space under its own distance (the angle on the sphere), and
               stored features of the backbone"""
REMARKS = """
c suggested: (0.144 / delta_rel)^2 by 2 delta / diameter (Khrulkov et al.). HECNN makes those stages
Lorentz whose delta_rel is below 0.2. A draw of 1500 points takes 0.3 s on one core, of twice the
points 8 times that; memory is about 4 samples^2 numbers of 8 bytes."""


def delta_parser() -> Parser:
    """Make the parser of the command."""
    parser = Parser(
        "delta",
        DESCRIPTION,
        needs="a data set, a run or a file of embeddings",
        examples="""
hyplearn delta digits fashion_mnist --plot delta.png
hyplearn delta outputs/hecnn_r18_cifar10/2025-01-31_12-00-00_seed1_ab12 --features stages
hyplearn delta outputs/hyp_vit_s_cub/.../embeddings/test.npz --json""",
        more=REMARKS,
    )
    parser.add_argument(
        "sources",
        nargs="+",
        complete="words",
        help="data sets, runs, files; and key=value of the data: dataset.root=/data, dataset.limit_train=5000, ...",
    )
    parser.add_argument(
        "--features",
        type=list_of(FEATURES),
        metavar="LIST",
        help=f"{', '.join(FEATURES)}; by default all that there are",
    )
    parser.add_argument("--split", choices=SPLITS, default="train", help="images of a data set or run; %(default)s")
    parser.add_argument(
        "--samples", type=at_least(4), default=1500, help="points in a draw, without replacement; %(default)s"
    )
    parser.add_argument("--draws", type=at_least(1), default=10, help="%(default)s")
    parser.add_argument(
        "--convention",
        choices=["relative", "half"],
        default="relative",
        help="relative: 2 delta / diameter, in [0, 1]; half: delta / diameter, as some of the published code",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draws; %(default)s")
    parser.add_trust()
    parser.add_argument(
        "--plot",
        type=file_ending_in(".png"),
        metavar="FILE.png",
        help="bars with the standard deviation of the draws, beside the values the paper prints",
    )
    parser.add_argument(
        "--json", action="store_true", help="one JSON object instead of a table, with both conventions and every draw"
    )
    return parser


def delta(argv: Sequence[str]) -> int:
    """Measure and print. Raises ConfigError; DatasetError for data that are not there."""
    options = delta_parser().parse_intermixed_args(list(argv))
    asked = Asked(options.features, options.split, options.samples, options.draws, options.seed, options.trust)
    sources = [text for text in options.sources if "=" not in text]
    overrides = [text for text in options.sources if "=" in text]
    _check(sources, overrides, options)
    with writing(options.plot):
        rows: list[Row] = []
        for source in sources:
            rows += measured(source, overrides, asked)
        print(json.dumps(_answer(rows, options), indent=2, allow_nan=False) if options.json else _table(rows, options))
        if options.plot is not None:
            from hyplearn.plots.delta import draw_delta

            bars = {_shown(sources, row): row.found for row in rows}
            for path in draw_delta(options.plot, bars, convention=options.convention):
                print(f"written to {path}", file=sys.stderr)
        return OK


# What is asked for


def _check(sources: Sequence[str], overrides: Sequence[str], options: argparse.Namespace) -> None:
    """What can be told before anything is read or imported."""
    if not sources:
        raise ConfigError("hyplearn delta needs a data set, a run or a file of embeddings (see hyplearn delta --help)")
    for text in overrides:
        if not text.lstrip("+").startswith("dataset."):
            raise ConfigError(f"{text} would be ignored: delta reads keys of the data, such as dataset.root=/data.")
    for source in sources:
        kind = kind_of(source)
        if kind == "file" and overrides:
            raise ConfigError(f"{overrides[0]} would be ignored: {source} is a file of embeddings.")
        if kind == "dataset" and set(options.features or ()) - {"pixels"}:
            asked = ",".join(options.features)
            raise ConfigError(
                f"--features {asked} with the data set {source}: without a model there are only pixels; name a run."
            )


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

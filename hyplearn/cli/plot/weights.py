"""`hyplearn plot weights`: which negatives the loss listens to (Yue Fig. 3)."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyplearn.cli.parser import at_least
from hyplearn.cli.plot.arguments import FigureParser, tell, titled
from hyplearn.errors import OK, ConfigError
from hyplearn.runs.writing import writing

if TYPE_CHECKING:
    from hyplearn.evaluation.store import Stored


def weights(argv: Sequence[str]) -> int:
    """Draw, and print the largest weights. Raises ConfigError."""
    options = weights_parser().parse_intermixed_args(list(argv))
    with writing(options.output):
        from hyplearn.inference.test_embeddings import run_config

        configs = [run_config(run) for run in options.runs]
        batches = _batches(options, configs)
        anchors = _anchors(batches, options)
        from hyplearn.plots.weights import draw_weights

        title = titled("Weights of negatives in the last training batch", configs)
        tell(draw_weights(options.output / "weights.png", batches, anchors, title=title))
        return OK


def weights_parser() -> FigureParser:
    """Make the parser of the command."""
    parser = FigureParser(
        "weights",
        """
p(x-) of Yue Eq. 9: the weights that the pairwise loss gives the negatives of an anchor in its gradient, by ascending
distance. From the last training batch, which a run with evaluation.hard_negatives=true keeps; distances, temperature
and weights of spaces are those of training. A line for each run, a panel for each anchor, and one for the mean over all
anchors of the batch. The positive of an anchor is the next image of its class in the batch. Yue Fig. 3 shows a largest
weight of about 0.46 at temperature 0.05, on other data.
  weights.png, weights.csv (ids, labels, distances, weights)""",
        needs="runs",
        examples="""
python train.py -m model=sph_vit_s,hyp_vit_s loss.tau=0.05,0.2 evaluation.hard_negatives=true
hyplearn plot weights outputs/multirun/2026-11-26_08-58-30_4jobs_ba89/*/""",
    )
    parser.add_runs("run directories")
    parser.add_argument(
        "--anchors",
        type=at_least(1),
        default=3,
        help="training images drawn from those that the batches of all runs hold; %(default)s",
    )
    parser.add_argument(
        "--query",
        type=int,
        action="append",
        metavar="ID",
        help="this training image; may be given several times, in place of --anchors",
    )
    parser.add_argument("--names", nargs="+", help="of the runs; by default the settings in which they differ")
    parser.add_output("%(default)s")
    parser.add_seed("of the choice of anchors")
    return parser


def _batches(options: argparse.Namespace, configs: Sequence[Mapping[str, Any]]) -> dict[str, Stored]:
    """Read the batches, by the names of their runs. Raises ConfigError."""
    from hyplearn.plots.run_names import distinct_names
    from hyplearn.runs.directory import RunDirectory

    paths = [RunDirectory.locate(run).last_batch for run in options.runs]
    for path in paths:
        if not path.exists():
            raise ConfigError(
                f"{path} does not exist: a run keeps its last training batch after an epoch with "
                "evaluation.hard_negatives=true."
            )
    names = options.names or distinct_names(configs)
    if len(set(names)) != len(paths):
        raise ConfigError(f"--names must be {len(paths)} different names, one for each run.")
    loaded = [_load(path) for path in paths]
    return dict(zip(names, loaded, strict=True))


def _load(path: Path) -> Stored:
    from hyplearn.evaluation import store
    from hyplearn.plots.weights import check

    try:
        batch = store.load(path)
        check(batch)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    if batch.metrics is None:
        raise ConfigError(f"{path} names no metric: it is no batch that a run kept.")
    return batch


def _anchors(batches: Mapping[str, Stored], options: argparse.Namespace) -> list[int]:
    """Ids of training images that every batch holds. Raises ConfigError."""
    import torch

    shared = sorted(set.intersection(*(set(batch.ids.tolist()) for batch in batches.values())))
    if options.query:
        for identity in options.query:
            if identity not in shared:
                raise ConfigError(f"--query {identity} is not in the batch of every run: those are {_few(shared)}.")
        return list(options.query)
    if not shared:
        raise ConfigError(
            "the last batches of these runs have no image in common: name runs of one seed and data set, or one run."
        )
    generator = torch.Generator().manual_seed(options.seed)
    return [shared[i] for i in torch.randperm(len(shared), generator=generator)[: options.anchors].tolist()]


def _few(identities: Sequence[int]) -> str:
    if not identities:
        return "none"
    return ", ".join(map(str, identities[:20])) + (", ..." if len(identities) > 20 else "")

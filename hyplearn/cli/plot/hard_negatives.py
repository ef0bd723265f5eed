"""`hyplearn plot hard-negatives`: which images of other classes two models find nearest (Yue Fig. 1)."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from hyplearn.cli.parser import at_least, folder
from hyplearn.cli.plot.arguments import FigureParser, tell, titled
from hyplearn.errors import OK, ConfigError
from hyplearn.runs.writing import writing

if TYPE_CHECKING:
    from hyplearn.evaluation.store import Stored
    from hyplearn.plots.hard_negatives import Compared


def hard_negatives(argv: Sequence[str]) -> int:
    """Draw, write the page, and say how much the lists share. Raises ConfigError."""
    options = hard_negatives_parser().parse_intermixed_args(list(argv))
    if len(options.runs) != 2:
        raise ConfigError(
            f"hyplearn plot hard-negatives compares two runs, {len(options.runs)} given (see hyplearn plot "
            "hard-negatives --help)"
        )
    with writing(options.output):
        from hyplearn.inference.test_embeddings import embeddings_of, retrieval_data, run_config
        from hyplearn.plots.hard_negatives import compare

        configs = [run_config(run) for run in options.runs]
        names = _names(options, configs)
        _check_data(options.runs)
        data = retrieval_data(options.runs[0], options.dataset_root, trust=options.trust)
        first, second = (embeddings_of(run, data, trust=options.trust) for run in options.runs)
        _check_images(first, second, len(data.ids("test")), options.runs)
        try:
            found = compare(first, second, nearest=options.negatives, seed=options.seed)
        except ValueError as error:
            raise ConfigError(f"--negatives {error}") from error
        title = titled("Nearest test images of other classes", configs)
        written = _write(
            options,
            (title, names),
            (first, second),
            found,
            lambda rows: data.thumbnails("test", first.ids[rows]),
        )
        tell(written)
        return OK


def hard_negatives_parser() -> FigureParser:
    """Make the parser of the command."""
    parser = FigureParser(
        "hard-negatives",
        """
For chosen anchors the nearest test images of other classes under the trained metric of each of two retrieval runs, the
nearest first, with class and distance. Images that the list of the other model lacks are framed and marked. Both runs
must have been tested on the same images. Embeddings are those that a run stored, else its model computes them.

128 queries are drawn at random, and those whose two lists share fewest images are shown: pictures of the difference,
not of the average, which is printed for all that were drawn.
  hard_negatives.png    the picture
  hard_negatives.html   one page that needs no other file
  hard_negatives.json   ids, labels, paths, distances""",
        needs="two runs to compare",
        examples="""
hyplearn plot hard-negatives outputs/sph_vit_s_cub/... outputs/hyp_vit_s_cub/... --names Sph Hyp""",
    )
    parser.add_runs("two run directories")
    parser.add_argument("--queries", type=at_least(1), default=6, help="anchors; %(default)s")
    parser.add_argument("--negatives", type=at_least(1), default=6, help="images of each list; %(default)s")
    parser.add_argument("--names", nargs=2, help="of the models; by default the settings in which the runs differ")
    parser.add_argument(
        "--dataset-root",
        type=folder,
        metavar="DIR",
        help="where the images are, in place of dataset.root of the first run",
    )
    parser.add_trust()
    parser.add_output("%(default)s")
    parser.add_seed("of the choice of anchors")
    return parser


def _names(options: argparse.Namespace, configs: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    if options.names:
        return options.names[0], options.names[1]
    from hyplearn.plots.run_names import distinct_names

    first, second = distinct_names(configs)
    return first, second


def _check_data(runs: Sequence[Path]) -> None:
    """Raise ConfigError where the results of the runs say that they were tested on other images."""
    from hyplearn.runs.directory import RunDirectory

    prints = [RunDirectory.locate(run).results.get("dataset", {}).get("sha256", {}).get("test") for run in runs]
    if None not in prints and prints[0] != prints[1]:
        raise ConfigError(
            f"{runs[0]} and {runs[1]} were tested on other images ({prints[0][:12]} and {prints[1][:12]}): hard "
            "negatives are compared on the same ones."
        )


def _check_images(first: Stored, second: Stored, images: int, runs: Sequence[Path]) -> None:
    same = first.ids.tolist() == second.ids.tolist() and first.labels.tolist() == second.labels.tolist()
    if not same or (first.paths or ()) != (second.paths or ()):
        raise ConfigError(
            f"{runs[0]} and {runs[1]} hold embeddings of other images: compare runs of the same test data."
        )
    if int(first.ids.max()) >= images:
        raise ConfigError(f"{runs[0]} holds embeddings of {len(first.ids)} images, the data set has {images} now.")


def _write(
    options: argparse.Namespace,
    titled: tuple[str, tuple[str, str]],
    stored: tuple[Stored, Stored],
    found: Sequence[Compared],
    pictures: Any,
) -> list[Path]:
    from hyplearn.plots.gallery_page import write_page
    from hyplearn.plots.hard_negatives import draw_hard_negatives

    title, names = titled
    shown = found[: options.queries]
    share = mean(one.shared for one in found)
    print(
        f"{share:.2f} of {options.negatives} images are in both lists, mean of {len(found)} anchors drawn at random; "
        f"{mean(one.shared for one in shown):.2f} of those shown"
    )
    first, second = stored
    captions = [_caption(first, label) for label in first.labels.tolist()]
    metrics = (str(first.embeddings), str(second.embeddings))
    facts = [
        (name, f"{run}, compared by {metric}") for name, run, metric in zip(names, options.runs, metrics, strict=True)
    ]
    facts.append(("in both lists", f"{share:.2f} of {options.negatives}, mean of {len(found)} anchors drawn at random"))
    facts.append(("shown", f"the {len(shown)} of these whose lists share fewest, seed {options.seed}"))
    data = {
        "facts": dict(facts),
        "mean_shared": share,
        "anchors": [_record(one, names, first, captions) for one in shown],
    }
    path = options.output / "hard_negatives.png"
    written = draw_hard_negatives(path, shown, names, metrics, captions, pictures, data, title=title)
    ids = first.ids.tolist()
    return [*written, write_page(path.with_suffix(".html"), shown, names, captions, ids, pictures, facts, title=title)]


def _caption(stored: Stored, label: int) -> str:
    return f"class {label}" if stored.class_names is None else stored.class_names[label]


def _record(one: Compared, names: tuple[str, str], stored: Stored, captions: Sequence[str]) -> dict[str, Any]:
    def image(position: int) -> dict[str, Any]:
        path = {} if stored.paths is None else {"path": stored.paths[position]}
        label = int(stored.labels[position])
        return {"id": int(stored.ids[position]), "label": label, "class": captions[position], **path}

    lists = {
        name: [{**image(n.position), "distance": n.distance, "only_here": n.only} for n in negatives]
        for name, negatives in zip(names, one.lists, strict=True)
    }
    return {**image(one.anchor), "shared": one.shared, "negatives": lists}

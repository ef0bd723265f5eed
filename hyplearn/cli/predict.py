"""`hyplearn predict` and `hyplearn embed`: a trained model on a folder of images."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hyplearn.cli.parser import Parser, at_least
from hyplearn.errors import OK, ConfigError
from hyplearn.runs.writing import writing

if TYPE_CHECKING:
    from hyplearn.data.outside_images import Found
    from hyplearn.evaluation.store import Stored
    from hyplearn.inference.open import Opened
    from hyplearn.inference.prediction import Results

PREDICT = """
A classifier names the most probable classes of each image: rows of path, rank, class, probability;
images in folders that are named as its classes are counted as right or wrong. A retrieval model names
the nearest gallery images: rows of path, rank, image, class, distance; the gallery is that of the
run's test (embeddings/test.npz), or any file of `hyplearn embed`."""
EMBED = """
Write the embeddings of images, their geometry and their paths, for `hyplearn recall` and `hyplearn
predict --gallery`. The first folder of an image's path is its class. An image in no folder is a class
of its own."""
IMAGES = """
Images are seen as the run's own test images are: upright, in the channels of the run, resized and
cropped as its test was. A folder is searched at any depth for .jpg, .png, .tif, .webp and the like."""

TABLE = "-"  # as --output: the table itself, instead of a file


def predict(argv: Sequence[str]) -> int:
    """Write the classes or neighbours of images. Raises ConfigError; DatasetError for images that cannot be read."""
    options = predict_parser().parse_intermixed_args(list(argv))
    _check(options, "predict", suffixes=(".csv",))
    with writing(None if str(options.output) == TABLE else options.output):
        found, opened = _open(options)
        _check_kind(options, opened)
        from hyplearn.inference.open import load_gallery

        rows = _neighbours if opened.model.retrieval else _classes
        gallery = load_gallery(opened, options.gallery) if opened.model.retrieval else None
        results = _apply(options, opened, found)
        text = _table(rows(options, opened, found, results, gallery))
        if str(options.output) == TABLE:
            print(text, end="")
        else:
            from hyplearn.runs.atomic import write_text

            write_text(options.output, text)
            print(f"{_counted(len(results.positions))}; {opened.selection}; written to {options.output}")
            _tell_accuracy(opened, found, results)
        return OK


def embed(argv: Sequence[str]) -> int:
    """Write the embeddings of images. Raises ConfigError; DatasetError for images that cannot be read."""
    options = embed_parser().parse_intermixed_args(list(argv))
    _check(options, "embed", suffixes=(".npz", ".safetensors"))
    with writing(options.output):
        found, opened = _open(options)
        results = _apply(options, opened, found)
        from hyplearn.data.outside_images import class_folders
        from hyplearn.evaluation import store
        from hyplearn.models.digest import weights_digest

        names = [found.names[index] for index in results.positions.tolist()]
        classes = class_folders(names)
        npz, safetensors = store.save(
            options.output,
            opened.model.embeddings(results.outputs.points),
            classes.labels,
            backbone=results.outputs.features,
            class_names=classes.names,
            paths=names,
            selection=opened.selection,
            weights=weights_digest(opened.model.model),
        )
        metric = opened.model.embeddings([x[:1] for x in results.outputs.points])
        print(f"{_counted(len(names))}, {metric}; {opened.selection}; written to {npz} and {safetensors}")
        if classes.in_folders == 0:
            print("no image lies in a folder of a class: each is a class of its own, and there is no recall to measure")
        elif classes.in_folders < len(names):
            print(f"{len(names) - classes.in_folders} of them lie in no folder: each is a class of its own")
        return OK


def predict_parser() -> Parser:
    """Make the parser of `hyplearn predict`."""
    parser = Parser(
        "predict",
        PREDICT,
        needs="a run and images: hyplearn predict outputs/... photos",
        examples="""
hyplearn predict outputs/hecnn_r18_cifar10/2025-01-31_12-00-00_seed1_ab12 photos --top 1
hyplearn predict outputs/.../checkpoints/last.ckpt a.jpg b.png --output -
hyplearn predict outputs/hyp_vit_s_cub/... new_birds --k 10 --gallery birds.npz""",
        more=IMAGES,
    )
    parser.add_argument("--top", type=at_least(1), help="classifier: classes for each image; 5")
    parser.add_argument("--k", type=at_least(1), help="retrieval: neighbours for each image; 5")
    parser.add_argument("--gallery", type=Path, help="retrieval: embeddings to search in")
    _add_shared(parser, Path("predictions.csv"), "a table of comma-separated values, or - for the terminal")
    return parser


def embed_parser() -> Parser:
    """Make the parser of `hyplearn embed`."""
    parser = Parser(
        "embed",
        EMBED,
        needs="a run and images: hyplearn embed outputs/... photos",
        examples="""
hyplearn embed outputs/hyp_vit_s_cub/2025-01-31_12-00-00_seed1_ab12 birds --output birds.npz
hyplearn recall birds.npz --k 1,10""",
        more=IMAGES,
    )
    _add_shared(parser, Path("embeddings.npz"), "a .safetensors of the same content is written beside it")
    return parser


def _add_shared(parser: Parser, output: Path, about: str) -> None:
    """Add what the two commands have in common. about: what is written."""
    parser.add_argument(
        "run",
        type=Path,
        help="a run directory (its tested checkpoint), a checkpoint, or a folder of `hyplearn export`",
    )
    parser.add_argument("images", nargs="+", type=Path, help="folders or images")
    parser.add_trust()
    parser.add_argument("--output", type=Path, default=output, help=f"{about}; %(default)s")
    parser.add_argument(
        "--batch-size", type=at_least(1), help="images at once; by default dataset.eval_batch_size of the run"
    )
    parser.add_argument("--device", choices=["auto", "cpu", "gpu"], default="auto", help="%(default)s")
    parser.add_argument(
        "--skip-unreadable",
        action="store_true",
        help="leave out files that cannot be read, and name them at the end; without it they stop the command",
    )


def _check(options: argparse.Namespace, command: str, *, suffixes: Sequence[str]) -> None:
    """What can be told before anything is read."""
    output = options.output
    if output.suffix not in suffixes and (str(output) != TABLE or command == "embed"):
        raise ConfigError(f"--output {output} must end in {' or '.join(suffixes)}.")
    if output.is_dir():
        raise ConfigError(f"--output {output} is a folder: name a file in it.")


def _open(options: argparse.Namespace) -> tuple[Found, Opened]:
    """The images by name, and the model. Where the run is wrong, that is told first."""
    from hyplearn.config.stored import check
    from hyplearn.inference.open import open_trained
    from hyplearn.runs.directory import RunDirectory

    record = RunDirectory.locate(options.run)
    check(record.config, record.config_file, trust=options.trust)  # before torch is imported
    from hyplearn.data.errors import DatasetError
    from hyplearn.data.outside_images import find_images

    try:
        found = find_images(options.images)
    except DatasetError as error:  # what was typed names no image
        raise ConfigError(f"{error}.") from error
    return found, open_trained(options.run, device=options.device, trust=options.trust)


def _check_kind(options: argparse.Namespace, opened: Opened) -> None:
    """Raise ConfigError for options of the other kind of model."""
    if opened.model.retrieval and options.top is not None:
        raise ConfigError(f"--top {options.top} is for a classifier, {options.run} is a retrieval model: use --k.")
    for name in ("k", "gallery"):
        if not opened.model.retrieval and getattr(options, name) is not None:
            raise ConfigError(f"--{name} is for a retrieval model, {options.run} is a classifier: leave it out.")


def _apply(options: argparse.Namespace, opened: Opened, found: Found) -> Results:
    from hyplearn.console.counting import counting
    from hyplearn.inference.prediction import apply, listed

    if found.others:
        print(f"{len(found.others)} files that are no images by their names are left out, as {found.others[0]}")
    with counting("images") as progress:
        results = apply(
            opened.model,
            found.paths,
            batch_size=options.batch_size or opened.data.eval_batch_size,
            skip_unreadable=options.skip_unreadable,
            progress=progress,
        )
    if results.bad:
        print(
            f"{len(results.bad)} of {len(found.paths)} images cannot be read and are left out:\n{listed(results.bad)}"
        )
    return results


def _classes(
    options: argparse.Namespace, opened: Opened, found: Found, results: Results, gallery: Stored | None
) -> Iterator[Sequence[str]]:
    """Header and rows of a classifier's predictions."""
    assert results.outputs.logits is not None
    probabilities, labels = results.outputs.logits.softmax(-1).topk(
        min(options.top or 5, results.outputs.logits.shape[1])
    )
    names = opened.model.class_names
    yield "path", "rank", "class", "probability"
    for position, shares, classes in zip(results.positions.tolist(), probabilities, labels, strict=True):
        for rank, (share, label) in enumerate(zip(shares.tolist(), classes.tolist(), strict=True), 1):
            yield found.names[position], str(rank), str(label) if names is None else names[label], f"{share:.6f}"


def _neighbours(
    options: argparse.Namespace, opened: Opened, found: Found, results: Results, gallery: Stored | None
) -> Iterator[Sequence[str]]:
    """Header and rows of a retrieval model's neighbours."""
    from hyplearn.evaluation.neighbours import neighbours

    assert gallery is not None
    offered = gallery.gallery.nonzero().squeeze(1)
    query = opened.model.embeddings(results.outputs.points)
    if [x.shape[1] for x in query.points] != [x.shape[1] for x in gallery.points]:
        raise ConfigError("the gallery has embeddings of another size than the model makes.")
    near = neighbours(query, gallery.embeddings.select(offered), min(options.k or 5, len(offered)))
    yield "path", "rank", "image", "class", "distance"
    for position, indices, distances in zip(results.positions.tolist(), near.indices, near.distances, strict=True):
        rows = zip(offered[indices].tolist(), distances.tolist(), strict=True)
        for rank, (row, distance) in enumerate(rows, 1):
            label = int(gallery.labels[row])
            yield (
                found.names[position],
                str(rank),
                f"id {int(gallery.ids[row])}" if gallery.paths is None else gallery.paths[row],
                str(label) if gallery.class_names is None else gallery.class_names[label],
                f"{distance:.6g}",
            )


def _table(rows: Iterator[Sequence[str]]) -> str:
    from hyplearn.runs import spreadsheet

    return spreadsheet.table(rows)


def _tell_accuracy(opened: Opened, found: Found, results: Results) -> None:
    """Says how many images in folders of the classifier's classes are right, if there are such."""
    names, logits = opened.model.class_names, results.outputs.logits
    if names is None and not opened.model.retrieval:
        print("the names of the classes are in the data set, which is not here: classes are numbers")
    if names is None or logits is None:
        return
    right = []
    for position, label in zip(results.positions.tolist(), logits.argmax(-1).tolist(), strict=True):
        classes = [part for part in found.names[position].split("/")[:-1] if part in names]
        right += [classes[-1] == names[label]] if classes else []
    if right:
        share = 100 * sum(right) / len(right)
        print(f"{sum(right)} of {len(right)} images in folders of its classes are right, {share:.2f} %")


def _counted(count: int) -> str:
    return f"{count:,} image" + ("s" if count != 1 else "")

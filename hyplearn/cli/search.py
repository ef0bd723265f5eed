"""`hyplearn search`: the pictures of a folder or an index that are nearest to pictures of the user's own."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hyplearn.cli.parser import Parser, at_least
from hyplearn.errors import OK, ConfigError
from hyplearn.runs.writing import writing

if TYPE_CHECKING:
    from PIL import Image

    from hyplearn.data.outside_images import Found
    from hyplearn.inference.embedding_cache import Embedded
    from hyplearn.inference.open import Opened
    from hyplearn.inference.searching import Answer, Gallery
    from hyplearn.plots.search_sheet import Row

DESCRIPTION = """
Print the nearest pictures under the metric that the model was trained with: of the sphere, the ball, the
hyperboloid, Euclidean space, or the weighted sum of several. With --output a folder is written as well:
  neighbours.csv       rows of query, rank, image, class, distance, known
  sheet.png            a contact sheet: a row for each query, itself on the left
  index.html           the same as a page that needs no other file
A picture that the same weights have seen before is not embedded again, whatever it is called."""
ON_SHEET = 50  # queries
AUTO = "auto"


def search(argv: Sequence[str]) -> int:
    """Print and write neighbours. Raises ConfigError; DatasetError for images that cannot be read."""
    options = search_parser().parse_intermixed_args(list(argv))
    _check(options)
    with writing(options.output):
        opened = open_model(options)
        found = _images(options.images)
        gallery = open_gallery(options, opened)
        queries = _embedded(options, opened, found, "images")
        return _answer(options, opened, found, queries, gallery)


def search_parser() -> Parser:
    """Make the parser of the command."""
    parser = Parser(
        "search",
        DESCRIPTION,
        needs="a run and pictures: hyplearn search outputs/... bird.jpg --in photos",
        examples="""
hyplearn search outputs/hyp_vit_s_cub/2025-01-31_12-00-00_seed1_ab12 bird.jpg --in photos
hyplearn search models/birds new --in photos --k 8 --output found
hyplearn search models/birds new --open-set auto""",
        more="Images are seen as the run's own test images are. The first folder of an image's name is its class.",
    )
    parser.add_argument("run", type=Path, help="a run directory, a checkpoint, or a folder of `hyplearn export`")
    parser.add_argument("images", nargs="+", type=Path, help="pictures to search for, or folders of them")
    parser.add_argument(
        "--in",
        dest="place",
        type=Path,
        help="a folder of pictures, an export with an index, a run (its test), or a file of `hyplearn embed`; by "
        "default the index of the export, or the run's test",
    )
    parser.add_argument("--k", type=at_least(1), default=5, help="neighbours for each picture; %(default)s")
    parser.add_argument(
        "--open-set",
        type=threshold,
        metavar="DISTANCE",
        help="a picture without a neighbour within this distance is called unknown; auto: the distance within which "
        "95 %% of the gallery's pictures have another one of their class",
    )
    parser.add_argument("--output", type=Path, help="the folder to write")
    parser.add_argument(
        "--pictures", type=Path, help="with an index: the folder in which its pictures lie, to show them"
    )
    parser.add_trust()
    parser.add_argument("--batch-size", type=at_least(1), help="images at once; by default that of the run's test")
    parser.add_argument("--device", choices=["auto", "cpu", "gpu"], default="auto", help="%(default)s")
    parser.add_argument("--skip-unreadable", action="store_true", help="leave out files that cannot be read")
    return parser


def threshold(text: str) -> float | str:
    """Return the type of --open-set: a distance, or AUTO."""
    if text == AUTO:
        return AUTO
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} must be a distance from 0 on, or auto")
    return value


def _check(options: argparse.Namespace) -> None:
    """What can be told before anything is read."""
    output = options.output
    if output is not None and output.exists() and not output.is_dir():
        raise ConfigError(f"--output {output} is a file: name a folder.")
    check_places(options)


def check_places(options: argparse.Namespace) -> None:
    """Raise ConfigError for what is to be searched in and is not there."""
    place = options.place
    if place is not None and not place.exists():
        raise ConfigError(f"--in {place} does not exist: name a folder of pictures, an export or a file of embeddings.")
    if options.pictures is not None and not options.pictures.is_dir():
        raise ConfigError(
            f"--pictures {options.pictures} is no folder: name the one in which the gallery's pictures lie."
        )


def open_model(options: argparse.Namespace) -> Opened:
    """Return the model. Where the run is wrong, that is told before torch is imported."""
    from hyplearn.config.stored import check
    from hyplearn.inference.open import open_trained
    from hyplearn.runs.directory import RunDirectory

    record = RunDirectory.locate(options.run)
    check(record.config, record.config_file, trust=options.trust)
    return open_trained(options.run, device=options.device, trust=options.trust)


def _images(places: Sequence[Path]) -> Found:
    from hyplearn.data.errors import DatasetError
    from hyplearn.data.outside_images import find_images

    try:
        return find_images(places)
    except DatasetError as error:  # what was typed names no image
        raise ConfigError(f"{error}.") from error


def _gallery_files(options: argparse.Namespace) -> Found | None:
    """The pictures to search in, None for an index."""
    from hyplearn.runs.directory import RunDirectory
    from hyplearn.runs.names import GALLERY

    place = options.place
    if place is None or not place.is_dir():
        return None
    if any(path.is_file() for path in (place / GALLERY, RunDirectory(place).test_embeddings)):
        return None
    if (place / "model.safetensors").is_file():
        raise ConfigError(f"--in {place} is an export without a gallery: write it anew with hyplearn export --index.")
    return _images([place])


def open_gallery(options: argparse.Namespace, opened: Opened) -> Gallery:
    """Return what is to be searched in. Raises ConfigError."""
    from hyplearn.inference.open import load_gallery
    from hyplearn.inference.searching import of_files, of_stored
    from hyplearn.runs.directory import RunDirectory
    from hyplearn.runs.names import GALLERY

    files = _gallery_files(options)
    if files is not None:
        return of_files(files, _embedded(options, opened, files, "gallery"))
    place = options.place
    if place is not None and (place.is_dir() or place.suffix in (".faiss", ".json")):  # the index lies beside it
        folder = place if place.is_dir() else place.parent
        of_run = RunDirectory(folder).test_embeddings
        place = of_run if of_run.is_file() else folder / GALLERY
    return of_stored(load_gallery(opened, place), pictures=options.pictures)


def _embedded(options: argparse.Namespace, opened: Opened, found: Found, title: str) -> Embedded:
    from hyplearn.console.counting import counting
    from hyplearn.inference.embedding_cache import embed_files
    from hyplearn.inference.prediction import listed

    with counting(title) as progress:
        embedded = embed_files(
            opened,
            found.paths,
            batch_size=options.batch_size or opened.data.eval_batch_size,
            skip_unreadable=options.skip_unreadable,
            progress=progress,
        )
    if embedded.bad:
        print(f"{len(embedded.bad)} of {len(found.paths)} images are left out:\n{listed(embedded.bad)}")
    return embedded


def _answer(options: argparse.Namespace, opened: Opened, found: Found, queries: Embedded, gallery: Gallery) -> int:
    """Search, print and write."""
    from hyplearn.inference.searching import own_threshold, search

    threshold = own_threshold(gallery) if options.open_set == AUTO else options.open_set
    answers = search(queries.embeddings, queries.positions.tolist(), gallery, k=options.k, threshold=threshold)
    _print_table(found, answers, with_known=threshold is not None)
    about = f"{len(answers):,} searched among {len(gallery.names):,} under {gallery.embeddings}; {opened.selection}"
    if threshold is not None:
        unknown = sum(not answer.known for answer in answers)
        about += f"; {unknown} unknown, with nothing within {threshold:.4g}"
    print(about)
    if options.output is not None:
        _write(options.output, found, answers, gallery, about)
    return OK


def _print_table(found: Found, answers: Sequence[Answer], *, with_known: bool) -> None:
    from hyplearn.console.tables import show, table_of

    table = table_of("picture", right=["rank"], last=["image", "class", "distance", *(["known"] if with_known else [])])
    for answer in answers:
        for rank, hit in enumerate(answer.hits, 1):
            name = found.names[answer.position] if rank == 1 else ""
            known = ["yes" if hit.known else "no"] if with_known else []
            table.add_row(name, str(rank), hit.name, hit.label, f"{hit.distance:.5g}", *known)
    show(table)


def _write(folder: Path, found: Found, answers: Sequence[Answer], gallery: Gallery, about: str) -> None:
    """Write table, sheet and page, and say so."""
    from hyplearn.plots.search_sheet import draw_sheet, write_page
    from hyplearn.runs import spreadsheet
    from hyplearn.runs.atomic import write_text

    lines = [("path", "rank", "image", "class", "distance", "known")]
    for answer in answers:
        lines += [
            (
                found.names[answer.position],
                str(rank),
                hit.name,
                hit.label,
                f"{hit.distance:.6g}",
                str(hit.known).lower(),
            )
            for rank, hit in enumerate(answer.hits, 1)
        ]
    write_text(folder / "neighbours.csv", spreadsheet.table(lines))
    rows = [_row(answer, found, gallery) for answer in answers[:ON_SHEET]]
    draw_sheet(folder / "sheet.png", rows, title="Nearest pictures", about=about)
    write_page(folder / "index.html", rows, title="Nearest pictures", about=about)
    left_out = f"; the pictures show the first {ON_SHEET} of {len(answers)}" if len(answers) > ON_SHEET else ""
    print(f"written to {folder}: neighbours.csv, sheet.png, index.html{left_out}")


def _row(answer: Answer, found: Found, gallery: Gallery) -> Row:
    from hyplearn.plots.search_sheet import Row, Tile

    name = found.names[answer.position]
    tiles = [
        Tile(
            _picture(gallery.files.get(hit.row)),
            hit.label or hit.name,
            f"{hit.distance:.4g}",
            Path(hit.name).name,
            far=not hit.known,
        )
        for hit in answer.hits
    ]
    kind = "query" if answer.known else "unknown"
    query = Tile(_picture(found.paths[answer.position]), kind, "", Path(name).name)
    return Row(query, tiles, "" if answer.known else "nothing known is near enough")


def _picture(path: Path | None) -> Image.Image | None:
    """The picture, small enough to keep many; None where it is not here, or not readable any more."""
    from hyplearn.data.errors import BadImageError
    from hyplearn.data.reading.decoding import decode

    if path is None:
        return None
    try:
        picture = decode(path, channels=3)
    except BadImageError:
        return None
    picture.thumbnail((320, 320))
    return picture

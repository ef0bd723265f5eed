"""`hyplearn search`: the nearest pictures of pictures, in a folder, a file of embeddings or a model's own gallery."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hyplearn.cli.parser import Parser, at_least
from hyplearn.errors import OK, ConfigError
from hyplearn.runs.writing import writing

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from hyplearn.data.outside_images import Found as Files
    from hyplearn.inference.open import Opened
    from hyplearn.inference.picture_search import Found, Offered
    from hyplearn.inference.remembered import Embedded
    from hyplearn.plots.search_results import Row

DESCRIPTION = """
Find the nearest pictures of yours under the metric that the model was trained with. Written into a
folder: neighbours.csv, the contact sheet sheet.png, and page.html, which needs no other file.
Embeddings are remembered by the content of the pictures: what was searched once is not read again."""
IN = """where to look: a folder of pictures (the first folder of a path is its class), a file of
`hyplearn embed`, or a folder of `hyplearn export --index`; by default the gallery of the run's test or
of the export"""
SHOWN = 10  # queries that the terminal tells of
FILES = (".npz", ".safetensors")


def search(argv: Sequence[str]) -> int:
    """Write what was found. Raises ConfigError; DatasetError for pictures that cannot be read."""
    options = search_parser().parse_intermixed_args(list(argv))
    _check(options)
    with writing(options.output):
        from hyplearn.config.stored import check
        from hyplearn.runs.directory import RunDirectory

        record = RunDirectory.locate(options.run)
        check(record.config, record.config_file, trust=options.trust)  # before torch is imported
        from hyplearn.inference.open import open_trained

        asked = _files(options.pictures)
        place = _folder_of_pictures(options)
        searched = None if place is None else _files([place])
        opened = open_trained(options.run, device=options.device, trust=options.trust)
        offered = _offered(options, opened, searched)
        embedded = _embed(options, opened, asked, "queries")
        from hyplearn.inference.picture_search import search as nearest

        positions = embedded.positions.tolist()
        names = [asked.names[position] for position in positions]
        query = opened.model.embeddings(embedded.points)
        found = nearest(query, offered, k=options.k, open_set=options.open_set)
        about = f"{len(offered.names):,} pictures under {query}; {opened.selection}"
        rows = _rows(
            names,
            [asked.paths[position] for position in positions],
            found,
            offered,
            _pictures(options, opened, offered),
        )
        _write(options.output, rows, names, found, offered, about)
        _tell(options, names, found, offered, about)
        return OK


def search_parser() -> Parser:
    """Make the parser of the command."""
    parser = Parser(
        "search",
        DESCRIPTION,
        needs="a run and pictures: hyplearn search outputs/... photo.jpg --in photos",
        examples="""
hyplearn search outputs/search pictures/3 --in pictures --k 6
hyplearn search models/search new.jpg --open-set 0.5
hyplearn search outputs/.../checkpoints/last.ckpt new --in birds.npz --output found""",
        more="""
Pictures are seen as the run's own test images are. A picture that lies in the folder that is searched
finds itself first, at distance 0.""",
    )
    parser.add_argument(
        "run",
        type=Path,
        help="a run directory (its tested checkpoint), a checkpoint, or a folder of `hyplearn export`",
    )
    parser.add_argument("pictures", nargs="+", type=Path, help="what to look for: pictures, or folders of them")
    parser.add_argument("--in", dest="place", type=Path, help=IN)
    parser.add_argument("--k", type=at_least(1), default=5, help="how many of the nearest; %(default)s")
    parser.add_argument(
        "--open-set",
        type=float,
        metavar="DISTANCE",
        help="a picture whose nearest is farther than this is marked as unknown",
    )
    parser.add_argument("--output", type=Path, default=Path("search_results"), help="the folder; %(default)s")
    parser.add_argument("--forget", action="store_true", help="embed all pictures anew, and remember none")
    parser.add_argument(
        "--batch-size", type=at_least(1), help="images at once; by default dataset.eval_batch_size of the run"
    )
    parser.add_argument("--device", choices=["auto", "cpu", "gpu"], default="auto", help="%(default)s")
    parser.add_argument(
        "--skip-unreadable",
        action="store_true",
        help="leave out files that cannot be read, and name them; without it they stop the command",
    )
    parser.add_trust()
    return parser


def _check(options: argparse.Namespace) -> None:
    """What can be told before anything is read."""
    if options.output.exists() and not options.output.is_dir():
        raise ConfigError(f"--output {options.output} is a file: name a folder.")
    if options.open_set is not None and not 0 <= options.open_set < math.inf:
        raise ConfigError(f"--open-set {options.open_set:g} must be a distance: a finite number of at least 0.")
    place = options.place
    if place is not None and not place.exists():
        raise ConfigError(f"--in {place} does not exist: name a folder of pictures, or a file of hyplearn embed.")
    if place is not None and place.is_file() and place.suffix not in FILES:
        raise ConfigError(f"--in {place} must be a folder, or a file of embeddings ({' or '.join(FILES)}).")


def _files(places: Sequence[Path]) -> Files:
    from hyplearn.data.errors import DatasetError
    from hyplearn.data.outside_images import find_images

    try:
        return find_images(places)
    except DatasetError as error:  # what was typed names no image
        raise ConfigError(f"{error}.") from error


def _folder_of_pictures(options: argparse.Namespace) -> Path | None:
    """The folder to search whose pictures have no embeddings yet."""
    place: Path | None = options.place
    return None if place is None or place.is_file() or _gallery_file(place) is not None else place


def _gallery_file(place: Path) -> Path | None:
    """The gallery of an export, or of a run's test."""
    from hyplearn.runs.directory import RunDirectory
    from hyplearn.runs.names import GALLERY

    return next((path for path in (place / GALLERY, RunDirectory(place).test_embeddings) if path.is_file()), None)


def _embed(options: argparse.Namespace, opened: Opened, files: Files, what: str) -> Embedded:
    from hyplearn.console.counting import counting
    from hyplearn.inference.prediction import listed
    from hyplearn.inference.remembered import embed_files

    with counting(what) as progress:
        embedded = embed_files(
            opened,
            files.paths,
            batch_size=options.batch_size or opened.data.eval_batch_size,
            skip_unreadable=options.skip_unreadable,
            remember=not options.forget,
            progress=progress,
        )
    if embedded.bad:
        print(
            f"{len(embedded.bad)} of {len(files.paths)} {what} cannot be read and are left out:\n{listed(embedded.bad)}"
        )
    if embedded.remembered:
        print(f"{embedded.remembered:,} of {len(files.paths):,} {what} were known by their content")
    return embedded


def _offered(options: argparse.Namespace, opened: Opened, searched: Files | None) -> Offered:
    """What is searched. Raises ConfigError for a gallery of other weights."""
    from hyplearn.inference.open import load_gallery, own_gallery
    from hyplearn.inference.picture_search import offered_by_file, offered_by_folder

    if searched is not None:
        embedded = _embed(options, opened, searched, "pictures")
        kept = embedded.positions.tolist()
        names, files = ([part[position] for position in kept] for part in (searched.names, searched.paths))
        return offered_by_folder(opened.model.embeddings(embedded.points), names, files)
    if not opened.model.retrieval and options.place is None:
        raise ConfigError(f"{options.run} is a classifier, which has no gallery: name a folder of pictures with --in.")
    place = options.place
    named = _gallery_file(place) if place is not None and place.is_dir() else place
    stored = load_gallery(opened, named, option="--in")
    return offered_by_file(stored, named or own_gallery(opened))


def _pictures(options: argparse.Namespace, opened: Opened, offered: Offered) -> Callable[[int], Image | None]:
    """From a row of what is searched to its picture: its file, or for a run's own gallery what its data set has."""
    if any(offered.files) or opened.checkpoint is None or options.place is not None:
        return lambda row: None if offered.files[row] is None else _opened_picture(offered.files[row])
    from hyplearn.data.errors import DatasetError
    from hyplearn.evaluation import store
    from hyplearn.inference.open import own_gallery
    from hyplearn.inference.test_embeddings import retrieval_data

    try:
        data = retrieval_data(opened.folder, None, trust=options.trust)
    except (ConfigError, DatasetError, OSError):  # its files are not here
        return lambda row: None
    stored = store.load(own_gallery(opened))
    ids = stored.ids[stored.gallery.nonzero().squeeze(1)]
    return lambda row: _as_picture(data.thumbnails("test", ids[row : row + 1])[0])


def _opened_picture(path: Path | None) -> Image | None:
    from hyplearn.data.errors import BadImageError
    from hyplearn.data.reading.decoding import decode

    try:
        return None if path is None else decode(path, channels=3)
    except BadImageError:
        return None


def _as_picture(pixels: Tensor) -> Image:
    import PIL.Image

    return PIL.Image.fromarray((pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).numpy())


def _rows(
    names: Sequence[str],
    files: Sequence[Path],
    found: Sequence[Found],
    offered: Offered,
    picture: Callable[[int], Image | None],
) -> list[Row]:
    from functools import partial

    from hyplearn.plots.search_results import Row, Tile

    rows = []
    for name, file, one in zip(names, files, found, strict=True):
        query = Tile(partial(_opened_picture, file), name, mark="unknown" if one.known is False else "")
        hits = [
            Tile(
                partial(picture, row),
                offered.names[row],
                [*filter(None, [offered.classes[row]]), f"distance {far:.4g}"],
            )
            for row, far in one.hits
        ]
        rows.append(Row(query, hits))
    return rows


def _write(
    folder: Path, rows: list[Row], names: Sequence[str], found: Sequence[Found], offered: Offered, about: str
) -> None:
    from hyplearn.plots.search_results import draw_sheet, write_page
    from hyplearn.runs import spreadsheet
    from hyplearn.runs.atomic import write_text

    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "neighbours.csv", spreadsheet.table(_table(names, found, offered)))
    title = f"The nearest of {about}"
    draw_sheet(folder / "sheet.png", rows, title=title)
    write_page(
        folder / "page.html", rows, [f"Of {about}.", "Below each picture its distance."], title="The nearest pictures"
    )


def _table(names: Sequence[str], found: Sequence[Found], offered: Offered) -> Iterator[Sequence[str]]:
    yield "path", "rank", "image", "class", "distance", "known"
    for name, one in zip(names, found, strict=True):
        known = {None: "", True: "yes", False: "no"}[one.known]
        for rank, hit in enumerate(one.hits, 1):
            row = hit.row
            yield name, str(rank), offered.names[row], offered.classes[row] or "", f"{hit.distance:.6g}", known


def _tell(
    options: argparse.Namespace, names: Sequence[str], found: Sequence[Found], offered: Offered, about: str
) -> None:
    """The nearest of the first queries, and where the rest is."""
    print(f"{about}")
    width = min(40, max(map(len, names[:SHOWN])))
    for name, one in zip(names[:SHOWN], found, strict=False):
        hits = ", ".join(f"{offered.names[hit.row]} ({hit.distance:.3g})" for hit in one.hits[:3])
        print(f"  {name:<{width}}  {'unknown: ' if one.known is False else ''}{hits}")
    if len(names) > SHOWN:
        print(f"  and {len(names) - SHOWN:,} more")
    unknown = sum(one.known is False for one in found)
    if options.open_set is not None:
        print(f"{unknown} of {len(found)} are unknown: their nearest is farther than {options.open_set:g}")
    print(f"written to {options.output}: neighbours.csv, sheet.png, page.html")
